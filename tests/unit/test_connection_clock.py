"""A connection by a clock of its own: when it hangs up, and what it has given back then.

Bytes come and go by hand; `test_connection.py` has the same connection on sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
import uvicorn
from litestar.types import Receive, Scope, Send
from uvicorn.server import ServerState

from nebula.actors.gateway.budget import Budget
from nebula.http.server import connection
from nebula.http.server.arrival import BODY_TIME, HEAD_TIME, PACE
from nebula.http.server.capacity import Capacity
from nebula.http.server.connection import UNREAD, HttpConnection

pytestmark = pytest.mark.anyio

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Timer:
    """What is due at a time, unless it is cancelled."""

    def __init__(self, at: float, call: Callable[[], object]) -> None:
        self.at = at
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """A loop whose time passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer:
        self.timers.append(Timer(self.now + seconds, call))
        return self.timers[-1]

    def create_task(self, work: Any) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    async def later(self, seconds: float) -> None:
        """Let time pass, and let what is due happen at its time."""
        end = self.now + seconds
        while due := [each for each in self.timers if not each.cancelled and each.at <= end]:
            first = min(due, key=lambda each: each.at)
            self.timers.remove(first)
            self.now = max(self.now, first.at)
            first.call()
            await turns()
        self.now = end


class Transport:
    """A socket of which the other side is a test."""

    def __init__(self) -> None:
        self.written = b""
        self.ended = ""
        self.reading = True

    def get_extra_info(self, _: str) -> None:
        return None

    def write(self, data: bytes) -> None:
        self.written += data

    def write_eof(self) -> None:
        self.ended = self.ended or "half"

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "aborted"

    def is_closing(self) -> bool:
        return self.ended in ("closed", "aborted")

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Client:
    """A client's connection, before an application that answers when it is told to."""

    def __init__(self, capacity: Capacity | None = None, clock: Clock | None = None) -> None:
        self.capacity = capacity or Capacity(Budget(10**6))
        self.clock = clock or Clock()
        self.transport = Transport()
        self.answers = asyncio.Event()
        self.reads = True
        self.answers.set()
        config = uvicorn.Config(
            cast("Any", self._app), lifespan="off", log_config=None, interface="asgi3"
        )
        self.connection = HttpConnection(
            config, ServerState(), {}, cast("Any", self.clock), capacity=self.capacity
        )
        self.connection.connection_made(cast("Any", self.transport))

    async def _app(self, _: Scope, receive: Receive, send: Send) -> None:
        while self.reads and (await receive())["type"] != "http.disconnect":
            if not self.connection._running or not self.connection._running.more_body:
                break
        await self.answers.wait()
        fields = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": b"ok", "more_body": False})

    async def says(self, data: bytes) -> None:
        self.connection.data_received(data)
        await turns()

    def leaves(self) -> None:
        self.connection.connection_lost(None)

    @property
    def statuses(self) -> list[int]:
        return [int(each[:3]) for each in self.transport.written.split(b"HTTP/1.1 ")[1:]]


def body(size: int) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size


async def test_a_connection_waits_for_its_next_request_from_its_last_answer_on() -> None:
    client = Client()
    patience = client.capacity.keep_alive
    await client.clock.later(patience - 1)
    await client.says(GET)
    assert client.statuses == [200]
    await client.clock.later(patience - 1)
    assert client.transport.ended == ""
    await client.clock.later(2)
    assert client.transport.ended == "closed"


async def test_a_client_that_reads_again_in_time_is_not_hung_up_on() -> None:
    client = Client(Capacity(Budget(10**6), keep_alive=10 * UNREAD))
    client.connection.pause_writing()
    await client.clock.later(UNREAD - 1)
    client.connection.resume_writing()
    await client.clock.later(2)
    assert client.transport.ended == ""
    client.connection.pause_writing()
    await client.clock.later(UNREAD - 1)
    assert client.transport.ended == "", "its time is counted anew"
    await client.clock.later(2)
    assert client.transport.ended == "aborted"


async def test_a_head_has_its_time_and_a_body_has_more_with_each_byte() -> None:
    slow = Client()
    await slow.says(GET[:-2])
    await slow.clock.later(HEAD_TIME - 1)
    assert slow.statuses == []
    await slow.clock.later(2)
    assert slow.statuses == [408]

    steady = Client()
    await steady.says(body(100 * PACE) + b"x" * 30 * PACE)
    await steady.clock.later(BODY_TIME + 29)
    assert steady.statuses == []
    await steady.clock.later(2)
    assert steady.statuses == [408]


async def test_while_the_gateway_itself_does_not_read_a_body_is_not_late() -> None:
    client = Client()
    client.reads = False
    client.answers.clear()
    await client.says(body(10**6) + b"x" * (connection.WAITING + 1))
    assert not client.transport.reading
    await client.clock.later(10 * BODY_TIME)
    assert client.statuses == []
    client.answers.set()
    await turns()
    assert client.statuses == [200]


async def test_what_a_client_has_sent_is_given_back_when_it_leaves() -> None:
    for data in (body(50) + b"x" * 40, GET[:-2] + b"a: " + b"b" * 300):
        client = Client()
        client.reads = False
        client.answers.clear()
        await client.says(data[:30])
        await client.says(data[30:])
        assert client.capacity.bodies.used > 0
        client.leaves()
        assert client.capacity.bodies.used == 0
        assert client.capacity.open == 0
        client.answers.set()
        await turns()


async def test_a_body_that_no_application_has_read_is_given_back_with_its_answer() -> None:
    client = Client()
    client.reads = False
    await client.says(body(40) + b"x" * 40)
    assert client.statuses == [200]
    assert client.capacity.bodies.used == 0
    await client.says(GET)
    assert client.statuses == [200, 200]


async def test_connections_that_are_turned_away_make_room_for_none_when_they_leave() -> None:
    capacity, clock = Capacity(Budget(10**6)), Clock()
    capacity.connections = 1
    first = Client(capacity, clock)
    away = Client(capacity, clock)
    await away.says(GET)
    assert away.statuses == [503]
    away.leaves()
    assert (capacity.open, capacity.turned_away) == (1, 0)
    again = Client(capacity, clock)
    await again.says(GET)
    assert again.statuses == [503]
    again.leaves()
    first.leaves()
    last = Client(capacity, clock)
    await last.says(GET)
    assert last.statuses == [200]


async def test_a_connection_that_is_to_end_ends_with_the_answer_that_is_under_way() -> None:
    client = Client()
    client.answers.clear()
    await client.says(GET)
    client.connection.shutdown()
    await turns()
    assert client.transport.ended == ""
    client.answers.set()
    await turns()
    assert client.statuses == [200]
    assert b"connection: close" in client.transport.written
    assert client.transport.ended == "closed"
    idle = Client()
    idle.connection.shutdown()
    assert idle.transport.ended == "closed"
