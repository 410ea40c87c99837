"""An HTTP client that costs little and says exactly what came of each request.

An answer that ends before its end, a connection that is refused and one that breaks are different
things here; nothing is tried again.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import urlsplit

import httptools

from benchmarks.data_plane.streams import request

CONNECT_PATIENCE = 10.0
_EVENT = b"data: {"


class Refused(Exception):
    """There is no listener: nothing was sent."""


class Answer:
    """What came of a request until now. Times are those of `time.perf_counter`.

    `whole`: it came to its end as HTTP has it. `news`: when the last part of its body came, and
    `first`, of a stream, its first event.
    """

    __slots__ = ("asked", "body", "events", "first", "headers", "news", "status", "whole")

    def __init__(self, asked: float) -> None:
        self.asked = self.news = asked
        self.first = 0.0
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.events = 0
        self.whole = False

    @property
    def id(self) -> str:
        """The request's id, once the answer has begun."""
        return self.headers.get("x-request-id", "")


class Connection(asyncio.Protocol):
    """A connection that takes one request at a time."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self.answer = Answer(0.0)
        self._ended: asyncio.Future[Answer] | None = None
        self._on_body: Callable[[Answer], None] | None = None

    @property
    def usable(self) -> bool:
        """Whether it takes another request."""
        open_ = self._transport is not None and not self._transport.is_closing()
        return open_ and (self._ended is None or self._ended.done())

    def ask(
        self, wire: bytes, on_body: Callable[[Answer], None] | None = None
    ) -> asyncio.Future[Answer]:
        """Send a request; its answer comes when it has ended, one way or the other."""
        assert self._transport is not None
        self.answer = Answer(time.perf_counter())
        self._ended = asyncio.get_running_loop().create_future()
        self._on_body = on_body
        self._transport.write(wire)
        if self._transport.is_closing():
            self._finish()
        return self._ended

    def close(self) -> None:
        """Leave, whatever is still to come."""
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """Read no further for now."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # What the event loop and the parser tell

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes, but have all their methods.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._finish()

    def on_header(self, key: bytes, value: bytes) -> None:
        self.answer.headers[key.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.answer.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        answer = self.answer
        answer.news = time.perf_counter()
        answer.body += body
        answer.events += body.count(_EVENT)
        if not answer.first and answer.events:
            answer.first = answer.news
        if self._on_body is not None:
            self._on_body(answer)

    def on_message_complete(self) -> None:
        self.answer.whole = True
        if not self._parser.should_keep_alive() and self._transport is not None:
            self._transport.close()
        self._finish()

    def _finish(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(self.answer)


async def connect(url: str, *, buffer: int = 0) -> Connection:
    """Open a connection to a URL's host. Raise Refused.

    `buffer`: bytes that the kernel may keep of what is not read yet, if not as many as it likes.
    """
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_PATIENCE):
            if buffer:
                narrow = socket.socket()
                narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
                narrow.setblocking(False)
                await loop.sock_connect(narrow, (parts.hostname, parts.port))
                _, connection = await loop.create_connection(Connection, sock=narrow)
                return connection
            _, connection = await loop.create_connection(
                Connection, parts.hostname or "", parts.port or 80
            )
    except (OSError, TimeoutError) as error:
        raise Refused(str(error) or repr(error)) from error
    return connection


async def ask(
    url: str,
    body: bytes | None,
    headers: Mapping[str, str] | None = None,
    *,
    on_body: Callable[[Answer], None] | None = None,
    silence: float = 600.0,
) -> Answer:
    """Ask on a connection of its own. Raise Refused.

    The answer is as far as it came after `silence` seconds without news, or with its connection.
    """
    connection = await connect(url)
    try:
        ended = connection.ask(request(url, body, headers), on_body)
        answer = connection.answer
        while not ended.done():
            left = answer.news + silence - time.perf_counter()
            if left <= 0:
                return answer
            await asyncio.wait((ended,), timeout=left)
        return ended.result()
    finally:
        connection.close()
