"""nats-py's client with a faster path for the many small messages of a data plane.

nats-py puts every message into a queue for a task, parses its header, and flushes every publication
separately. Here a subscription by `listen` is called for each message as its bytes are read, and
what is posted in one turn of the event loop is sent in few writes. Connecting, reconnecting and
everything else are nats-py's.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from nats.aio.client import Client, Srv
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import ConnectionClosedError, MaxPayloadError, OutboundBufferLimitError

from nebula.events.record import parse_headers
from nebula.store.wire import Arrival, Delivery, DirectTransport, FastParser

T = TypeVar("T")
MAX_UNSENT = 64 * 1024 * 1024
"""Bytes that may wait for a server that reads more slowly than is published."""

WRITTEN = 16
"""Messages of a turn that are not kept for its end: whatever gets them begins meanwhile."""

LEAST_WRITTEN = 4
"""The same where few requests are under way; with fewer, processes would be woken too often."""

_PARTS = 4
"""Parts of bytes that a message has."""

_PLAIN = b"NATS/1.0\r\n"
"""The beginning of a header block without a status of the server."""


class Headers(dict[str, str]):
    """Headers as nats-py reads them, with the block of bytes that they were read from."""

    block: bytes = b""


class FastClient(Client):
    """A client with `listen` and `post`, which also never loses a cancellation."""

    def __init__(self) -> None:
        super().__init__()
        self._ps = self._parser = FastParser(self)
        self.arrivals: dict[int, Arrival] = {}
        self.questions: dict[int, Arrival] = {}
        self.deliveries: dict[int, Delivery] = {}
        self._before: deque[Callable[[], None]] = deque()
        self._later: list[Callable[[], None]] = []
        self._writing = False
        self._unsent = 0
        self._kept = WRITTEN * _PARTS

    def expect(self, under_way: int) -> None:
        """Keep messages of a turn until there is one for half of so many requests under way.

        Then two halves work at the same time.
        """
        self._kept = min(WRITTEN, max(LEAST_WRITTEN, under_way // 2)) * _PARTS

    async def listen(self, subject: str, arrival: Arrival, queue: str = "") -> Subscription:
        """Subscribe: `arrival` is called for every message, in order, and must not block.

        It also gets what was on its way when the subscription was ended.
        """
        # The server may answer the subscription before `subscribe` returns.
        self.arrivals[self._sid + 1] = arrival
        return await self.subscribe(subject, queue=queue)

    async def listen_for_questions(self, subject: str, arrival: Arrival) -> Subscription:
        """As `listen`, but `arrival` gets each message's reply subject, empty if it has none."""
        self.questions[self._sid + 1] = arrival
        return await self.subscribe(subject)

    async def listen_for_deliveries(self, subject: str, delivery: Delivery) -> Subscription:
        """As `listen`, but `delivery` gets the subject and the reply subject of each message.

        Readers come and go: nothing is kept of one that has ended, nor called for it.
        """
        self.deliveries[self._sid + 1] = delivery
        return await self.subscribe(subject)

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        """As nats-py's method. A subscription for deliveries gets nothing more from here on."""
        super()._remove_sub(sid, max_msgs)
        self.deliveries.pop(sid, None)

    def ask(self, subject: str, reply: str, body: bytes) -> None:
        """As `post`, with a reply subject. Raise nats-py's errors, as there."""
        self.post(f"{subject} {reply}", b"", body)

    def post(self, subject: str, header: bytes = b"", body: bytes = b"") -> None:
        """Publish in this turn of the event loop, with a prepared header block.

        While the server is gone the message is kept and sent afterwards. Raise nats-py's errors:
        MaxPayloadError, ConnectionClosedError, OutboundBufferLimitError if too much is kept or
        waits for a slow server.
        """
        size = len(header) + len(body)
        if size > self._max_payload:
            raise MaxPayloadError
        if self._status != self.CONNECTED and not self.is_connected:
            if self.is_closed:
                raise ConnectionClosedError
            if self._pending_data_size + size > self._max_pending_size:
                raise OutboundBufferLimitError
        elif self._unsent > MAX_UNSENT:
            self._unsent = self._look_at_unsent()
            if self._unsent > MAX_UNSENT:
                raise OutboundBufferLimitError
        if header:
            line = b"HPUB %b %d %d\r\n" % (subject.encode(), len(header), size)
        else:
            line = b"PUB %b %d\r\n" % (subject.encode(), size)
        self._pending += (line, header, body, b"\r\n")
        self._pending_data_size += len(line) + size + 2
        if not self._writing:
            self._write_soon()
        elif len(self._pending) >= self._kept:
            self.pass_on()

    def before_write(self, call: Callable[[], None]) -> None:
        """Call it before the next write, in this turn or the next: what it posts leaves with it."""
        self._before.append(call)
        if not self._writing:
            self._write_soon()

    def before_next_write(self, call: Callable[[], None]) -> None:
        """Call it before the write of the next turn. To be used in what `before_write` calls."""
        self._later.append(call)

    def _write_soon(self) -> None:
        self._writing = True
        asyncio.get_running_loop().call_soon(self.write)

    def write(self) -> None:
        """Pass everything that was posted to the connection now."""
        self._writing = True  # what is posted from here on needs no further write
        try:
            while self._before:
                self._before.popleft()()
        finally:
            self._writing = False
            if self._later:
                self._before.extend(self._later)
                self._later.clear()
                self._write_soon()
        self.pass_on()

    def pass_on(self) -> None:
        """Pass what was posted to the connection now; the write of this turn still follows."""
        transport = self._transport
        if isinstance(transport, DirectTransport) and transport.lost:
            return  # kept until it is connected again
        if self._pending_data_size and self.is_connected and self._transport is not None:
            pending, self._pending = self._pending, []
            self._pending_data_size = 0
            self._transport.write(b"".join(pending))
            self._unsent = self._look_at_unsent()

    def _look_at_unsent(self) -> int:
        transport = self._transport
        return transport.unsent() if isinstance(transport, DirectTransport) else 0

    async def _connect_to_server(self, s: Srv) -> None:
        if self._transport is None and s.uri.scheme in ("nats", "tls"):
            self._transport = DirectTransport(self._parser)
        await super()._connect_to_server(s)

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        if (arrival := self.arrivals.get(sid)) is not None:
            arrival(subject, headers or b"", data)
        elif (arrival := self.questions.get(sid)) is not None:
            arrival(reply, headers or b"", data)
        elif (delivery := self.deliveries.get(sid)) is not None:
            delivery(subject, reply, headers or b"", data)
        else:
            await super()._process_msg(sid, subject, reply, data, headers)  # type: ignore[arg-type]

    async def publish(
        self,
        subject: str,
        payload: bytes = b"",
        reply: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        """As nats-py's method, but counts the headers too.

        The server counts them, and closes the connection for good after a message that is too
        large.
        """
        if headers:
            lines = "".join([f"{key}: {value}\r\n" for key, value in headers.items()])
            if len(_PLAIN) + len(lines.encode()) + 2 + len(payload) > self._max_payload:
                raise MaxPayloadError
        await super().publish(subject, payload, reply, headers)

    async def connect(self, *args: Any, **options: Any) -> None:
        """As nats-py's."""
        await _or_cancelled(super().connect(*args, **options))

    async def request(self, *args: Any, **options: Any) -> Msg:
        """As nats-py's."""
        return await _or_cancelled(super().request(*args, **options))

    async def flush(self, *args: Any, **options: Any) -> None:
        """As nats-py's method, but the server has seen all that was sent before.

        nats-py's ping overtakes what still waits for its own task to be written.
        """
        self.write()
        await _or_cancelled(super().flush(*args, **options))

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        flushing = super()._flush_pending(force_flush)
        return await (_or_cancelled(flushing) if force_flush else flushing)

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        if headers is None:
            return None
        block = bytes(headers)
        if block.startswith(_PLAIN):
            kept = Headers(parse_headers(block))  # nats-py checks every character of every key
        else:
            kept = Headers(await super()._process_headers(headers) or {})
        if not kept:
            return None
        kept.block = block
        return kept


async def _or_cancelled(answer: Awaitable[T]) -> T:
    """Return the answer or raise its error; raise CancelledError if the task was cancelled.

    Before Python 3.12 `asyncio.wait_for`, which nats-py uses, drops a cancellation that arrives in
    the same turn of the event loop as the answer; a caller that awaits the task would wait for
    ever.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        return await answer
    finally:
        if task.cancelling() > before:
            raise asyncio.CancelledError
