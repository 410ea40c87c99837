"""Records what each request of a gateway used, once its answer has ended.

Nothing waits for a record: those of a moment are stored together, one message after the other. A
gateway that is killed loses the records that are not stored yet, and has none of the requests that
it had in flight; a request is never recorded twice.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections import deque
from functools import lru_cache

from nebula.actors.gateway.answer import Answer
from nebula.actors.projection import Projection
from nebula.events.key import OF_KEY
from nebula.events.usage import UsageRecord, UsageRecords
from nebula.store.connection import Connection, Unavailable
from nebula.store.durable import NoRoom
from nebula.store.usage import UsageStore

log = logging.getLogger(__name__)

GATHER = 0.2
"""Seconds for which records are gathered before they are stored together."""

AT_ONCE = 256
"""Records of one message at most."""

WAITING = 100_000
"""Records of a kind that wait for NATS at most; further ones are dropped, and counted."""

AGAIN = 2.0

LAST = 2.0
"""Seconds in which an ending gateway stores what is left."""


@lru_cache(maxsize=4096)
def _asked_by(user: str) -> tuple[str, str, str]:
    """Return whose request it is, by its `user`: the owner, the id of its API key, the end user.

    The owner: `key:` and the id of an API key, or the hash of another key.
    """
    owner, _, end_user = user.partition("/")
    return owner, owner.removeprefix(OF_KEY), end_user


def record_of(
    answer: Answer, now: float, identity: str = "", batch: str = "", tenant: str = ""
) -> UsageRecord | None:
    """Return what a request used whose answer has ended; None if its client got nothing of one.

    `identity`: the id under which it is recorded, if not its own.
    """
    tokens = answer.tokens
    if tokens is None:
        return None
    request = answer.request
    owner, _, user = _asked_by(request.user)
    cached = tokens.cached
    return UsageRecord(
        identity or request.id,
        int(now),
        owner,
        request.model,
        request.path,
        tenant,
        user,
        request.adapter,
        tokens.prompt,
        cached if cached <= tokens.prompt else tokens.prompt,
        tokens.completion,
        tokens.counted,
        not answer.complete or bool(answer.failure),
        answer.replica,
        batch,
        answer.cancelled_by,
    )


class UsageRecorder:
    """The records of one run of a gateway."""

    def __init__(
        self, connection: Connection, gateway: str, replicas: int, projection: Projection
    ) -> None:
        self._projection = projection
        self.store = UsageStore(connection, replicas)
        self._writer = f"{gateway[:90]}-{uuid.uuid4().hex[:16]}"
        self._waiting: deque[UsageRecord] = deque()
        self._alone: deque[UsageRecord] = deque()
        self._dropped = 0
        self._news = asyncio.Event()
        self._taken: UsageRecords | None = None
        self._number = self._after = 0

    @property
    def waiting(self) -> int:
        """The number of records that are not stored yet."""
        taken = len(self._taken.records) if self._taken is not None else 0
        return len(self._waiting) + len(self._alone) + taken

    def ended(self, answer: Answer, identity: str = "") -> UsageRecord | None:
        """Record an answer that has ended; return the record, None if its client got nothing of it.

        `identity`: what it was made for, if another gateway may record the same.
        """
        record = self.record(answer, identity)
        if record is not None:
            self.add(record, alone=identity != "")
        return record

    def record(self, answer: Answer, identity: str = "", batch: str = "") -> UsageRecord | None:
        """Return what an answer used that has ended now; None if its client got nothing of it."""
        key = self._projection.state.keys.get(_asked_by(answer.request.user)[1])
        tenant = "" if key is None else key.tenant
        return record_of(answer, time.time(), identity, batch, tenant)

    def add(self, record: UsageRecord, *, alone: bool = False) -> None:
        """Add a record; `alone`: another gateway may have one with its id."""
        waiting = self._alone if alone else self._waiting
        if len(waiting) >= WAITING:
            self._dropped += 1
            return
        if not waiting:
            self._news.set()
        waiting.append(record)

    async def record_now(self, record: UsageRecord) -> None:
        """Store a record that another gateway may store too. Raise Unavailable.

        Where NATS has no room for records, nothing waits for it.
        """
        try:
            await self.store.open()
            await self.store.store_once(record)
        except NoRoom:
            self.add(record, alone=True)

    async def run(self) -> None:
        """Store records until cancelled; then what is left."""
        try:
            while True:
                await self._news.wait()
                await asyncio.sleep(GATHER)
                try:
                    await self._store_all()
                except Unavailable as error:
                    log.debug("usage records wait: %s", error)
                    await asyncio.sleep(AGAIN)
        finally:
            with contextlib.suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(LAST):
                    await self._store_all()

    async def _store_all(self) -> None:
        if self._news.is_set():
            await self.store.open()
        while self._alone or self._taken is not None or self._waiting or self._dropped:
            if self._alone:
                await self.store.store_once(self._alone[0])
                self._alone.popleft()
                continue
            self._taken = self._take() if self._taken is None else self._taken
            message = f"{self._writer}-{self._number}"
            self._after = await self.store.store(self._writer, message, self._taken, self._after)
            self._taken, self._number = None, self._number + 1
        self._news.clear()

    def _take(self) -> UsageRecords:
        """Return the next records, which are stored as they are at every try."""
        count = min(AT_ONCE, len(self._waiting))
        taken = UsageRecords(tuple(self._waiting.popleft() for _ in range(count)), self._dropped)
        self._dropped = 0
        return taken
