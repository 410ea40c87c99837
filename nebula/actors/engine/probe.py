"""A probe of one token: the smallest request that passes through an engine's own queue."""

import asyncio

import msgspec

from nebula.actors.engine.exchange import App, Message, Scope, http_scope

EMBEDDINGS = "/v1/embeddings"
_COMPLETIONS = "/v1/completions"


async def probe(app: App, state: Scope, model: str, path: str) -> int:
    """Request one token from an engine, or one embedding, as its last `path` says.

    Return the answer's HTTP status, 0 if there was none. It waits for as long as the engine takes:
    the caller must bound that.
    """
    embeds = path == EMBEDDINGS
    body = msgspec.json.encode(
        {"model": model, "input": "1"}
        if embeds
        else {"model": model, "prompt": "1", "max_tokens": 1, "temperature": 0}
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
    scope = http_scope("POST", EMBEDDINGS if embeds else _COMPLETIONS, headers)
    try:
        await app({**scope, **state}, receive, send)
    except Exception:
        return 0
    return status
