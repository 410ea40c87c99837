"""How a gateway ends: nothing new is begun, what is under way has its time, the rest is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from nebula.http.server import stopping
from nebula.http.server.stopping import Stopping

pytestmark = pytest.mark.anyio


class App:
    """Answers once it is let."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.asked = 0

    async def __call__(self, *_: Any) -> None:
        self.asked += 1
        await self.let.wait()


async def ask(app: Any, path: str = "/v1/models") -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "path": path, "headers": []}, None, send)
    return sent


def begin(ends: Stopping, app: Any) -> asyncio.Task[Any]:
    """Ask as a connection does: its task is known to uvicorn until it has ended."""
    task = asyncio.create_task(ask(ends.around(app)))
    ends.under_way.add(task)
    task.add_done_callback(ends.under_way.discard)
    return task


async def test_nothing_new_is_begun_and_what_is_under_way_may_end() -> None:
    ends, app = Stopping(), App()
    around = ends.around(app)
    under_way = [begin(ends, app) for _ in range(2)]
    await asyncio.sleep(0)
    ends.signal()
    draining = asyncio.create_task(ends.drained(60))
    start, _ = await ask(around)
    assert start["status"] == 503
    assert {b"retry-after", b"connection"} <= dict(start["headers"]).keys()
    await asyncio.sleep(0)
    assert not draining.done()
    app.let.set()
    await asyncio.gather(*under_way)
    assert await draining
    assert app.asked == 2
    assert await ask(around, "/health") == [], "it lives as long as it does"
    assert app.asked == 3


async def test_after_its_grace_or_a_second_signal_no_client_waits_any_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for second, grace in ((False, 0.01), (True, 60.0)):
        ends, app = Stopping(), App()
        hanging = begin(ends, app)
        await asyncio.sleep(0)
        ends.signal()
        draining = asyncio.create_task(ends.drained(grace))
        if second:
            ends.signal()
        assert not await draining
        monkeypatch.setattr(stopping, "LAST_WORDS_HURRIED" if second else "LAST_WORDS", 0.01)
        async with asyncio.timeout(5):
            await ends.heard_out()
        assert not hanging.done()
        app.let.set()
        await hanging


async def test_last_words_are_heard_out_no_longer_than_it_takes() -> None:
    ends, app = Stopping(), App()
    hanging = begin(ends, app)
    await asyncio.sleep(0)
    for _ in range(2):
        ends.signal()
    hearing = asyncio.create_task(ends.heard_out())
    await asyncio.sleep(0)
    app.let.set()
    await asyncio.gather(hanging, hearing)
    assert not ends.under_way
