"""Folding a recorded log again, and checking that its decisions are those made today. Pure.

A router says with each decision up to where it had folded the log (`Nebula-Basis`). `decide` is
pure, so the same state must give the same decision; where it does not, behaviour has changed. What
routers decided from what they saw beside the log is taken as it was.
"""

from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct

from nebula.actors.placement.decision import Decision, decide
from nebula.actors.router.backlog import ANSWERS
from nebula.events.evolve import evolve
from nebula.events.record import Entry, Record
from nebula.events.state import EMPTY, State
from nebula.events.vocabulary import Decided, Event, EventRejected, Observed
from nebula.history.moments import clock

REACH = 20_000
"""How many states back a decision's basis may lie for the check to find it."""

FUTURE = 3600 * 10**9
"""Nanoseconds by which another machine's clock may be ahead of ours."""


class BadLog(Exception):
    """These entries are no log of Nebula's; the text names the sequence."""


class Difference(Struct, frozen=True):
    """A decision that was recorded at `seq` and would be another today.

    `recorded` is None where today's `decide` would have answered an entry that the recorded
    routers let pass; `decided` is all that is decided today from the state at `basis`.
    """

    seq: int
    basis: int
    id: str
    recorded: Event | None
    decided: tuple[Decision, ...]


class Replay:
    """Folds records one by one; `state` is the newest, `differences` what was found so far.

    `checked` counts decisions that came out the same, `by_hand` those that no router made,
    `beyond` those whose basis lies before the state that the replay began with, or too far back,
    or where it can't: behind the decision itself.
    """

    def __init__(
        self,
        state: State = EMPTY,
        *,
        check: bool = True,
        decider: Callable[[State], tuple[Decision, ...]] = decide,
    ) -> None:
        self.state = state
        self.differences: list[Difference] = []
        self.checked = self.by_hand = self.beyond = 0
        self._check = check
        self._decider = decider
        self._past: deque[State] = deque(maxlen=REACH)
        self._basis = 0
        self._owed: set[int] = set()
        self._answers: list[int] = []

    def take(self, record: Record) -> Difference | None:
        """Fold one more record; give the difference if it is a decision that comes out otherwise.

        Raises BadLog where an entry is missing or stands in the wrong place.
        """
        expected = self.state.seq + 1
        if record.seq != expected:
            raise BadLog(
                f"sequence {record.seq} follows {self.state.seq}: the log has a hole"
                if record.seq > expected
                else f"sequence {record.seq} comes after {self.state.seq}: it is out of order"
            )
        difference = None
        if self._check:
            if isinstance(record.content, Decided) and not isinstance(record.content, Observed):
                difference = self._compare(record, record.content)
            self._past.append(self.state)
        self.state = evolve(self.state, record)
        return difference

    def end(self) -> Difference | None:
        """Give the difference that shows only in what was never decided, when all is folded."""
        for seq, pending in sorted(self.state.rejections.items()):
            if seq in self._owed:
                answer = Decision(str(seq), EventRejected(pending.subject, pending.reason), seq)
                found = Difference(seq, self._basis, str(seq), None, (answer,))
                self.differences.append(found)
                return found
        return None

    def _turn(self, basis: State) -> None:
        """Note which answers a router owed in a turn that is over: it has decided anew since.

        Within a turn a plan comes before the answers, of which there are `ANSWERS` at most.
        """
        if basis.seq > self._basis:
            self._owed.update(self._answers)
            self._owed = {seq for seq in self._owed if seq in self.state.rejections}
            self._answers = sorted(basis.rejections)[:ANSWERS]
            self._basis = basis.seq

    def _compare(self, record: Record, event: Event) -> Difference | None:
        if record.basis is None:
            self.by_hand += 1
            return None
        basis = self.state_at(record.basis)
        if basis is None:
            self.beyond += 1
            return None
        self._turn(basis)
        decided = self._decider(basis)
        if any(each.id == record.id and each.event == event for each in decided):
            self.checked += 1
            return None
        found = Difference(record.seq, basis.seq, record.id, event, decided)
        self.differences.append(found)
        return found

    def state_at(self, seq: int) -> State | None:
        """Find the state after `seq`, if it is still kept; their sequences have no gaps."""
        if seq == self.state.seq:
            return self.state
        index = seq - self._past[0].seq if self._past else -1
        return self._past[index] if 0 <= index < len(self._past) else None


def from_the_future(batch: Sequence[Entry | Record], now: int) -> str:
    """Tell of the first entry that was stored later than `now` (ns); empty where there is none."""
    limit = now + FUTURE
    if max((each.time for each in batch), default=0) <= limit:
        return ""
    first = next(each for each in batch if each.time > limit)
    return f"sequence {first.seq} comes from the future: it was stored at {clock(first.time)}"
