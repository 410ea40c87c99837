"""One NATS connection that never gives up: it reconnects for ever and tells who asked.

It must not know what is sent over it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoServersError

from nebula.events.record import parse_headers

log = logging.getLogger(__name__)

T = TypeVar("T")
Listener = Callable[[], Awaitable[None]]
RECONNECT_WAIT = 0.25
"""Seconds between two tries to reach a server again."""
_PLAIN = b"NATS/1.0\r\n"
"""How a header block begins that carries no status of the server's."""


class Headers(dict[str, str]):
    """Headers as nats-py reads them, and the block of bytes that they were read from."""

    block: bytes = b""


class _Client(Client):
    """nats-py's client, but it loses neither a header block's bytes nor a cancellation."""

    async def connect(self, *args: Any, **options: Any) -> None:
        await _or_cancelled(super().connect(*args, **options))

    async def request(self, *args: Any, **options: Any) -> Msg:
        return await _or_cancelled(super().request(*args, **options))

    async def flush(self, *args: Any, **options: Any) -> None:
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


class Unavailable(Exception):
    """NATS, or JetStream on it, can't be reached at this moment."""


class Connection:
    """A NATS client, its JetStream context, and those who want to hear of reconnections."""

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.name = name
        self.client: Client = _Client()
        self._reconnected: list[Listener] = []
        self._lost: list[Listener] = []

    async def open(self, *, patience: float | None = None) -> "Connection":
        """Connect, waiting up to `patience` seconds for a server (None: for ever).

        Raises Unavailable when the time is over.
        """
        loop = asyncio.get_running_loop()
        deadline = None if patience is None else loop.time() + patience
        said = False
        while True:
            try:
                await self._connect()
                return self
            except (NoServersError, OSError, TimeoutError, nats.errors.Error) as error:
                if deadline is not None and loop.time() >= deadline:
                    raise Unavailable(f"no NATS server answers at {self.url}: {error}") from error
                if not said:
                    log.warning("waiting for NATS at %s (%s)", self.url, error)
                    said = True
                await asyncio.sleep(RECONNECT_WAIT)

    async def _connect(self) -> None:
        options: dict[str, Any] = {
            "servers": self.url.split(","),
            "name": self.name,
            "reconnect_time_wait": RECONNECT_WAIT,
            "connect_timeout": 5,
            "ping_interval": 5,
            "max_outstanding_pings": 2,
            "pending_size": 32 * 1024 * 1024,
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnect,
            "reconnected_cb": self._on_reconnect,
        }
        # The first connection must fail when nobody is there; every later one may wait for ever.
        self.client = _Client()
        await self.client.connect(**options, max_reconnect_attempts=1)
        self.client.options["max_reconnect_attempts"] = -1

    @property
    def connected(self) -> bool:
        """Whether a server is reachable at this moment."""
        return bool(self.client.is_connected)

    @property
    def max_body(self) -> int:
        """The largest message body, in bytes, that the server takes."""
        return int(self.client.max_payload)

    def on_reconnect(self, listener: Listener) -> None:
        """Have `listener` called after every reconnection."""
        self._reconnected.append(listener)

    def on_disconnect(self, listener: Listener) -> None:
        """Have `listener` called whenever the server is lost."""
        self._lost.append(listener)

    def forget(self, listener: Listener) -> None:
        """Call `listener` no more."""
        for listeners in (self._reconnected, self._lost):
            if listener in listeners:
                listeners.remove(listener)

    async def close(self) -> None:
        """Send what is pending, then disconnect. Never raises."""
        if self.client.is_connected:
            try:
                async with asyncio.timeout(2):
                    await self.client.flush()
            except (nats.errors.Error, TimeoutError, OSError):
                log.debug("%s: could not flush before closing", self.name)
        try:
            await self.client.close()
        except (nats.errors.Error, OSError) as error:
            # It tries to send what is pending, also when the server is gone.
            log.debug("%s: closed without a server: %r", self.name, error)

    async def _on_error(self, error: Exception) -> None:
        log.debug("%s: NATS: %r", self.name, error)

    async def _on_disconnect(self) -> None:
        if not self.client.is_closed:
            log.warning("%s: lost NATS at %s", self.name, self.url)
        for listener in tuple(self._lost):
            await listener()

    async def _on_reconnect(self) -> None:
        log.warning("%s: NATS is back", self.name)
        for listener in tuple(self._reconnected):
            await listener()
