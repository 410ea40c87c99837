"""The HTTP paths of vLLM that clients may use, and what each needs of a model. Pure.

Gateways route these paths and no others, and engines accept no others from NATS: vLLM has more,
which profile it, change its weights or its adapters. Source: vllm/entrypoints, version 0.32.
"""

from collections.abc import Collection
from typing import Literal, TypeAlias

from msgspec import Struct

from nebula.events.values import Task

Dialect: TypeAlias = Literal["openai", "responses", "anthropic"]
"""In which form a client of a path expects errors, also amid a stream."""

GENERATION = frozenset({"generate", "transcription", "realtime"})
POOLING = frozenset({"embed", "classify", "token_embed", "token_classify", "plugin"})
"""The tasks of vLLM's two runners, by vLLM's own names (vllm/tasks.py)."""

_SCORING = frozenset({"embed", "classify", "token_embed"})
_GENERATE = frozenset({"generate"})


class Endpoint(Struct, frozen=True):
    """One path, which takes POST.

    `tasks`: a model serves the path if it has one of these. `inputs`: fields of the body of which
    one is required, the most common first. `streams`: whether `stream` makes the answer a stream of
    events. `computes`: whether the engine's core works on it, not only its HTTP server. `form`:
    whether the body is a form with a file, not JSON.
    """

    path: str
    tasks: frozenset[str]
    inputs: tuple[str, ...] = ()
    dialect: Dialect = "openai"
    streams: bool = False
    computes: bool = True
    form: bool = False


_TABLE = (
    Endpoint("/v1/chat/completions", _GENERATE, ("messages",), streams=True),
    Endpoint("/v1/chat/completions/batch", _GENERATE, ("messages",)),
    Endpoint("/v1/completions", _GENERATE, ("prompt", "prompt_embeds"), streams=True),
    Endpoint("/v1/responses", _GENERATE, ("input",), "responses", streams=True),
    Endpoint("/v1/messages", _GENERATE, ("messages",), "anthropic", streams=True),
    Endpoint("/v1/messages/count_tokens", _GENERATE, ("messages",), "anthropic", computes=False),
    Endpoint("/generative_scoring", _GENERATE, ("query",)),
    Endpoint("/v1/embeddings", frozenset({"embed"}), ("input", "messages")),
    Endpoint("/v2/embed", frozenset({"embed"}), ("texts", "images", "inputs")),
    Endpoint("/pooling", POOLING, ("input", "messages", "data")),
    Endpoint("/classify", frozenset({"classify"}), ("input", "messages")),
    *(
        Endpoint(path, _SCORING, ("text_1", "queries", "data_1"))
        for path in ("/score", "/v1/score")
    ),
    *(Endpoint(path, _SCORING, ("query",)) for path in ("/rerank", "/v1/rerank", "/v2/rerank")),
    *(
        Endpoint(path, frozenset({"transcription"}), ("file",), streams=True, form=True)
        for path in ("/v1/audio/transcriptions", "/v1/audio/translations")
    ),
    Endpoint("/tokenize", GENERATION | POOLING, ("prompt", "messages"), computes=False),
    Endpoint("/detokenize", GENERATION | POOLING, ("tokens",), computes=False),
)

ENDPOINTS: dict[str, Endpoint] = {endpoint.path: endpoint for endpoint in _TABLE}

REALTIME = Endpoint("/v1/realtime", frozenset({"realtime"}), computes=False)
"""The one path of sessions, which are WebSockets and not POST. The engine's core has work only for
parts of a session, so that its silence amid one proves nothing."""

CHAT = ENDPOINTS["/v1/chat/completions"]
COMPLETIONS = ENDPOINTS["/v1/completions"]
EMBEDDINGS = ENDPOINTS["/v1/embeddings"]

RUNNER: dict[Task, frozenset[str]] = {
    "chat": GENERATION,
    "transcription": GENERATION,
    "embedding": POOLING,
    "classify": POOLING,
    "score": POOLING,
    "pooling": POOLING,
}
"""What a model may be able to do by the task for which it was loaded."""


def generates(task: Task) -> bool:
    """Return whether a model that was loaded for a task runs on vLLM's runner that generates."""
    return RUNNER[task] is GENERATION


def able(task: Task, told: Collection[str]) -> Collection[str]:
    """Return the tasks of a model: those that its engines have `told`, else those of its runner."""
    return told or RUNNER[task]


def serves(endpoint: Endpoint, tasks: Collection[str]) -> bool:
    """Return whether a model with these tasks serves a path."""
    return not endpoint.tasks.isdisjoint(tasks)


def served(tasks: Collection[str]) -> list[str]:
    """Return the paths that a model with these tasks serves."""
    endpoints = (*ENDPOINTS.values(), REALTIME)
    return [endpoint.path for endpoint in endpoints if serves(endpoint, tasks)]
