"""Sums usage records in events, about once an hour: whichever gateway is first."""

import asyncio
import logging
import random
import time

from nebula.actors.projection import Projection
from nebula.events import subjects
from nebula.events.usage_sums import HOUR
from nebula.events.version import LOCKS
from nebula.store import durable, usage_log
from nebula.store.connection import Unavailable
from nebula.store.log import Conflict, Guard, Log, TooLarge
from nebula.store.usage import ROOM, STREAM, Kept, UsageStore

log = logging.getLogger(__name__)

LOOK = 60.0
"""Seconds until it is looked again whether records are to be summed."""

FULL = ROOM // 4
"""Bytes of records, about, that are summed before the hour is over."""


class UsageRollUp:
    """The part of a gateway that sums records."""

    def __init__(self, log: Log, projection: Projection, store: UsageStore) -> None:
        self._log = log
        self._projection = projection
        self._store = store

    async def run(self) -> None:
        """Sum records when they are due, until cancelled."""
        await self._projection.until(lambda state: state.cluster.version >= LOCKS)
        while True:
            await asyncio.sleep(random.uniform(0.5, 1.0) * LOOK)
            try:
                while await self.step(time.time()):
                    pass
            except (Unavailable, TooLarge) as error:
                log.debug("usage is not rolled up now: %s", error)
            except Conflict:
                log.debug("another gateway rolls usage up")

    async def step(self, now: float) -> bool:
        """Sum the next records if they are due; return whether there may be more.

        Raise Conflict, Unavailable, TooLarge.
        """
        kept = await self._store.kept()
        if kept is None:
            return False
        last, newest = await usage_log.newest(self._log.connection)
        after = usage_log.follows(newest, kept)
        if kept.last <= after or not await self._due(kept, after, now):
            return False
        event = await usage_log.summed(self._store, after, kept.last)
        guard = Guard(subjects.USAGE_EVENTS, last)
        await self._log.append(kept.id, event, guard=guard)
        return event.until < kept.last

    async def _due(self, kept: Kept, after: int, now: float) -> bool:
        messages = kept.last - max(after, kept.first - 1)
        if messages * kept.size > FULL * (kept.last - kept.first + 1):
            return True
        connection = self._log.connection
        oldest = await durable.next_on(connection, STREAM, subjects.USAGE, after + 1)
        if oldest is None or oldest.time is None:
            return True
        return oldest.time.timestamp() // HOUR < now // HOUR
