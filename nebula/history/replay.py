"""Folds a recorded log again, and checks that its decisions equal those made today. Pure.

A router records with each decision up to which event it had folded the log (`Nebula-Basis`).
`decide` is pure, so the same state must give the same decision; if it does not, behaviour has
changed. Decisions from what routers saw beside the log are accepted as recorded.
"""

from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct

from nebula.actors.placement.decision import Decision, decide
from nebula.actors.router.backlog import ANSWERS
from nebula.events.evolve import evolve
from nebula.events.record import Entry, Record
from nebula.events.state import EMPTY, State
from nebula.events.version import too_new
from nebula.events.vocabulary import Decided, Event, EventRejected, Observed, ResilienceChanged
from nebula.history.moments import clock
from nebula.history.older import did_not_know

REACH = 20_000
"""Number of states that are kept to find a decision's basis."""

FUTURE = 3600 * 10**9
"""Nanoseconds by which another machine's clock may be ahead."""


_ACCEPTED = Observed | ResilienceChanged
"""Decisions that are accepted as recorded: those from what was seen, and what nothing follows from.
"""


class BadLog(Exception):
    """These entries are not a log of Nebula; the text names the sequence."""


class Difference(Struct, frozen=True):
    """A decision that was recorded at `seq` and would be different today.

    `recorded` is None if today's `decide` would have answered an entry that the recorded routers
    did not answer. `decided` is all that is decided today from the state at `basis`.
    """

    seq: int
    basis: int
    id: str
    recorded: Event | None
    decided: tuple[Decision, ...]


class Replay:
    """Folds records one by one; `state` is the newest state, `differences` those found so far.

    `checked` counts decisions that are the same; `by_hand` counts those that no router made.
    `beyond` counts those whose basis is older than the replay's first state, too far back, or,
    impossibly, newer than the decision. `by_older` counts answers of an older Nebula to events that
    it did not know, and that count.

    Without `check` no decision is compared; with `keep`, states are still kept for `state_at`.
    """

    def __init__(
        self,
        state: State = EMPTY,
        *,
        check: bool = True,
        keep: bool = False,
        decider: Callable[[State], tuple[Decision, ...]] = decide,
    ) -> None:
        self.state = state
        self.differences: list[Difference] = []
        self.checked = self.by_hand = self.beyond = self.by_older = 0
        self._check = check
        self._keep = keep or check
        self._decider = decider
        self._past: deque[State] = deque(maxlen=REACH)
        self._basis = 0
        self._began = state.seq
        self._refused = set(state.rejections)
        self._owed: set[int] = set()
        self._answers: list[int] = []

    def take(self, record: Record) -> Difference | None:
        """Fold one more record; return the difference if it is a decision that differs today.

        Raise BadLog if an entry is missing or out of order, or if the cluster moved to a version
        that this Nebula does not know.
        """
        reason = too_new(self.state)
        if reason is not None:
            raise BadLog(f"after event {self.state.seq} {reason}")
        expected = self.state.seq + 1
        if record.seq != expected:
            raise BadLog(
                f"sequence {record.seq} follows {self.state.seq}: the log has a hole"
                if record.seq > expected
                else f"sequence {record.seq} comes after {self.state.seq}: it is out of order"
            )
        difference = None
        content = record.content
        if self._check and isinstance(content, Decided) and not isinstance(content, _ACCEPTED):
            difference = self._compare(record, content)
        if self._keep:
            self._past.append(self.state)
        self.state = evolve(self.state, record)
        if record.seq in self.state.rejections:
            self._refused.add(record.seq)
        return difference

    def end(self) -> Difference | None:
        """Return the difference of a missing decision, once everything is folded."""
        for seq, pending in sorted(self.state.rejections.items()):
            if seq in self._owed:
                answer = Decision(str(seq), EventRejected(pending.subject, pending.reason), seq)
                found = Difference(seq, self._basis, str(seq), None, (answer,))
                self.differences.append(found)
                return found
        return None

    def _turn(self, basis: State) -> None:
        """Note which answers a router owed in a finished turn: it has decided again since.

        Within a turn a plan comes before the answers, which are `ANSWERS` at most.
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
        if isinstance(event, EventRejected) and self._accepted(record.id) and did_not_know(event):
            self.by_older += 1
            return None
        found = Difference(record.seq, basis.seq, record.id, event, decided)
        self.differences.append(found)
        return found

    def _accepted(self, answered: str) -> bool:
        """Return whether the entry that an answer is about is one that counts, and was folded."""
        seq = int(answered) if answered.isascii() and answered.isdigit() else 0
        return self._began < seq <= self.state.seq and seq not in self._refused

    def state_at(self, seq: int) -> State | None:
        """Return the state after `seq`, if it is still kept; the kept sequences have no gaps."""
        if seq == self.state.seq:
            return self.state
        index = seq - self._past[0].seq if self._past else -1
        return self._past[index] if 0 <= index < len(self._past) else None


def from_the_future(batch: Sequence[Entry | Record], now: int) -> str:
    """Return a sentence about the first entry stored after `now` (ns); empty if there is none."""
    limit = now + FUTURE
    if max((each.time for each in batch), default=0) <= limit:
        return ""
    first = next(each for each in batch if each.time > limit)
    return f"sequence {first.seq} comes from the future: it was stored at {clock(first.time)}"
