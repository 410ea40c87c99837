"""Which decisions are tried next, so that none waits behind one that can't be appended.

A decision that the log did not take is postponed for a growing pause, so that others go first; a
decision that the log will never take is dropped. Pure: the caller reads the monotonic clock.
"""

from collections.abc import Callable, Iterable

from msgspec import Struct

from nebula.actors.placement.decision import Decision
from nebula.events.vocabulary import EventRejected

ANSWERS = 16
"""Rejected entries that are answered in one turn, before other due decisions come first again."""

PAUSE = 1.0
"""First pause of a decision that the log did not take, in seconds; doubled each time."""

LONGEST_PAUSE = 60.0

_Key = tuple[str, str, int]


class _Failed(Struct):
    times: int
    until: float


class Backlog:
    """Decisions that could not be appended, by what they decide. `now`: the clock, in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._failed: dict[_Key, _Failed] = {}
        self._never: set[_Key] = set()

    def next(self, due: Iterable[Decision]) -> tuple[Decision, ...]:
        """Return the decisions to append in this turn, in order; the others are due later.

        Decisions that are no longer due are forgotten, which bounds the memory.
        """
        due = tuple(due)
        keys = {_key(decision) for decision in due}
        self._failed = {key: self._failed[key] for key in self._failed.keys() & keys}
        self._never &= keys
        now, answers = self._now(), 0
        chosen = []
        for decision in due:
            key = _key(decision)
            failed = self._failed.get(key)
            if key in self._never or (failed is not None and failed.until > now):
                continue
            if isinstance(decision.event, EventRejected):
                answers += 1
                if answers > ANSWERS:
                    continue
            chosen.append(decision)
        return tuple(chosen)

    def stand_back(self, decision: Decision) -> None:
        """Note that the log did not take a decision: others go first for a while."""
        failed = self._failed.setdefault(_key(decision), _Failed(0, 0.0))
        failed.until = self._now() + min(PAUSE * 2**failed.times, LONGEST_PAUSE)
        failed.times = min(failed.times + 1, 16)

    def drop(self, decision: Decision) -> None:
        """Note that the log will never take a decision."""
        self._never.add(_key(decision))


def _key(decision: Decision) -> _Key:
    return type(decision.event).__name__, decision.id, decision.cause
