"""What an engine says of itself: its own HTTP paths, called in-process."""

import asyncio

import msgspec
from msgspec import Struct

from nebula.actors.engine.exchange import App, Message, Scope, http_scope

_WAITING = b"vllm:num_requests_waiting"
_RUNNING = b"vllm:num_requests_running"
_CACHE = b"vllm:kv_cache_usage_perc"
_MOST = 1e9

HEALTH_PATIENCE = 1.0
"""Seconds within which an engine has to say whether it lives."""


class EngineLoad(Struct, frozen=True):
    """Requests that the engine holds back, and the part (0 to 1) of its KV cache in use.

    `running`: the requests that it works on, wherever they came from.
    """

    waiting: int = 0
    cache: float = 0.0
    running: int = 0


class _Card(Struct):
    max_model_len: int | None = None


class _Cards(Struct):
    data: list[_Card]


def read_load(metrics: bytes) -> EngineLoad:
    """Read vLLM's metrics in Prometheus's text format; what is not there counts as 0.

    The names: https://docs.vllm.ai/en/latest/design/metrics
    """
    waiting, running, cache = 0.0, 0.0, 0.0
    for line in metrics.splitlines():
        if not line.startswith(b"vllm:"):
            continue
        name = line.partition(b"{")[0].partition(b" ")[0]
        if name == _WAITING:
            waiting += _value(line)
        elif name == _RUNNING:
            running += _value(line)
        elif name == _CACHE:
            cache = max(cache, _value(line))
    return EngineLoad(int(min(waiting, _MOST)), min(1.0, cache), int(min(running, _MOST)))


def _value(line: bytes) -> float:
    """Read a line's value: 0 for what is no number, none that there can be, or NaN."""
    try:
        return min(max(0.0, float(line.rpartition(b" ")[2])), _MOST)
    except ValueError:
        return 0.0


def read_context(models: bytes) -> int:
    """Read `max_model_len` from an engine's list of models; 0 where it tells none."""
    try:
        cards = msgspec.json.decode(models, type=_Cards)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0
    return max((card.max_model_len or 0 for card in cards.data), default=0)


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
