"""How much of the log may be read over HTTP at a time: requests for tokens come first.

A gateway's one process serves tokens and history. Reading history is bounded in entries and time
per request, in requests at a time, and in the share of the process that all of them take.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from nebula.events.state import EMPTY, State
from nebula.history.event_filter import EventFilter, FilterSpec
from nebula.history.moments import Moment

K = TypeVar("K")
V = TypeVar("V")

ENTRIES = 50_000
"""Entries that a request may read; its answer says how to continue."""

SECONDS = 5.0
"""Seconds that a request may read; its answer says how to continue."""

PLACES = 4
"""Requests that may read at a time."""

PATIENCE = 2.0
"""Seconds that a request waits for a place before it is refused."""

STREAMS = 64
"""Streams of events at a time."""

SHARE = 0.25
"""Share of the process's time that all reading together may take in the long run."""

CREDIT = 0.25
"""Seconds of work before that share applies: most requests need less."""

LONGEST_TURN = 0.5
"""Longest work that counts, in seconds: if it took longer, the machine was suspended."""

KEPT = 8
"""Number of intermediate states that are kept to continue from."""

MOST_EFFECTS = 100_000
"""Number of sequences of a chain of causes that are kept with them."""


class Busy(Exception):
    """As many requests read now as allowed."""


class Credit:
    """Allowed seconds of work: `share` of each second that passes, saved up to `most`."""

    def __init__(self, share: float = SHARE, most: float = CREDIT, now: float = 0.0) -> None:
        self._share = share
        self._most = most
        self._left = most
        self._at = now

    def spend(self, worked: float, now: float) -> float:
        """Spend the seconds that work took; return the seconds to pause before more work."""
        self._left = min(self._most, self._left + (now - self._at) * self._share) - worked
        self._at = now
        return max(0.0, -self._left / self._share)


class Scan:
    """One request's reading: what it has read, and when it has to end."""

    def __init__(self, credit: Credit) -> None:
        self._credit = credit
        self._ends = time.monotonic() + SECONDS
        self.read = 0

    @property
    def left(self) -> int:
        """How many more entries it may read; at least one."""
        return max(1, ENTRIES - self.read)

    @property
    def over(self) -> bool:
        """Whether it has read as much as allowed."""
        return self.read >= ENTRIES or time.monotonic() >= self._ends

    async def worked(self, seconds: float) -> None:
        """Let other tasks run after this many seconds of work."""
        pause = self._credit.spend(min(seconds, LONGEST_TURN), time.monotonic())
        await asyncio.sleep(pause)


class Scans:
    """All reading of history through one gateway, and the states that it recently passed.

    `share`: of the process's time, 1 where it serves nothing else.
    """

    def __init__(self, share: float = SHARE) -> None:
        self._credit = Credit(share, now=time.monotonic())
        self._places = asyncio.Semaphore(PLACES)
        self._streams = 0
        self._states: OrderedDict[int, State] = OrderedDict()
        self._chains: OrderedDict[tuple[FilterSpec, int], tuple[State, EventFilter]] = OrderedDict()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Scan]:
        """Read within the block. Raise Busy after PATIENCE seconds without a place."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._places.acquire()
        except TimeoutError:
            raise Busy from None
        try:
            yield Scan(self._credit)
        finally:
            self._places.release()

    def check_streams(self) -> None:
        """Raise Busy if no further stream of events may begin."""
        if self._streams >= STREAMS:
            raise Busy

    @contextmanager
    def stream(self) -> Iterator[Scan]:
        """Read within the block without a time limit, at the common pace."""
        self._streams += 1
        try:
            yield Scan(self._credit)
        finally:
            self._streams -= 1

    def keep(self, state: State) -> None:
        """Keep a state to continue from."""
        self._states[state.seq] = state
        _drop_oldest(self._states)

    def keep_chain(self, state: State, sieve: EventFilter) -> None:
        """Keep how far a chain of causes was followed, with the state there."""
        if len(sieve.effects) <= MOST_EFFECTS:
            self._chains[sieve.selection, state.seq] = state, sieve.copy()
            _drop_oldest(self._chains)

    def state(self, wanted: Moment) -> State:
        """Return the last kept state at or before a moment; the empty state if there is none."""
        known = [each for each in self._states.values() if not wanted.passed(each.seq, each.time)]
        return max(known, key=lambda each: each.seq, default=EMPTY)

    def chain(self, chosen: FilterSpec, after: int) -> tuple[State, EventFilter] | None:
        """Return how far a chain of causes was followed at or before a sequence, if at all."""
        known = [seq for selection, seq in self._chains if selection == chosen and seq <= after]
        if not known:
            return None
        state, sieve = self._chains[chosen, max(known)]
        return state, sieve.copy()


def _drop_oldest(kept: OrderedDict[K, V]) -> None:
    while len(kept) > KEPT:
        kept.popitem(last=False)
