"""A small engine that answers with the parts that a prompt tells it, and with nothing else.

It runs by itself with vLLM's flags, and imports nothing of Nebula. A prompt is JSON: the status,
the header fields, and the parts of the body in base64. `null` among the parts lets a turn of the
event loop pass.
"""

import argparse
import asyncio
import base64
import importlib
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from types import SimpleNamespace
from typing import Any

import uvicorn

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class ScriptedEngine:
    """The engine's ASGI application."""

    def __init__(self, name: str) -> None:
        self.state = SimpleNamespace()
        card = {"id": name, "object": "model", "root": name, "parent": None, "max_model_len": 4096}
        self._known = {
            "/health": b"",
            "/version": b'{"version":"0.32.0"}',
            "/metrics": b"",
            "/v1/models": json.dumps({"object": "list", "data": [card]}).encode(),
        }
        self._stack: App = self._answer

    def wrap(self, path: str) -> None:
        """Put a middleware around it: the class at an import path."""
        module, _, name = path.rpartition(".")
        self._stack = getattr(importlib.import_module(module), name)(self._stack)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        scope.setdefault("state", {})
        await self._stack(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        while scope["type"] == "lifespan":
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
        known = self._known.get(scope["path"])
        if known is not None:
            await _reply(send, 200, [], [known])
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        status, fields, parts = json.loads(json.loads(body)["messages"][0]["content"])
        await _reply(send, status, fields, list(map(_decoded, parts)))


def _decoded(part: str | None) -> bytes | None:
    return None if part is None else base64.b64decode(part)


async def _reply(
    send: Send, status: int, fields: list[tuple[str, str]], parts: Sequence[bytes | None]
) -> None:
    headers = [(name.encode(), value.encode()) for name, value in fields]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for part in parts:
        if part is None:
            await asyncio.sleep(0)
        else:
            await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    flag = parser.add_argument
    flag("--model", required=True)
    flag("--served-model-name", nargs="+")
    flag("--host", default="127.0.0.1")
    flag("--port", type=int, required=True)
    flag("--uds")
    flag("--middleware", action="append", default=[])
    known, _ = parser.parse_known_args()
    engine = ScriptedEngine((known.served_model_name or [known.model])[0])
    for path in known.middleware:
        engine.wrap(path)
    uvicorn.run(
        engine,
        host=known.host,
        port=known.port,
        uds=known.uds,
        lifespan="on",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
