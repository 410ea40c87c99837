"""Following the log: every entry once and in order, whichever messages are lost on the way.

The server is played by `Server`: it delivers when it is told to, and drops what a test names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import NoRespondersError
from nats.js.api import ConsumerConfig
from nats.js.errors import NotFoundError

from nebula.store import tail
from nebula.store.connection import Connection
from nebula.store.tail import LogReplaced, Tail
from nebula.store.wire import Delivery

T = TypeVar("T")
MADE = datetime(2026, 1, 1, tzinfo=UTC)


class Server:
    """A log of so many entries, its consumer, and the connection to it, all in one."""

    def __init__(self, last: int = 0) -> None:
        self.last = last
        self.created = MADE
        self.consumers: list[ConsumerConfig] = []
        self.answers: list[Exception] = []
        """Its answers, one after the other, to requests for the stream."""
        self.published: list[str] = []
        self.domain = ""
        self._count = 0
        self._taken = 0
        self._arrive: Delivery | None = None
        self._reconnected: Callable[[], Awaitable[None]] | None = None
        self.client = self

    def follow(self, after: int = 0) -> Tail[int]:
        """Begin to read after a sequence; what is read of an entry is its sequence."""
        return Tail(cast("Connection", self), after, lambda seq, *_: seq)

    # What a reader sees

    def on_reconnect(self, action: Callable[[], Awaitable[None]]) -> None:
        self._reconnected = action

    def forget(self, action: object) -> None:
        self._reconnected = None

    def new_inbox(self) -> str:
        return f"_INBOX.{len(self.consumers)}"

    async def listen_for_deliveries(self, inbox: str, delivery: Delivery) -> Any:
        self._arrive = delivery

        async def unsubscribe() -> None:
            self._arrive = None

        return SimpleNamespace(unsubscribe=unsubscribe)

    def jetstream(self, timeout: float) -> Server:
        return self

    async def stream_info(self, stream: str) -> Any:
        if self.answers:
            raise self.answers.pop(0)
        return SimpleNamespace(created=self.created, state=SimpleNamespace(last_seq=self.last))

    async def add_consumer(self, stream: str, config: ConsumerConfig) -> None:
        self.consumers.append(config)
        self._count, self._taken = 0, (config.opt_start_seq or 1) - 1

    async def publish(self, subject: str, body: bytes = b"") -> None:
        self.published.append(subject)

    # What a test lets happen

    async def send(self, *, lost: bool = False) -> None:
        """Deliver the next entry to its consumer; it may be lost on the way."""
        self._count, self._taken = self._count + 1, self._taken + 1
        if not lost:
            await self.again()

    async def again(self) -> None:
        """Deliver the entry that was delivered last."""
        where = f"{self.domain}EVENTS.consumer"
        token = ".random" if self.domain else ""
        reply = f"$JS.ACK.{where}.1.{self._taken}.{self._count}.7.0{token}"
        self.hand(reply)

    async def beat(self, **headers: str) -> None:
        """Send how many messages the consumer got, as the server does when it is idle."""
        self.hand("", {"Nats-Last-Consumer": str(self._count), **headers})

    def hand(self, reply: str, headers: dict[str, str] | None = None) -> None:
        """Hand a reader any message."""
        assert self._arrive is not None
        lines = "".join(f"{key}: {value}\r\n" for key, value in (headers or {}).items())
        self._arrive(b"inbox", reply.encode(), f"NATS/1.0\r\n{lines}\r\n".encode(), b"")

    async def reconnect(self) -> None:
        """Let the client lose its server and find it again."""
        assert self._reconnected is not None
        await self._reconnected()


def run(test: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(test)


async def begins(reader: Tail[int], server: Server) -> list[int]:
    """Let a reader make its next consumer, which says that it has sent nothing yet."""
    made = len(server.consumers)
    reading = asyncio.create_task(reader.next())
    for _ in range(100):
        await asyncio.sleep(0)
        if len(server.consumers) > made:
            await server.beat()
            return await reading
    reading.cancel()
    raise AssertionError("it does not ask for another consumer")


@given(st.lists(st.lists(st.booleans(), max_size=6), max_size=5), st.integers(0, 3))
def test_whatever_is_lost_each_entry_is_read_once_and_in_order(
    losses: list[list[bool]], after: int
) -> None:
    """Each list is one consumer's life: which of the entries that it sends are lost."""

    async def test() -> None:
        server = Server(after + 8)
        reader = server.follow(after)
        found = await begins(reader, server)
        for lost in [*losses, []]:
            for each in [*lost, *[False] * 8][: server.last - server._taken]:
                await server.send(lost=each)
            await server.beat()
            found += await reader.next()
            if reader._stale:
                found += await begins(reader, server)
                assert server.consumers[-1].opt_start_seq == (found[-1] if found else after) + 1
        assert found == list(range(after + 1, server.last + 1))

    run(test())


def test_an_entry_that_is_lost_amid_others_is_asked_for_again() -> None:
    async def test() -> None:
        server = Server(3)
        reader = server.follow()
        await begins(reader, server)
        await server.send()
        await server.send(lost=True)
        await server.send()
        assert await reader.next() == [1]
        await begins(reader, server)
        assert [each.opt_start_seq for each in server.consumers] == [1, 2]

    run(test())


def test_the_last_entry_is_missed_when_the_consumer_says_how_many_it_has_sent() -> None:
    async def test() -> None:
        server = Server(2)
        reader = server.follow()
        await begins(reader, server)
        await server.send()
        await server.beat()
        assert await reader.next() == [1]
        assert len(server.consumers) == 1  # it has all that was sent
        await server.send(lost=True)
        await server.beat()
        assert await reader.next() == []
        await begins(reader, server)
        assert [each.opt_start_seq for each in server.consumers] == [1, 2]

    run(test())


def test_what_came_behind_a_gap_is_not_read_before_the_gap_is_closed() -> None:
    async def test() -> None:
        server = Server(3)
        reader = server.follow()
        await begins(reader, server)
        await server.send(lost=True)
        await server.send()
        await server.send()
        assert await reader.next() == []
        assert await begins(reader, server) == []  # what lay there belongs to the old consumer
        for _ in range(3):
            await server.send()
        assert await reader.next() == [1, 2, 3]

    run(test())


def test_an_entry_that_was_read_before_is_passed_over() -> None:
    async def test() -> None:
        server = Server(3)
        reader = server.follow(2)
        await begins(reader, server)
        server._taken = 1  # a server that begins earlier than it was asked to
        await server.send()
        await server.send()
        assert await reader.next() == [3]

    run(test())


@pytest.mark.parametrize("domain", ["", "hub.account."])
def test_the_place_of_an_entry_is_read_from_either_form_of_its_address(domain: str) -> None:
    """Both are in NATS's ADR-15: with a domain and an account's hash, and without."""

    async def test() -> None:
        server = Server(1)
        server.domain = domain
        reader = server.follow()
        await begins(reader, server)
        await server.send()
        assert await reader.next() == [1]

    run(test())


def test_flow_control_is_answered_only_after_what_came_before_it() -> None:
    async def test() -> None:
        server = Server(2)
        reader = server.follow()
        await begins(reader, server)
        await server.send()
        server.hand("$JS.FC.EVENTS.consumer.1")
        assert server.published == []
        assert await reader.next() == [1]
        assert server.published == ["$JS.FC.EVENTS.consumer.1"]
        await server.beat(**{"Nats-Consumer-Stalled": "$JS.FC.EVENTS.consumer.2"})
        await reader.next()
        assert server.published[1:] == ["$JS.FC.EVENTS.consumer.2"]

    run(test())


def test_after_a_reconnect_the_reader_goes_on_where_it_was() -> None:
    async def test() -> None:
        server = Server(2)
        reader = server.follow()
        await begins(reader, server)
        await server.send()
        assert await reader.next() == [1]
        await server.reconnect()
        assert await begins(reader, server) == []
        assert server.consumers[-1].opt_start_seq == 2
        await reader.close()
        assert server._reconnected is None

    run(test())


def test_a_consumer_that_is_silent_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "HEARTBEAT", 0.001)

    async def test() -> None:
        server = Server(1)
        reader = server.follow()
        assert await reader.next() == []
        assert await reader.next() == []
        assert [each.opt_start_seq for each in server.consumers] == [1, 1]

    run(test())


@pytest.mark.parametrize(
    ("last", "after", "replaced"),
    [(3, 3, False), (4, 3, False), (2, 3, True), (0, 1, True), (0, 0, False)],
)
def test_a_log_that_ends_before_what_was_read_is_another_one(
    last: int, after: int, replaced: bool
) -> None:
    async def test() -> None:
        server = Server(last)
        reader = server.follow(after)
        if replaced:
            with pytest.raises(LogReplaced, match=f"ends at {last}, but {after} was read"):
                await reader.next()
        else:
            assert await begins(reader, server) == []

    run(test())


def test_a_log_that_was_made_anew_while_it_was_followed_is_another_one() -> None:
    async def test() -> None:
        server = Server(5)
        reader = server.follow()
        await begins(reader, server)
        await server.reconnect()
        await begins(reader, server)  # the same one as before
        server.created = datetime(2026, 1, 2, tzinfo=UTC)
        await server.reconnect()
        with pytest.raises(LogReplaced, match="created again"):
            await reader.next()

    run(test())


def test_a_log_that_is_gone_is_waited_for_only_by_a_reader_that_has_read_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tail, "_PAUSE", 0)

    async def test() -> None:
        server = Server()
        server.answers = [NotFoundError(), NoRespondersError(), TimeoutError()]
        assert await begins(server.follow(), server) == []
        assert server.answers == []
        server.answers = [NoRespondersError(), NotFoundError()]
        with pytest.raises(LogReplaced, match="is gone"):
            await server.follow(1).next()
        assert server.answers == []

    run(test())
