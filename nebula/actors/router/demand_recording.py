"""Writes once a minute what a router refused and had wait; a minute without any writes nothing."""

import asyncio
import contextlib
import logging
import time
from collections import deque

from nebula.actors.router.demand import Demand
from nebula.events.demand import MINUTE, DemandRecord
from nebula.store.connection import Connection, Unavailable
from nebula.store.demand import DemandStore

log = logging.getLogger(__name__)

WAITING = 60
"""Records that wait for NATS at most: the oldest is dropped."""

LAST = 2.0
"""Seconds in which an ending router stores what is left."""


class DemandRecorder:
    """The records of one router."""

    def __init__(
        self, connection: Connection, router: str, stream_replicas: int, demand: Demand
    ) -> None:
        self._store = DemandStore(connection, stream_replicas)
        self._router = router
        self._demand = demand
        self._records: deque[DemandRecord] = deque(maxlen=WAITING)

    async def run(self) -> None:
        """Store a record after each minute in which there was something, until cancelled."""
        while True:
            begun = time.time_ns()
            await asyncio.sleep((MINUTE - begun % MINUTE) / 1e9)
            self._take(begun)
            try:
                await self._store_all()
            except Unavailable as error:
                log.debug("what was refused and waited is not recorded now: %s", error)

    async def end(self) -> None:
        """Store what is left."""
        self._take(time.time_ns())
        with contextlib.suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(LAST):
                await self._store_all()

    def _take(self, when: int) -> None:
        record = self._demand.take(time.monotonic(), when)
        if record is not None:
            self._records.append(record)

    async def _store_all(self) -> None:
        while self._records:
            await self._store.put(self._router, self._records[0])
            self._records.popleft()
