"""A simulated engine that is asked over its ASGI app.

Requests that only ask and are answered go through httpx; those that stream, wait or leave are
ASGI calls made by hand (`Call`), so that every step is awaited and none is slept for.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from nebula.engines.simulated_app import SimulatedEngine
from nebula.engines.simulated_settings import Settings

HOUR = 3600.0  # a delay that no test outlasts


def engine(**settings: Any) -> SimulatedEngine:
    return SimulatedEngine(Settings(model="Org/Model", **settings))


def chat(said: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": said}], **fields}


@asynccontextmanager
async def client(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as opened:
        yield opened


async def post(app: Any, path: str, body: Any) -> httpx.Response:
    async with client(app) as opened:
        return await opened.post(path, json=body)


async def get(app: Any, path: str) -> httpx.Response:
    async with client(app) as opened:
        return await opened.get(path)


async def said(app: Any, body: dict[str, Any]) -> str:
    response = await post(app, "/v1/chat/completions", body)
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


class Call:
    """One POST by hand: `sent` yields what the engine sends, `leave` is the client's departure."""

    def __init__(self, app: Any, path: str, body: Any) -> None:
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._received.put_nowait({"type": "http.request", "body": json.dumps(body).encode()})
        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
        self.task = asyncio.ensure_future(app(scope, self._received.get, self.sent.put))

    def leave(self) -> None:
        self._received.put_nowait({"type": "http.disconnect"})

    async def events(self) -> list[str]:
        """What is left of a stream, one text for each ASGI send."""
        await self.task
        messages = [self.sent.get_nowait() for _ in range(self.sent.qsize())]
        return [m["body"].decode() for m in messages if m["type"] == "http.response.body"]


def stream_events(events: list[str]) -> list[dict[str, Any]]:
    """The data of a stream whose events are named, as OpenAI's responses and Anthropic's are."""
    assert events[-1] == ""
    found = []
    for event in events[:-1]:
        name, data, *rest = event.split("\n")
        assert rest == ["", ""]
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def chunks(events: list[str]) -> list[dict[str, Any]]:
    assert events[-2:] == ["data: [DONE]\n\n", ""]
    assert all(e.startswith("data: ") and e.endswith("\n\n") for e in events[:-1])
    return [json.loads(event[len("data: ") :]) for event in events[:-2]]
