"""A second process with a node's name never begins as long as the first may live."""

from __future__ import annotations

import asyncio

import pytest
from nats.aio.msg import Msg

from nebula.actors.node import namesake
from nebula.actors.node.namesake import NameTaken, Unsure, refuse_namesake
from nebula.events import subjects
from nebula.events.state import Node
from nebula.store import streams
from nebula.store.connection import Connection
from nebula.store.log import Log
from tests.conftest import Connect

pytestmark = pytest.mark.anyio

KNOWN = Node(id="here", devices=(), host="elsewhere")
HEARTBEAT = 0.2


@pytest.fixture
async def incumbent(connect: Connect, log: Log) -> Connection:
    return await connect("incumbent")


async def serve(connection: Connection) -> None:
    """Answer as a node does."""

    async def answer(message: Msg) -> None:
        await connection.client.publish(message.reply, b"{}")

    await connection.client.subscribe(subjects.logs("here"), cb=answer)
    await connection.client.flush()


@pytest.mark.parametrize("stream", ["there", "emptied", "gone"])
async def test_the_stream_of_heartbeats_is_not_asked_for_a_verdict(
    connection: Connection, incumbent: Connection, stream: str
) -> None:
    await serve(incumbent)
    jetstream = connection.client.jetstream()
    if stream == "emptied":
        await jetstream.purge_stream(streams.STATUS)
    if stream == "gone":
        await jetstream.delete_stream(streams.STATUS)
    with pytest.raises(NameTaken, match="runs already, as a process on elsewhere"):
        await refuse_namesake(connection, "here", KNOWN, HEARTBEAT)


async def test_a_name_is_taken_although_the_log_no_longer_knows_the_node(
    connection: Connection, incumbent: Connection
) -> None:
    await serve(incumbent)
    with pytest.raises(NameTaken, match="runs already, as a process on another machine"):
        await refuse_namesake(connection, "here", None, HEARTBEAT)


async def test_a_node_that_is_heard_lives_although_it_answers_nothing(
    connection: Connection, incumbent: Connection
) -> None:
    async def beat() -> None:
        while True:
            body = b'{"node":"here","pid":4,"engines":0,"memory_free":0}'
            await incumbent.client.publish(subjects.node_status("here"), body)
            await asyncio.sleep(HEARTBEAT)

    beating = asyncio.create_task(beat())
    with pytest.raises(NameTaken):
        await refuse_namesake(connection, "here", KNOWN, HEARTBEAT)
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)


async def test_a_node_that_listens_and_says_nothing_is_not_taken_for_dead(
    connection: Connection, incumbent: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namesake, "UNSURE", 1.0)

    async def nothing(_: Msg) -> None:
        """It hangs, or its machine has vanished."""

    await incumbent.client.subscribe(subjects.logs("here"), cb=nothing)
    await incumbent.client.flush()
    with pytest.raises(Unsure, match="it is unknown whether another process runs node 'here'"):
        await refuse_namesake(connection, "here", KNOWN, HEARTBEAT)


async def test_a_name_without_a_listener_is_free(
    connection: Connection, incumbent: Connection
) -> None:
    await serve(incumbent)
    await incumbent.close()
    async with asyncio.timeout(10):
        await refuse_namesake(connection, "here", KNOWN, HEARTBEAT)
        await refuse_namesake(connection, "here", None, HEARTBEAT)
