"""What the watch of the embedded server's store takes for an error, and what not."""

import asyncio
import contextlib

import msgspec
import pytest
from nats.aio.msg import Msg
from nats.js.errors import APIError

from nebula.events import subjects
from nebula.events.heartbeats import StoreHeartbeat
from nebula.store import watch
from nebula.store.connection import Connection
from nebula.store.server import NAME, EmbeddedServer

pytestmark = pytest.mark.anyio


async def test_a_stream_that_is_being_made_or_deleted_is_not_an_error(
    nats_server: EmbeddedServer, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "EVERY", 0.0)
    ended: list[str] = []

    async def end() -> None:
        ended.append("by the watch")

    monkeypatch.setattr(nats_server, "end", end)
    heard: asyncio.Queue[StoreHeartbeat] = asyncio.Queue()

    async def on_status(message: Msg) -> None:
        heard.put_nowait(msgspec.json.decode(message.data, type=StoreHeartbeat))

    await connection.client.subscribe(subjects.store_status(NAME), cb=on_status)
    jetstream = connection.client.jetstream()

    async def make_and_delete() -> None:
        number = 0
        while True:
            number += 1
            with contextlib.suppress(APIError):  # the server's own haste
                await jetstream.add_stream(name=f"S{number}", subjects=[f"s.{number}"])
                await jetstream.delete_stream(f"S{number}")

    watching = [
        asyncio.create_task(make_and_delete()),
        asyncio.create_task(watch.StoreWatch(nats_server).run()),
    ]
    try:
        told = [await asyncio.wait_for(heard.get(), 30) for _ in range(4)]
    finally:
        for task in watching:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    assert [each.refused for each in told] == [""] * 4
    assert not ended
