"""A probe of one token: the smallest request that passes through an engine's own queue."""

import asyncio
from collections.abc import Collection

import msgspec

from nebula.actors.engine.exchange import App, Message, Scope, http_scope
from nebula.events.endpoints import COMPLETIONS, EMBEDDINGS, ENDPOINTS, Endpoint

PROBES: tuple[tuple[str, Endpoint], ...] = (
    ("generate", COMPLETIONS),
    ("embed", EMBEDDINGS),
    ("classify", ENDPOINTS["/classify"]),
)
"""The tasks that can be probed, and the path of the smallest request for each."""


def path_of(tasks: Collection[str], asked: str) -> str:
    """Return the path that probes an engine; "" if none does.

    `tasks`: those that it supports; if they are unknown, the path of its last request tells.
    """
    known = tasks or (ENDPOINTS[asked].tasks if asked in ENDPOINTS else ())
    return next((endpoint.path for task, endpoint in PROBES if task in known), "")


async def probe(app: App, state: Scope, model: str, path: str) -> int:
    """Request one token of an engine, or one vector, at a path of `path_of`.

    Return the answer's HTTP status, 0 if there was none. It waits for as long as the engine takes:
    the caller must bound that.
    """
    body = msgspec.json.encode(
        {"model": model, "prompt": "1", "max_tokens": 1, "temperature": 0}
        if path == COMPLETIONS.path
        else {"model": model, "input": "1"}
    )
    left, status = [body], 0

    async def receive() -> Message:
        if not left:
            await asyncio.Event().wait()  # the client of a probe never leaves
        return {"type": "http.request", "body": left.pop(), "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]

    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    scope = http_scope("POST", path, headers)
    try:
        await app({**scope, **state}, receive, send)
    except Exception:
        return 0
    return status
