"""nats-py's client with a faster way in and out for what a data plane says: many small messages.

nats-py gives every message a queue, a task's turn and a parsed header, and every publication a
turn of its flusher. Here a subscription made by `listen` is called for each message as its bytes
are read, and everything that is posted in one turn of the event loop leaves in one write.
Connecting, reconnecting and all else stay nats-py's.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import ConnectionClosedError, MaxPayloadError, OutboundBufferLimitError
from nats.protocol.parser import Parser

from nebula.events.record import parse_headers

log = logging.getLogger(__name__)

T = TypeVar("T")
Arrival: TypeAlias = Callable[[bytes, bytes, bytes], None]
"""What `listen` calls: with the subject, the header block (empty where there is none), the body."""

_PLAIN = b"NATS/1.0\r\n"
"""How a header block begins that carries no status of the server's."""


class Headers(dict[str, str]):
    """Headers as nats-py reads them, and the block of bytes that they were read from."""

    block: bytes = b""


class FastClient(Client):
    """See the module; besides, it loses neither a header block's bytes nor a cancellation."""

    def __init__(self) -> None:
        super().__init__()
        self._ps = _FastParser(self)
        self.arrivals: dict[int, Arrival] = {}
        self._writing = False

    async def listen(self, subject: str, arrival: Arrival, queue: str = "") -> Subscription:
        """Subscribe: `arrival` is called for every message, in order, and must not block."""
        # The server may answer the subscription before `subscribe` returns.
        self.arrivals[self._sid + 1] = arrival
        return await self.subscribe(subject, queue=queue)

    def post(self, subject: str, header: bytes = b"", body: bytes = b"") -> None:
        """Publish at the end of this turn of the event loop, with a header block as it stands.

        While the server is gone the message is kept and sent afterwards. Raises nats-py's errors:
        MaxPayloadError, ConnectionClosedError, OutboundBufferLimitError when too much is kept.
        """
        size = len(header) + len(body)
        if size > self._max_payload:
            raise MaxPayloadError
        if not self.is_connected:
            if self.is_closed:
                raise ConnectionClosedError
            if self._pending_data_size + size > self._max_pending_size:
                raise OutboundBufferLimitError
        if header:
            line = b"HPUB %b %d %d\r\n" % (subject.encode(), len(header), size)
        else:
            line = b"PUB %b %d\r\n" % (subject.encode(), size)
        self._pending += (line, header, body, b"\r\n")
        self._pending_data_size += len(line) + size + 2
        if not self._writing:
            self._writing = True
            asyncio.get_running_loop().call_soon(self.write)

    def write(self) -> None:
        """Hand everything that is posted to the connection, now."""
        self._writing = False
        if self._pending_data_size and self.is_connected and self._transport is not None:
            pending, self._pending = self._pending, []
            self._pending_data_size = 0
            self._transport.write(b"".join(pending))

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        arrival = self.arrivals.get(sid)
        if arrival is None:
            await super()._process_msg(sid, subject, reply, data, headers)  # type: ignore[arg-type]
        else:
            arrival(subject, headers or b"", data)

    async def connect(self, *args: Any, **options: Any) -> None:
        """As nats-py's."""
        await _or_cancelled(super().connect(*args, **options))

    async def request(self, *args: Any, **options: Any) -> Msg:
        """As nats-py's."""
        return await _or_cancelled(super().request(*args, **options))

    async def flush(self, *args: Any, **options: Any) -> None:
        """As nats-py's."""
        await _or_cancelled(super().flush(*args, **options))

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        flushing = super()._flush_pending(force_flush)
        return await (_or_cancelled(flushing) if force_flush else flushing)

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        if headers is None:
            return None
        block = bytes(headers)
        if block.startswith(_PLAIN):
            kept = Headers(parse_headers(block))  # nats-py looks at every character of every key
        else:
            kept = Headers(await super()._process_headers(headers) or {})
        if not kept:
            return None
        kept.block = block
        return kept


class _FastParser(Parser):
    """Cuts the server's bytes into messages; leaves every other line of the protocol to nats-py.

    The protocol: https://docs.nats.io/reference/reference-protocols/nats-protocol
    """

    nc: FastClient

    def reset(self) -> None:
        super().reset()
        self._wanted = 0
        self._resets = getattr(self, "_resets", 0) + 1

    async def parse(self, data: bytes = b"") -> None:
        self.buf += data
        if len(self.buf) < self._wanted:
            return
        data = bytes(self.buf)
        end = len(data)
        at = 0
        self._wanted = 0
        resets = self._resets
        client = self.nc
        arrivals = client.arrivals
        while at < end:
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                break
            if data.startswith(b"HMSG ", at):
                fields = data[at + 5 : line_end].split()
                header_size, size = int(fields[-2]), int(fields[-1])
            elif data.startswith(b"MSG ", at):
                fields = data[at + 4 : line_end].split()
                header_size, size = 0, int(fields[-1])
            else:
                self.buf = bytearray(data[at : line_end + 2])
                at = line_end + 2
                await super().parse()
                if self._resets != resets:
                    return  # connected anew meanwhile: what is left here is the old connection's
                continue
            begin = line_end + 2
            stop = begin + size
            if stop + 2 > end:
                self._wanted = stop + 2 - at
                break
            sid = int(fields[1])
            body = data[begin + header_size : stop]
            header = data[begin : begin + header_size]
            at = stop + 2
            arrival = arrivals.get(sid)
            if arrival is None:
                reply = fields[2] if len(fields) == (5 if header_size else 4) else b""
                await client._process_msg(sid, fields[0], reply, body, header or None)
                if self._resets != resets:
                    return
                continue
            try:
                arrival(fields[0], header, body)
            except Exception:
                log.exception("a message on %r could not be taken", fields[0])
        self.buf = bytearray(data[at:])
        client.write()


async def _or_cancelled(answer: Awaitable[T]) -> T:
    """Give the answer or raise its error, unless the task was cancelled while it waited.

    Before Python 3.12 `asyncio.wait_for`, which nats-py waits with, drops a cancellation that comes
    in the same turn of the event loop as the answer, and whoever waits for the task waits for ever.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        return await answer
    finally:
        if task.cancelling() > before:
            raise asyncio.CancelledError
