"""What is asked of a stand-in engine by every way: the requests, and the engine's behaviour."""

import functools
import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .figures import Figure, Work
from .pacing import STEP, TOKENS, measure_paced, measure_single
from .standin import WORDS
from .throughput import Asked, measure_throughput
from .ways import ADAPTER, MODEL, Task

_PROMPT = " ".join(WORDS)

ALL_AT_ONCE = "all chunks in one turn of its event loop"
ONE_A_TURN = "one chunk in each turn of its event loop"
IN_STEPS = f"all streams get a token in the same step, one each {STEP * 1000:.0f} ms"
WHOLE = "the answer in one piece"

_RATES = (
    Figure("rate", "requests/s", compared=True),
    Figure("cpu", "CPU ms/request", compared=True),
    Figure("p50", "ms p50"),
    Figure("p99", "p99"),
    Figure("p99.9", "p99.9"),
)
_PACES = (
    Figure("rate", "tokens/s", compared=True),
    Figure("cpu", "CPU ms/token", compared=True),
    Figure("p50", "ms between tokens p50"),
    Figure("p99", "p99"),
    Figure("p99.9", "p99.9"),
    Figure("first", "ms to the first p50"),
)
_FIRSTS = (
    Figure("p50", "ms to the first token p50", compared=True),
    Figure("p99", "p99", compared=True),
    Figure("p99.9", "p99.9"),
)


def chat(
    tokens: int, *, stream: bool = False, word: str = "all", size: int = 0, model: str = MODEL
) -> Asked:
    """Return a chat whose prompt begins with the engine's behaviour, and has so many bytes."""
    text = f"{word} {_PROMPT}"
    while len(text) < size:
        text += f" {_PROMPT}"
    said = [{"role": "user", "content": text[: size or None]}]
    body = {"model": model, "messages": said, "max_tokens": tokens, "stream": stream}
    return Asked("/v1/chat/completions", json.dumps(body).encode(), tokens, stream)


def _embedding(form: str) -> Asked:
    body = {"model": MODEL, "input": _PROMPT, "encoding_format": form}
    return Asked("/v1/embeddings", json.dumps(body).encode(), 0, False)


class _Kind(NamedTuple):
    title: str
    engine: str
    asked: Asked
    task: Task = "chat"


_THROUGHPUT = {
    "chat": _Kind("chat, 16 tokens at once", WHOLE, chat(16)),
    "stream-all": _Kind("stream, 128 chunks", ALL_AT_ONCE, chat(128, stream=True)),
    "stream-turn": _Kind("stream, 128 chunks", ONE_A_TURN, chat(128, stream=True, word="turn")),
    "prompt-4k": _Kind("chat, prompt of 4 kB, 16 tokens at once", WHOLE, chat(16, size=4096)),
    "prompt-64k": _Kind("chat, prompt of 64 kB, 16 tokens at once", WHOLE, chat(16, size=65_536)),
    "answer-8k": _Kind("chat, 1,500 tokens (8 kB) at once", WHOLE, chat(1500)),
    "adapter": _Kind("chat of a LoRA adapter, 16 tokens at once", WHOLE, chat(16, model=ADAPTER)),
    "adapter-stream": _Kind(
        "stream of a LoRA adapter, 128 chunks",
        ONE_A_TURN,
        chat(128, stream=True, word="turn", model=ADAPTER),
    ),
    "embeddings": _Kind("embedding of 384 numbers", WHOLE, _embedding("float"), "embedding"),
    "embeddings-base64": _Kind(
        "embedding of 384 numbers, base64", WHOLE, _embedding("base64"), "embedding"
    ),
}


def _throughput(name: str, connections: int) -> Work:
    kind = _THROUGHPUT[name]
    measure = functools.partial(measure_throughput, kind.asked, connections)
    return Work(name, kind.title, kind.engine, kind.task, connections, _RATES, measure)


def _paced(connections: int) -> Work:
    asked = chat(TOKENS, stream=True, word="step")
    measure = functools.partial(measure_paced, asked, connections)
    return Work(
        "paced", f"streams of {TOKENS} tokens", IN_STEPS, "chat", connections, _PACES, measure
    )


def _single(_connections: int) -> Work:
    asked = chat(16, stream=True, word="turn")
    measure = functools.partial(measure_single, asked)
    return Work("single", "one stream after the other", ONE_A_TURN, "chat", 1, _FIRSTS, measure)


ALL: dict[str, Callable[[int], Work]] = {
    **{name: functools.partial(_throughput, name) for name in _THROUGHPUT},
    "paced": _paced,
    "single": _single,
}


def chosen(names: Sequence[str], connections: Sequence[int]) -> list[Work]:
    """Return these works over each number of connections; what has only one number, once."""
    works: dict[tuple[str, int], Work] = {}
    for name in names:
        for number in connections:
            work = ALL[name](number)
            works[name, work.connections] = work
    return list(works.values())
