"""The fast way in and out of NATS: bytes become messages, and messages bytes.

The parser is fed by hand; its callbacks are recorded.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, cast
from urllib.parse import urlparse

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.errors import (
    ConnectionClosedError,
    MaxPayloadError,
    OutboundBufferLimitError,
    ProtocolError,
)

from nebula.store.client import LEAST_WRITTEN, MAX_UNSENT, WRITTEN, FastClient
from nebula.store.wire import DirectTransport, FastParser, Reader

pytestmark = pytest.mark.anyio

LISTENED, SUBSCRIBED, ASKED, DELIVERED = 1, 2, 3, 4
"""A subscription that is listened to, one that is nats-py's, and one that is listened to for
questions, one for deliveries."""


class Heard:
    """Stands where the client stands, and keeps all that the parser tells it, in order."""

    def __init__(self) -> None:
        self.all: list[tuple[Any, ...]] = []
        self.written = 0
        self.resets_at_ping = False
        self.parser = FastParser(cast("FastClient", self))
        self.arrivals = {LISTENED: self.arrival}
        self.questions = {ASKED: self.question}
        self.deliveries = {DELIVERED: self.delivery}

    def arrival(self, subject: bytes, header: bytes, body: bytes) -> None:
        if subject == b"raises":
            raise ValueError(subject)
        self.all.append(("listened", subject, header, body))

    def question(self, reply: bytes, header: bytes, body: bytes) -> None:
        self.all.append(("asked", reply, header, body))

    def delivery(self, subject: bytes, reply: bytes, header: bytes, body: bytes) -> None:
        self.all.append(("delivered", subject, reply, header, body))

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        await asyncio.sleep(0)
        self.all.append(("subscribed", sid, subject, reply, headers, data))

    async def _process_ping(self) -> None:
        self.all.append(("ping",))
        if self.resets_at_ping:
            self.parser.reset()

    async def _process_pong(self) -> None:
        await asyncio.sleep(0)
        self.all.append(("pong",))

    async def _process_err(self, error: str) -> None:
        self.all.append(("error", error))

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.all.append(("info", info))

    def write(self) -> None:
        self.written += 1

    async def feed(self, *chunks: bytes) -> list[tuple[Any, ...]]:
        for chunk in chunks:
            await self.parser.parse(chunk)
        return self.all


def message(
    subject: bytes, body: bytes, *, sid: int = LISTENED, reply: bytes = b"", header: bytes = b""
) -> bytes:
    """A message as the server writes it."""
    head = b" ".join([subject, b"%d" % sid, *([reply] if reply else [])])
    if header:
        size = len(header) + len(body)
        return b"HMSG %b %d %d\r\n%b%b\r\n" % (head, len(header), size, header, body)
    return b"MSG %b %d\r\n%b\r\n" % (head, len(body), body)


def heard_of(
    subject: bytes, body: bytes, *, sid: int = LISTENED, reply: bytes = b"", header: bytes = b""
) -> tuple[Any, ...]:
    """What is told of that message."""
    if sid == LISTENED:
        return ("listened", subject, header, body)
    if sid == ASKED:
        return ("asked", reply, header, body)
    if sid == DELIVERED:
        return ("delivered", subject, reply, header, body)
    return ("subscribed", sid, subject, reply, header or None, body)


subjects = st.sampled_from([b"a", b"nebula.inference.responses.gw.r", b"_INBOX.x.y"])
bodies = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"", b"\r\n", b"MSG a 1 3\r\n", b"PING\r\n", b"\r", b"x" * 5000]),
)
messages = st.builds(
    lambda *parts: dict(zip(("subject", "body", "sid", "reply", "header"), parts, strict=True)),
    subjects,
    bodies,
    st.sampled_from([LISTENED, SUBSCRIBED, ASKED, DELIVERED, 33]),
    st.sampled_from([b"", b"_INBOX.reply"]),
    st.sampled_from([b"", b"NATS/1.0\r\nA: b\r\n\r\n", b"NATS/1.0 503\r\n\r\n"]),
)
INFO = {"server_id": "x", "max_payload": 1048576, "connect_urls": ["a" * 20] * 9}
others = st.sampled_from(
    [
        (b"PING\r\n", [("ping",)]),
        (b"PONG\r\n", [("pong",)]),
        (b"+OK\r\n", []),
        (b"-ERR 'Stale Connection'\r\n", [("error", "'stale connection'")]),
        (b"INFO %b\r\n" % json.dumps(INFO).encode(), [("info", INFO)]),
    ]
)
said = st.lists(
    st.one_of(
        messages.map(lambda fields: (message(**fields), [heard_of(**fields)])),
        others,
    ),
    max_size=8,
)


cuts = st.lists(st.integers(1, 60), min_size=1, max_size=20)


def cut(stream: bytes, sizes: list[int]) -> list[bytes]:
    """A stream in chunks of these sizes, round and round."""
    chunks: list[bytes] = []
    while stream:
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(stream[:size])
        stream = stream[size:]
    return chunks


@given(said, cuts)
def test_however_the_bytes_are_cut_the_same_is_heard_in_the_same_order(
    parts: Sequence[tuple[bytes, list[tuple[Any, ...]]]], sizes: list[int]
) -> None:
    heard = Heard()
    asyncio.run(heard.feed(*cut(b"".join(wire for wire, _ in parts), sizes)))
    assert heard.all == [told for _, each in parts for told in each]
    assert heard.parser.buf == b""


@given(said, cuts, st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(1, 90))
def test_what_is_taken_as_it_is_read_comes_before_nothing_that_was_said_before_it(
    parts: Sequence[tuple[bytes, list[tuple[Any, ...]]]],
    sizes: list[int],
    turns: list[int],
    at_once: int,
) -> None:
    async def read() -> Heard:
        heard = Heard()
        reader = Reader(heard.parser, 2**16)

        async def as_nats_py_does() -> None:
            while data := await reader.read(at_once):
                await heard.parser.parse(data)

        reading = asyncio.create_task(as_nats_py_does())
        for number, chunk in enumerate(cut(b"".join(wire for wire, _ in parts), sizes)):
            reader.feed_data(chunk)
            for _ in range(turns[number % len(turns)]):
                await asyncio.sleep(0)
        reader.feed_eof()
        await reading
        return heard

    assert asyncio.run(read()).all == [told for _, each in parts for told in each]


async def test_what_is_listened_for_is_there_before_any_task_has_its_turn() -> None:
    heard = Heard()
    Reader(heard.parser, 2**16).feed_data(message(b"a", b"1") + message(b"a", b"2"))
    assert heard.all == [("listened", b"a", b"", b"1"), ("listened", b"a", b"", b"2")]
    assert heard.written == 1


async def test_the_server_s_bytes_are_taken_together_or_one_by_one() -> None:
    wire = message(b"a", b"one") + b"PING\r\n" + message(b"b", b"two", header=b"NATS/1.0\r\n\r\n")
    expected = [
        ("listened", b"a", b"", b"one"),
        ("ping",),
        ("listened", b"b", b"NATS/1.0\r\n\r\n", b"two"),
    ]
    assert await Heard().feed(wire) == expected
    assert await Heard().feed(*(wire[at : at + 1] for at in range(len(wire)))) == expected


async def test_a_large_message_is_put_together_once_all_of_it_is_there() -> None:
    body = bytes(range(256)) * 4096
    wire = message(b"a", body) + message(b"a", b"next")
    heard = Heard()
    for at in range(0, len(wire), 65536):
        await heard.feed(wire[at : at + 65536])
        assert heard.all == [] or at + 65536 > len(body)
    assert heard.all == [("listened", b"a", b"", body), ("listened", b"a", b"", b"next")]


async def test_what_was_posted_meanwhile_is_written_once_for_all_messages_of_a_read() -> None:
    heard = Heard()
    await heard.feed(message(b"a", b"1") * 50)
    assert heard.written == 1


async def test_an_arrival_that_raises_loses_nothing_that_comes_after_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        heard = await Heard().feed(message(b"raises", b"1") + message(b"a", b"2") + b"PING\r\n")
    assert heard == [("listened", b"a", b"", b"2"), ("ping",)]
    assert "could not be processed" in caplog.text


async def test_after_a_reset_what_was_left_of_the_old_connection_is_void() -> None:
    heard = Heard()
    await heard.feed(message(b"a", b"half of it")[:-7])
    heard.parser.reset()
    assert await heard.feed(message(b"b", b"new")) == [("listened", b"b", b"", b"new")]


async def test_after_a_reset_in_the_middle_of_a_read_so_is_the_rest_of_it() -> None:
    heard = Heard()
    heard.resets_at_ping = True
    await heard.feed(message(b"a", b"1") + b"PING\r\n" + message(b"a", b"old")[:-4])
    await heard.feed(message(b"b", b"new"))
    assert heard.all == [
        ("listened", b"a", b"", b"1"),
        ("ping",),
        ("listened", b"b", b"", b"new"),
    ]


@pytest.mark.parametrize("line", [b"MESSAGE a 1 3\r\n", b"\r\n", b"MSG a 1 many\r\n"])
async def test_what_is_not_a_line_of_the_protocol_is_an_error(line: bytes) -> None:
    heard = Heard()
    with pytest.raises((ProtocolError, ValueError)):
        await heard.feed(message(b"a", b"1") + line)
    assert heard.all == [("listened", b"a", b"", b"1")]


# Out


class Transport:
    """A connection that keeps what is written to it, write by write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def writelines(self, lines: list[bytes]) -> None:
        self.write(b"".join(lines))

    async def drain(self) -> None:
        pass


def connected() -> tuple[FastClient, Transport]:
    client, transport = FastClient(), Transport()
    client._status = Client.CONNECTED
    client._transport = cast("Any", transport)
    client._max_payload = 100
    client._max_pending_size = 300
    client._flush_queue = asyncio.Queue()
    return client, transport


async def turn() -> None:
    """Let one turn of the event loop pass."""
    await asyncio.sleep(0)


async def test_nothing_is_kept_of_a_reader_that_has_ended() -> None:
    """Readers of the log come and go; what still comes for one that went is dropped."""
    client, _ = connected()
    read: list[bytes] = []
    subscription = await client.listen_for_deliveries("inbox", lambda *parts: read.extend(parts))
    wire = message(b"a", b"body", sid=subscription._id, reply=b"$JS.ACK.1")
    await client._ps.parse(wire)
    await subscription.unsubscribe()
    await client._ps.parse(wire)
    assert read == [b"a", b"$JS.ACK.1", b"", b"body"]
    assert not client.deliveries


async def test_what_was_on_its_way_to_a_listener_that_ended_still_arrives() -> None:
    """A router that ends passes on the requests that were on their way to it."""
    client, _ = connected()
    heard: list[bytes] = []
    subscription = await client.listen("requests", lambda *parts: heard.append(parts[-1]))
    await subscription.unsubscribe()
    await client._ps.parse(message(b"requests", b"on its way", sid=subscription._id))
    assert heard == [b"on its way"]


async def test_what_is_posted_in_one_turn_leaves_in_one_write() -> None:
    client, transport = connected()
    client.post("a", b"", b"one")
    client.post("b", b"NATS/1.0\r\nA: b\r\n\r\n", b"two")
    assert transport.writes == []
    await turn()
    assert transport.writes == [
        b"PUB a 3\r\none\r\nHPUB b 18 21\r\nNATS/1.0\r\nA: b\r\n\r\ntwo\r\n"
    ]
    client.post("c")
    await turn()
    assert transport.writes[1:] == [b"PUB c 0\r\n\r\n"]


async def test_what_is_posted_just_before_a_write_leaves_with_it() -> None:
    client, transport = connected()
    client.before_write(lambda: client.post("b"))
    client.post("a")
    await turn()
    await turn()
    assert transport.writes == [b"PUB a 0\r\n\r\nPUB b 0\r\n\r\n"]
    client.before_write(lambda: client.post("c"))
    await turn()
    await turn()
    assert transport.writes[1:] == [b"PUB c 0\r\n\r\n"]


async def test_an_error_just_before_a_write_keeps_nothing_else_back() -> None:
    client, transport = connected()
    client.before_write(lambda: client.post("a", b"", b"x" * 101))
    client.post("b")
    with pytest.raises(MaxPayloadError):
        client.write()
    client.post("c")
    client.write()
    assert transport.writes == [b"PUB b 0\r\n\r\nPUB c 0\r\n\r\n"]


async def test_a_flush_ends_when_the_server_has_seen_what_was_sent_before() -> None:
    client, transport = connected()
    for_ever = asyncio.Event()
    client._reading_task = client._flusher_task = asyncio.create_task(for_ever.wait())
    client._flush_queue = asyncio.Queue()
    await client.subscribe("a")
    flushing = asyncio.create_task(client.flush())
    await turn()
    assert transport.writes == [b"SUB a  1\r\n", b"PING\r\n"]
    await client._process_pong()
    await flushing
    client._flusher_task.cancel()


async def test_what_is_posted_while_the_server_is_gone_is_kept_in_order() -> None:
    client, transport = connected()
    client._status = Client.RECONNECTING
    client.post("a", b"", b"one")
    await turn()
    client.post("a", b"", b"two")
    await turn()
    assert transport.writes == []
    client._status = Client.CONNECTED
    client.write()
    assert transport.writes == [b"PUB a 3\r\none\r\nPUB a 3\r\ntwo\r\n"]
    client.post("a", b"", b"three")
    await turn()
    assert len(transport.writes) == 2


async def test_only_so_much_is_kept_while_the_server_is_gone() -> None:
    client, transport = connected()
    client._status = Client.RECONNECTING
    client.post("a", b"", b"x" * 100)
    client.post("a", b"", b"x" * 100)
    with pytest.raises(OutboundBufferLimitError):
        client.post("a", b"", b"x" * 100)
    client._status = Client.CONNECTED
    client.write()
    assert transport.writes[0].count(b"PUB a 100") == 2


async def test_a_server_that_is_there_takes_any_number_at_once() -> None:
    client, transport = connected()
    for _ in range(50):
        client.post("a", b"", b"x" * 100)
    await turn()
    assert b"".join(transport.writes).count(b"PUB a 100") == 50


async def test_many_messages_of_a_turn_are_written_in_parts_and_in_order() -> None:
    client, transport = connected()
    for number in range(2 * WRITTEN + 1):
        client.post("a", b"", b"%d" % number)
    assert [each.count(b"PUB") for each in transport.writes] == [WRITTEN, WRITTEN]
    await turn()
    written = b"".join(transport.writes).split(b"\r\n")[1::2]
    assert written == [b"%d" % number for number in range(2 * WRITTEN + 1)]


@pytest.mark.parametrize(
    ("under_way", "together"),
    [(0, LEAST_WRITTEN), (8, LEAST_WRITTEN), (20, 10), (32, WRITTEN), (1000, WRITTEN)],
)
async def test_half_of_the_requests_that_are_expected_are_written_together(
    under_way: int, together: int
) -> None:
    client, transport = connected()
    client.expect(under_way)
    for number in range(together + 1):
        client.post("a", b"", b"%d" % number)
    assert [each.count(b"PUB") for each in transport.writes] == [together]
    await turn()
    assert [each.count(b"PUB") for each in transport.writes] == [together, 1]


class Slow(DirectTransport):
    """A connection to a server that reads only as it is told."""

    def __init__(self) -> None:
        super().__init__(Heard().parser)
        self.waits = 0

    def write(self, payload: bytes) -> None:
        self.waits += len(payload)

    def unsent(self) -> int:
        return self.waits


async def test_only_so_much_waits_for_a_server_that_reads_slowly() -> None:
    client, _ = connected()
    slow = Slow()
    client._transport = slow
    client._max_payload = 2 * MAX_UNSENT
    client.post("a", b"", b"x" * MAX_UNSENT)
    await turn()
    with pytest.raises(OutboundBufferLimitError):
        client.post("a", b"", b"x")
    slow.waits = 0
    client.post("a", b"", b"x")
    await turn()
    assert slow.waits > 0


async def test_what_is_too_large_is_refused_its_header_counted() -> None:
    client, transport = connected()
    header = b"NATS/1.0\r\nA: b\r\n\r\n"
    client.post("a", header, b"x" * (100 - len(header)))
    with pytest.raises(MaxPayloadError):
        client.post("a", header, b"x" * (101 - len(header)))
    await turn()
    assert len(transport.writes) == 1
    assert transport.writes[0].count(b"HPUB") == 1


async def test_a_closed_connection_takes_nothing() -> None:
    client, transport = connected()
    client._status = Client.CLOSED
    with pytest.raises(ConnectionClosedError):
        client.post("a", b"", b"x")
    await turn()
    assert transport.writes == []


# What a connection does whose end is not read yet


async def ended() -> DirectTransport:
    """Return a connection that the server has ended."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        transport = DirectTransport(Heard().parser)
        await transport.connect(urlparse(f"nats://127.0.0.1:{port}"), 4096, 5)
        transport.close()  # type: ignore[no-untyped-call]
    return transport


def on_uvloop(test: Coroutine[Any, Any, None]) -> None:
    uvloop.run(test)


def test_what_is_written_after_the_end_ends_no_task_of_nats_py() -> None:
    async def test() -> None:
        transport = await ended()
        assert transport.lost
        transport.write(b"PING\r\n")
        with pytest.raises(OSError, match="has ended"):
            transport.writelines([b"PUB a 0\r\n\r\n"])

    on_uvloop(test())


def test_what_is_posted_after_the_end_is_kept_until_the_next_connection() -> None:
    async def test() -> None:
        client = FastClient()
        client._transport = await ended()
        client._status = Client.CONNECTED
        client._max_payload = 1024
        client.post("a", b"", b"body")
        client.write()
        assert b"".join(client._pending).startswith(b"PUB a 4\r\n")

    on_uvloop(test())
