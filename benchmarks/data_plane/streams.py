"""A client for streams that costs little: it notes when events come and reads nothing in them."""

import asyncio
import signal
import time
from collections.abc import Coroutine, Mapping
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

import uvloop

T = TypeVar("T")

_EVENT = b"data: {"
_ERROR = b'data: {"error"'
_DONE = b"data: [DONE]"
_END = b"0\r\n\r\n"  # the chunk that ends a chunked body


class Streamed(NamedTuple):
    """One answer: when it was asked, when the first token was seen, and when events came.

    `arrivals` has the time of each read and the events in it; an answer that is broken off or
    refused is not `whole`.
    """

    asked: float
    first: float
    arrivals: list[tuple[float, int]]
    whole: bool


class Connection(asyncio.Protocol):
    """One connection that takes one request at a time; `first` is what the first token holds."""

    def __init__(self, first: bytes) -> None:
        self._first = first
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Streamed] | None = None
        self._begin(0.0)

    def _begin(self, asked: float) -> None:
        self._asked = asked
        self._seen = 0.0
        self._arrivals: list[tuple[float, int]] = []
        self._rest = b""
        self._good = False
        self._done = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes, but have all their methods.
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> asyncio.Future[Streamed]:
        """Send a request; the answer comes when it has ended, one way or the other."""
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport is None or self._transport.is_closing():
            self._begin(time.perf_counter())
            self._finish(whole=False)
        else:
            self._begin(time.perf_counter())
            self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self._arrivals and not self._rest:
            self._good = data.startswith(b"HTTP/1.1 200")
        text = self._rest + data
        # What the network has cut in two is counted with its second half; what lies in the rest
        # as a whole was counted before.
        if events := text.count(_EVENT) - self._rest.count(_EVENT):
            self._arrivals.append((now, events))
        if not self._seen and self._first in text:
            self._seen = now
        self._good = self._good and _ERROR not in text
        self._done = self._done or _DONE in text
        self._rest = text[-64:]
        if self._done and text.endswith(_END):
            self._finish(whole=self._good)
        elif not self._good:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        # One that closes at the end instead of saying so has said [DONE].
        self._finish(whole=self._good and self._done and exc is None)

    def _finish(self, whole: bool) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Streamed(self._asked, self._seen, self._arrivals, whole))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def run(load: Coroutine[Any, Any, T]) -> T:
    """Run a load to its end; SystemExit where a signal ended it.

    A signal's exception that is raised while a connection reads would end no more than that
    connection: the loop takes it for the connection's own. So the signals go through the loop.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stopped: list[int] = []

    async def guarded() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def stop(number: int) -> None:
            stopped.append(number)
            task.cancel()

        for number in handlers:
            loop.add_signal_handler(number, stop, number)
        return await load

    try:
        return uvloop.run(guarded())
    except asyncio.CancelledError:
        raise SystemExit(128 + stopped[0]) from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def request(url: str, body: bytes | None, headers: Mapping[str, str] | None = None) -> bytes:
    """Write a POST, or without a body a GET, as it goes over the wire."""
    parts = urlsplit(url)
    lines = [f"{'GET' if body is None else 'POST'} {parts.path} HTTP/1.1", f"Host: {parts.netloc}"]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{key}: {value}" for key, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


async def connect(url: str, first: bytes) -> Connection:
    """Open a connection to a URL's host. OSError if it can't be reached."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        lambda: Connection(first), parts.hostname or "", parts.port or 80
    )
    return connection
