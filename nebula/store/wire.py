"""Turns the server's bytes into messages and delivers them without a task in between.

nats-py reads through asyncio's StreamReader in a task of its own, so that every message waits for a
turn of the event loop. Here messages for a subscription by `listen` are delivered as soon as they
are read; everything else goes through nats-py, in order.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Protocol, TypeAlias
from urllib.parse import ParseResult

from nats.aio.transport import TcpTransport
from nats.protocol.parser import Parser

from nebula.store import freed_memory

log = logging.getLogger(__name__)

Arrival: TypeAlias = Callable[[bytes, bytes, bytes], None]
"""A callback of `listen`: gets the subject, the header block (empty if there is none), the body.

A callback of `listen_for_questions` gets the reply subject in place of the subject.
"""

Delivery: TypeAlias = Callable[[bytes, bytes, bytes, bytes], None]
"""A callback of `listen_for_deliveries`: gets the subject, the reply subject, the header block and
the body."""


CLOSING = 1.0
"""Seconds that a connection gets to close."""

_MESSAGES = (b"MSG ", b"HMSG ")
_KINDS = frozenset((b"MSG", b"HMSG"))
_FIELDS = 4
"""Fields that the protocol line of a message has at least."""


class Client(Protocol):
    """The receiver of messages: `arrivals` by subscription, all others to `_process_msg`.

    `questions`: the arrivals that get the reply subject. `deliveries`: what gets both subjects.
    """

    arrivals: dict[int, Arrival]
    questions: dict[int, Arrival]
    deliveries: dict[int, Delivery]
    _pings_outstanding: int

    def write(self) -> None:
        """Pass everything that was posted to the connection now."""

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None: ...


class FastParser(Parser):
    """Splits the server's bytes into messages; leaves all other protocol lines to nats-py.

    The protocol: https://docs.nats.io/reference/reference-protocols/nats-protocol
    """

    nc: Client

    def reset(self) -> None:
        """As nats-py's method: another connection begins."""
        super().reset()
        self._wanted = 0
        self._parsing = False
        self._begun: list[bytes] = []
        self._begun_size = 0
        self._resets = getattr(self, "_resets", 0) + 1

    def arrived(self, data: bytes) -> bytes:
        """Deliver the messages for `listen`; return the bytes after them.

        An incomplete message is kept until it is complete. All bytes are a sign of life, since the
        answer to a ping may be behind many others.
        """
        self.nc._pings_outstanding = 0
        if self.buf or self._parsing:
            return data
        if self._begun:
            self._begun.append(data)
            self._begun_size += len(data)
            if self._begun_size < self._wanted:
                return b""
            data = b"".join(self._begun)
            self._begun.clear()
        self._wanted = 0
        at = self._take(data, 0)
        self.nc.write()
        if not self._wanted:
            return data[at:]
        self._begun.append(data[at:])
        self._begun_size = len(data) - at
        return b""

    async def parse(self, data: bytes = b"") -> None:
        """As nats-py's."""
        self.buf += data
        if len(self.buf) < self._wanted:
            return
        resets = self._resets
        self._parsing = True
        try:
            await self._parse()
        finally:
            if self._resets == resets:
                self._parsing = False

    async def _parse(self) -> None:
        data = bytes(self.buf)
        at = self._wanted = 0
        resets = self._resets
        client = self.nc
        while True:
            at = self._take(data, at)
            line_end = data.find(b"\r\n", at)
            if self._wanted or line_end < 0:
                break
            if not data.startswith(_MESSAGES, at):
                self.buf = bytearray(data[at : line_end + 2])
                at = line_end + 2
                await super().parse()
            else:
                sid, subject, reply, header, body, end = _message(data, at, line_end)
                if end > len(data):
                    self._wanted = end - at
                    break
                at = end
                await client._process_msg(
                    sid, subject, reply, data[body : end - 2], data[header:body] or None
                )
            if self._resets != resets:
                return  # reconnected meanwhile: the rest is from the old connection
        self.buf = bytearray(data[at:])
        client.write()

    def _take(self, data: bytes, at: int) -> int:
        """Deliver messages for `listen` until something else comes; return its position."""
        arrivals, deliveries = self.nc.arrivals, self.nc.deliveries
        size = len(data)
        while at < size:
            line_end = data.find(b"\r\n", at)
            fields = data[at:line_end].split() if line_end >= 0 else []
            if len(fields) < _FIELDS or fields[0] not in _KINDS:
                break
            name = fields[1]
            header = body = line_end + 2
            if fields[0] == b"HMSG":
                body += int(fields[-2])
            number = int(fields[2])
            delivery, arrival = None, arrivals.get(number)
            if arrival is None and (delivery := deliveries.get(number)) is None:
                arrival, name = self.nc.questions.get(number), _reply(fields)
                if arrival is None:
                    break
            end = header + int(fields[-1])
            if end + 2 > size:
                self._wanted = end + 2 - at
                break
            at = end + 2
            try:
                if arrival is not None:
                    arrival(name, data[header:body], data[body:end])
                elif delivery is not None:
                    delivery(name, _reply(fields), data[header:body], data[body:end])
            except Exception:
                log.exception("a message on %r could not be processed", fields[1])
        return at


def _message(data: bytes, at: int, line_end: int) -> tuple[int, bytes, bytes, int, int, int]:
    """Return what the protocol line of a message says of it.

    Its subscription, subject and reply subject; where its header, its body and what is behind it
    begin.
    """
    fields = data[at:line_end].split()
    header = body = line_end + 2
    if fields[0] == b"HMSG":
        body += int(fields[-2])
    return int(fields[2]), fields[1], _reply(fields), header, body, header + int(fields[-1]) + 2


def _reply(fields: list[bytes]) -> bytes:
    """Return the reply subject of a message by its protocol line; b"" if it has none."""
    others = 5 if fields[0] == b"HMSG" else 4
    return fields[3] if len(fields) > others else b""


class Reader(asyncio.StreamReader):
    """Receives the bytes of the server's connection before any task of nats-py."""

    def __init__(self, parser: FastParser, limit: int) -> None:
        super().__init__(limit, asyncio.get_running_loop())
        self._parser = parser
        self._behind = 0

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]
        """Deliver the messages for `listen` unless others are before them; keep the rest."""
        if not self._behind:
            try:
                data = self._parser.arrived(data)
            except ValueError:
                log.debug("not a message: left to nats-py")
        if data:
            self._behind += len(data)
            super().feed_data(data)

    async def read(self, n: int = -1) -> bytes:
        """As asyncio's."""
        data = await super().read(n)
        self._behind -= len(data)
        return data

    async def readline(self) -> bytes:
        """As asyncio's."""
        line = await super().readline()
        self._behind -= len(line)
        return line


class DirectTransport(TcpTransport):
    """nats-py's connection with our reader."""

    def __init__(self, parser: FastParser) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._parser = parser

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        """As nats-py's."""
        freed_memory.keep()
        loop = asyncio.get_running_loop()
        reader = Reader(self._parser, buffer_size)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        async with asyncio.timeout(connect_timeout):
            transport, _ = await loop.create_connection(
                lambda: protocol, uri.hostname or "", uri.port or 0
            )
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self._bare_io_reader = self._io_reader = reader
        self._bare_io_writer = self._io_writer = writer

    @property
    def lost(self) -> bool:
        """Whether the connection has ended, although its end may not have been read yet."""
        writer = self._io_writer
        return writer is not None and writer.transport.is_closing()

    def write(self, payload: bytes) -> None:
        """As nats-py's. What comes after the end is lost with the connection, whose end is read."""
        if not self.lost:
            super().write(payload)  # type: ignore[no-untyped-call]

    def writelines(self, payload: list[bytes]) -> None:
        """As nats-py's, but raise an OSError after the end: then nats-py keeps it and reconnects.

        uvloop raises RuntimeError, which ends tasks of nats-py for good.
        """
        if self.lost:
            raise ConnectionResetError("the connection has ended")
        super().writelines(payload)  # type: ignore[no-untyped-call]

    async def wait_closed(self) -> None:
        """As nats-py's method, with a timeout: a failed TLS connection never reports its close."""
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(CLOSING):
                await super().wait_closed()  # type: ignore[no-untyped-call]

    def unsent(self) -> int:
        """Return the bytes that wait for the server to read them."""
        writer = self._io_writer
        return 0 if writer is None else int(writer.transport.get_write_buffer_size())

    def __bool__(self) -> bool:
        return True  # otherwise nats-py would install its own before it is connected
