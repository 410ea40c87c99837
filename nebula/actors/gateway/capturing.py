"""Which requests of a gateway are captured, and their way into the stream.

Nothing waits for the stream: what does not fit beside what waits for it is dropped, and counted.
"""

import asyncio
import logging
import time
from collections import deque

from nats.errors import Error as NatsError

from nebula.actors.projection import Projection
from nebula.events.capture import Capture, running
from nebula.events.captured import CapturedRequest
from nebula.events.inference import Request
from nebula.events.key import key_of
from nebula.events.reading import UNREADABLE
from nebula.store.captures import CaptureStore
from nebula.store.connection import Connection, Unavailable

log = logging.getLogger(__name__)

WAITING = 64
"""Captured requests that wait for NATS at most; further ones are dropped."""

LOOK = 1.0
"""Seconds between two looks whether a capture is over."""


class Capturing:
    """The captures as one gateway follows them.

    `rules`: those that are running; empty if none is, so that a request costs one look.
    """

    def __init__(self, connection: Connection, replicas: int, projection: Projection) -> None:
        self.rules: tuple[Capture, ...] = ()
        self._projection = projection
        self._store = CaptureStore(connection, replicas)
        self._waiting: deque[CapturedRequest] = deque()
        self._news = asyncio.Event()
        self._dropped = 0

    def of(self, request: Request) -> Capture | None:
        """Return the capture that a request belongs to, if any."""
        identity, tenant = self.holder(request)
        now = time.time_ns()
        for each in self.rules:
            if now < each.until_ns and each.matches(request.id, request.model, identity, tenant):
                return each
        return None

    def holder(self, request: Request) -> tuple[str, str]:
        """Return the id and the tenant of the key that made a request; empty for none."""
        key = key_of(self._projection.state.keys, request.user)
        return (key.id, key.tenant) if key is not None else ("", "")

    def add(self, captured: CapturedRequest) -> None:
        """Add a request that is over."""
        if len(self._waiting) >= WAITING:
            self._drop("NATS takes no more")
            return
        self._waiting.append(captured)
        self._news.set()

    async def run(self) -> None:
        """Follow the captures and store what is captured, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._store_all())

    async def _watch(self) -> None:
        """Follow which captures are running, for ever."""
        while True:
            self.rules = running(self._projection.state.captures.values(), time.time_ns())
            try:
                async with asyncio.timeout(LOOK if self.rules else None):
                    await self._projection.changed()
            except TimeoutError:
                continue

    async def _store_all(self) -> None:
        """Store what was captured, for ever."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                captured = self._waiting.popleft()
                try:
                    await self._store.put(captured)
                except (Unavailable, NatsError, *UNREADABLE) as error:
                    self._drop(str(error))

    def _drop(self, why: str) -> None:
        self._dropped += 1
        if self._dropped & (self._dropped - 1) == 0:
            log.warning("%d captured requests are dropped by now: %s", self._dropped, why)
