"""What an engine reports about itself: its own HTTP paths, called in-process."""

import asyncio

from msgspec import Struct

from nebula.actors.engine.exchange import App, Message, Scope, http_scope
from nebula.events.reading import decoded

_WAITING = b"vllm:num_requests_waiting"
_RUNNING = b"vllm:num_requests_running"
_CACHE = b"vllm:kv_cache_usage_perc"
_STEPS = frozenset(
    {
        _CACHE,
        b"vllm:prompt_tokens_total",
        b"vllm:generation_tokens_total",
        b"vllm:iteration_tokens_total_count",
        b"vllm:num_preemptions_total",
        b"vllm:prefix_cache_queries_total",
    }
)
"""Metrics that only the steps of an engine's core change. Each chunk of a chunked prefill changes
the part of the KV cache in use."""

_MOST = 1e9

HEALTH_PATIENCE = 1.0
"""Seconds within which an engine must say whether it is healthy."""


class EngineLoad(Struct, frozen=True):
    """Requests that wait inside the engine, and the part (0 to 1) of its KV cache in use.

    `running`: the requests that it works on, including those of other clients. `steps`: values that
    change with each step of its core.
    """

    waiting: int = 0
    cache: float = 0.0
    running: int = 0
    steps: tuple[float, ...] = ()


class _Card(Struct):
    id: str = ""
    max_model_len: int | None = None


class _Cards(Struct):
    data: list[_Card]


def read_load(metrics: bytes) -> EngineLoad:
    """Read vLLM's metrics in Prometheus's text format; missing metrics count as 0.

    The names: https://docs.vllm.ai/en/latest/design/metrics
    """
    waiting, running, cache = 0.0, 0.0, 0.0
    steps = list[float]()
    for line in metrics.splitlines():
        if not line.startswith(b"vllm:"):
            continue
        name = line.partition(b"{")[0].partition(b" ")[0]
        if name in _STEPS:
            steps.append(_value(line))
        if name == _WAITING:
            waiting += _value(line)
        elif name == _RUNNING:
            running += _value(line)
        elif name == _CACHE:
            cache = max(cache, _value(line))
    return EngineLoad(
        int(min(waiting, _MOST)), min(1.0, cache), int(min(running, _MOST)), tuple(steps)
    )


def _value(line: bytes) -> float:
    """Return a line's value: 0 for text that is not a number, an impossible number, or NaN."""
    try:
        return min(max(0.0, float(line.rpartition(b" ")[2])), _MOST)
    except ValueError:
        return 0.0


def read_context(models: bytes) -> int:
    """Return `max_model_len` from an engine's list of models; 0 if it has none."""
    return max((card.max_model_len or 0 for card in _cards(models)), default=0)


def read_name(models: bytes) -> str:
    """Return the engine's name of its model; empty if it reports none."""
    return next((card.id for card in _cards(models)), "")


def _cards(models: bytes) -> list[_Card]:
    cards = decoded(models, _Cards)
    return cards.data if cards is not None else []


async def get(app: App, state: Scope, path: str) -> bytes:
    """Return the body of a path of an engine's app; empty if it has no such path, or fails."""
    return (await _get(app, state, path))[1]


async def healthy(app: App, state: Scope) -> bool:
    """Return whether an engine reports that it is healthy, or has no such path.

    vLLM answers `/health` with 503 once its engine core is dead while its HTTP server still runs.
    """
    try:
        async with asyncio.timeout(HEALTH_PATIENCE):
            status, _ = await _get(app, state, "/health")
    except TimeoutError:
        return False
    return status < 500


async def _get(app: App, state: Scope, path: str) -> tuple[int, bytes]:
    status = 0
    parts: list[bytes] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        if message["type"] == "http.response.body":
            parts.append(bytes(message.get("body", b"")))

    try:
        await app({**http_scope("GET", path), **state}, receive, send)
    except Exception:
        return 0, b""
    return status, b"".join(parts)
