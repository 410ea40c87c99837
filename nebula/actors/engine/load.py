"""What an engine says of itself: its own HTTP paths, called in-process."""

import asyncio

import msgspec
from msgspec import Struct

from nebula.actors.engine.exchange import App, Message, Scope, http_scope

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
"""What the steps of an engine's core move, and nothing else does. A prefill that is cut in chunks
moves the part of the KV cache in use with each of them."""

_MOST = 1e9

HEALTH_PATIENCE = 1.0
"""Seconds within which an engine has to say whether it lives."""


class EngineLoad(Struct, frozen=True):
    """Requests that the engine holds back, and the part (0 to 1) of its KV cache in use.

    `running`: the requests that it works on, wherever they came from. `steps`: what moves as soon
    as its core takes a step.
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
    """Read vLLM's metrics in Prometheus's text format; what is not there counts as 0.

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
    """Read a line's value: 0 for what is no number, none that there can be, or NaN."""
    try:
        return min(max(0.0, float(line.rpartition(b" ")[2])), _MOST)
    except ValueError:
        return 0.0


def read_context(models: bytes) -> int:
    """Read `max_model_len` from an engine's list of models; 0 where it tells none."""
    return max((card.max_model_len or 0 for card in _cards(models)), default=0)


def read_name(models: bytes) -> str:
    """Return the name that an engine has for its model; empty where it tells none."""
    return next((card.id for card in _cards(models)), "")


def _cards(models: bytes) -> list[_Card]:
    try:
        return msgspec.json.decode(models, type=_Cards).data
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []


async def get(app: App, state: Scope, path: str) -> bytes:
    """GET a path of an engine's app; nothing where it has none such, or fails."""
    return (await _get(app, state, path))[1]


async def healthy(app: App, state: Scope) -> bool:
    """Return whether an engine says of itself that it lives; so does one without such a path.

    vLLM answers `/health` with 503 once its engine core is dead and its HTTP server still stands.
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
