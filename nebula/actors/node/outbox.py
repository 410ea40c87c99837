"""Facts that wait for the log: the node goes on working, and the log hears of it in order, later.

What happened to one replica is told in the order in which it happened, each fact once. A log that
can't be written at the moment (a full disk, no quorum, no NATS) holds up neither the restart of an
engine nor what happens to other replicas.
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
"""Seconds for which the node waits for the log before it goes on with what follows from a fact."""

LATE = 5.0
"""Seconds of delay from which on a fact says how late it is told."""

LONGEST = 64
"""Facts of one replica that are kept; of more, the oldest that are not being told are dropped."""


class Append(Protocol):
    """Append an event and return its sequence, however long it takes; 0 where it never will be."""

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
    """The facts of each replica that the log does not have yet.

    `append` is as the protocol says; `spawn` runs a worker beside the node's other work; `now` is
    a monotonic clock, in seconds.
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
        """Have the log told of an event; return whether it has it, within `PATIENCE` seconds.

        Where it has not, it is told later, after what was to be told before. `cause` is asked when
        it is appended; `then` is called with its sequence once it is folded, 0 where it never is.
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
                "the log does not take that %s: %s; it is told later, work goes on",
                identity,
                type(event).__name__,
            )
        return bool(done) and told.result() > 0

    async def emptied(self) -> None:
        """Wait until everything is told, or given up because the node ends."""
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
                # What waited was caused by what waited before it, also where another engine did it.
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
            fact = facts[1]  # the first is being told
            del facts[1]
            log.error("too much waits to be told of %s: %s is dropped", identity, fact.event)
            fact.then(0)
            fact.told.set_result(0)


def _late(event: Event, late: float) -> Event:
    if not isinstance(event, EngineFailed | EngineStopped):
        return event
    note = f" ({late:.0f} s before the log could be told)"
    return structs.replace(event, reason=brief(event.reason) + note)
