"""How the server's bytes become messages: read, cut and handed over with no task between.

nats-py reads through asyncio's StreamReader in a task of its own, so that every message waits for a
turn of the event loop. What is for a subscription of `listen` is handed over here as soon as it is
read; all else goes nats-py's way, in its order.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Protocol, TypeAlias
from urllib.parse import ParseResult

from nats.aio.transport import TcpTransport
from nats.protocol.parser import Parser

log = logging.getLogger(__name__)

Arrival: TypeAlias = Callable[[bytes, bytes, bytes], None]
"""What `listen` calls: with the subject, the header block (empty where there is none), the body."""


CLOSING = 1.0
"""Seconds that a connection has to close."""

_MESSAGES = (b"MSG ", b"HMSG ")


class Client(Protocol):
    """What messages are for: `arrivals` by subscription, all others to `_process_msg`."""

    arrivals: dict[int, Arrival]
    _pings_outstanding: int

    def write(self) -> None:
        """Hand everything that is posted to the connection, now."""

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None: ...


class FastParser(Parser):
    """Cuts the server's bytes into messages; leaves every other line of the protocol to nats-py.

    The protocol: https://docs.nats.io/reference/reference-protocols/nats-protocol
    """

    nc: Client

    def reset(self) -> None:
        """As nats-py's: another connection begins."""
        super().reset()
        self._wanted = 0
        self._parsing = False
        self._begun: list[bytes] = []
        self._begun_size = 0
        self._resets = getattr(self, "_resets", 0) + 1

    def arrived(self, data: bytes) -> bytes:
        """Hand over the messages for `listen`; give what comes after them.

        One that has begun is kept until it is whole. Whatever comes is a sign of life: the answer
        to a ping may stand behind much else.
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
                message = _Message(data, at, line_end)
                if message.end > len(data):
                    self._wanted = message.end - at
                    break
                at = message.end
                await client._process_msg(
                    message.sid,
                    message.subject,
                    message.reply,
                    data[message.body : message.end - 2],
                    data[message.header : message.body] or None,
                )
            if self._resets != resets:
                return  # connected anew meanwhile: what is left here is the old connection's
        self.buf = bytearray(data[at:])
        client.write()

    def _take(self, data: bytes, at: int) -> int:
        """Hand over messages for `listen`, up to something else: give where that begins."""
        arrivals = self.nc.arrivals
        end = len(data)
        while at < end:
            line_end = data.find(b"\r\n", at)
            if line_end < 0 or not data.startswith(_MESSAGES, at):
                break
            message = _Message(data, at, line_end)
            arrival = arrivals.get(message.sid)
            if arrival is None:
                break
            if message.end > end:
                self._wanted = message.end - at
                break
            at = message.end
            header, body = message.header, message.body
            try:
                arrival(message.subject, data[header:body], data[body : at - 2])
            except Exception:
                log.exception("a message on %r could not be taken", message.subject)
        return at


class _Message:
    """Where in the server's bytes a message's parts are, from its line."""

    __slots__ = ("body", "end", "header", "reply", "sid", "subject")

    def __init__(self, data: bytes, at: int, line_end: int) -> None:
        fields = data[at:line_end].split()
        self.header = self.body = line_end + 2
        if fields[0] == b"HMSG":
            self.body += int(fields[-2])
        self.subject = fields[1]
        self.sid = int(fields[2])
        self.reply = fields[3] if len(fields) == (6 if fields[0] == b"HMSG" else 5) else b""
        self.end = self.header + int(fields[-1]) + 2


class Reader(asyncio.StreamReader):
    """Takes what is read from the server's connection, before any task of nats-py's has a turn."""

    def __init__(self, parser: FastParser, limit: int) -> None:
        super().__init__(limit, asyncio.get_running_loop())
        self._parser = parser
        self._behind = 0

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]
        """Hand over the messages for `listen`, unless others come before them; keep the rest."""
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
    """nats-py's connection, with a reader of ours."""

    def __init__(self, parser: FastParser) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._parser = parser

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        """As nats-py's."""
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

    async def wait_closed(self) -> None:
        """As nats-py's, with an end: a TLS connection that failed never says that it is closed."""
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(CLOSING):
                await super().wait_closed()  # type: ignore[no-untyped-call]

    def unsent(self) -> int:
        """Return the bytes that wait for the server to read on."""
        writer = self._io_writer
        return 0 if writer is None else int(writer.transport.get_write_buffer_size())

    def __bool__(self) -> bool:
        return True  # else nats-py would put its own in its place before it is connected
