"""Facts that wait for the log: the node works on, and reports to the log in order, later.

Facts about one replica are reported in order and each once. A log that can't be written at the
moment (a full disk, no quorum, no NATS) delays neither the restart of an engine nor facts about
other replicas.
"""

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Protocol

from msgspec import Struct, structs

from nebula.events.brief import brief
from nebula.events.vocabulary import EngineFailed, EngineStopped, Event

log = logging.getLogger(__name__)

PATIENCE = 3.0
"""Seconds for which the node waits for the log before it continues."""

LATE = 5.0
"""Delay in seconds from which on a fact says how late it is reported."""

LONGEST = 64
"""Facts of one replica that are kept, at most; the oldest waiting ones are dropped first."""


class Append(Protocol):
    """Append an event, however long it takes, and return its sequence; 0 if it never will be."""

    def __call__(
        self, identity: str, event: Event, cause: int | None, message_id: str
    ) -> Awaitable[int]:
        """Append `event` once, under its message id."""
        ...


class _Fact(Struct, eq=False):
    event: Event
    cause: Callable[[], int | None]
    then: Callable[[int], None]
    at: float
    told: asyncio.Future[int]
    message_id: str = ""


class Outbox:
    """The facts about each replica that the log does not have yet.

    `append` follows the protocol above; `spawn` runs a worker beside the node's other work; `now`
    is a monotonic clock, in seconds.
    """

    def __init__(
        self,
        append: Append,
        spawn: Callable[[Coroutine[object, object, None], str], object],
        now: Callable[[], float],
    ) -> None:
        self._append = append
        self._spawn = spawn
        self._now = now
        self._facts: dict[str, deque[_Fact]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._facts.values()))

    async def tell(
        self,
        identity: str,
        event: Event,
        cause: Callable[[], int | None],
        then: Callable[[int], None] = lambda _: None,
    ) -> bool:
        """Report an event; return whether the log has it within `PATIENCE` seconds.

        If it has not, the event is reported later, after earlier ones. `cause` is called when it is
        appended; `then` is called with its sequence once it is folded, or 0 if it never is.
        """
        told = asyncio.get_running_loop().create_future()
        fact = _Fact(event, cause, then, self._now(), told, uuid.uuid4().hex)
        facts = self._facts.get(identity)
        if facts is None:
            facts = self._facts[identity] = deque([fact])
            self._spawn(self._work(identity, facts), f"tell of {identity}")
        else:
            facts.append(fact)
            self._drop(identity, facts)
        done, _ = await asyncio.wait((told,), timeout=PATIENCE)
        if not done:
            log.warning(
                "the log does not take that %s: %s; it is reported later, and the node works on",
                identity,
                type(event).__name__,
            )
        return bool(done) and told.result() > 0

    async def emptied(self) -> None:
        """Wait until everything is reported, or given up because the node ends."""
        while self._facts:
            pending = [fact.told for facts in self._facts.values() for fact in facts]
            await asyncio.wait(pending)
            await asyncio.sleep(0)

    async def _work(self, identity: str, facts: deque[_Fact]) -> None:
        last = 0
        try:
            while facts:
                fact = facts[0]
                late = self._now() - fact.at
                event = fact.event if late < LATE else _late(fact.event, late)
                # A waiting fact was caused by the waiting fact before it, even of another engine.
                cause = max(fact.cause() or 0, last) or None
                last = seq = await self._append(identity, event, cause, fact.message_id)
                facts.remove(fact)
                fact.then(seq)
                fact.told.set_result(seq)
        finally:
            self._facts.pop(identity, None)
            for fact in facts:
                fact.told.cancel()

    def _drop(self, identity: str, facts: deque[_Fact]) -> None:
        while len(facts) > LONGEST:
            fact = facts[1]  # the first is being reported
            del facts[1]
            log.error(
                "too many facts about %s wait for the log: %s is dropped", identity, fact.event
            )
            fact.then(0)
            fact.told.set_result(0)


def _late(event: Event, late: float) -> Event:
    if not isinstance(event, EngineFailed | EngineStopped):
        return event
    note = f" ({late:.0f} s before the log could be told)"
    return structs.replace(event, reason=brief(event.reason) + note)
