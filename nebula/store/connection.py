"""One NATS connection that never gives up: it reconnects for ever and tells who asked.

It must not know what is sent over it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import nats
from nats.errors import NoServersError

from nebula.store.client import FastClient

log = logging.getLogger(__name__)

Listener = Callable[[], Awaitable[None]]
RECONNECT_WAIT = 0.25
"""Seconds between two tries to reach a server again."""


class Unavailable(Exception):
    """NATS, or JetStream on it, can't be reached at this moment."""


class Connection:
    """A NATS client, its JetStream context, and those who want to hear of reconnections."""

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.name = name
        self.client = FastClient()
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
        self.client = FastClient()
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
