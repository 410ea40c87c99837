"""What must still hold for decisions to be appended that were made together from one state.

Nobody else may have decided in between: each is guarded by the last sequence on the subjects that
it concerns, its own among them once it is appended.
"""

from typing import NamedTuple

from nebula.actors.placement.decision import Decision
from nebula.events import subjects
from nebula.events.state import State
from nebula.events.vocabulary import (
    ClusterVersionRaised,
    EventRejected,
    NodeHeard,
    NodeLost,
    NodeSuspected,
)
from nebula.store.log import Guard


class Held(NamedTuple):
    """How one decision is appended: under a guard, or else stored once by its message id."""

    guard: Guard | None
    message_id: str | None


class Guards:
    """See the module."""

    def __init__(self, state: State) -> None:
        self._seqs = {
            subjects.MODEL_EVENTS: state.models_seq,
            subjects.NODE_EVENTS: state.nodes_seq,
        }
        self._lost: set[str] = set()

    def of(self, decision: Decision) -> Held:
        """Give what a decision is appended under."""
        if isinstance(decision.event, EventRejected):
            # Guarded by its message id: whatever hands may write about the same sequence, the
            # answer of several routers is stored once.
            return Held(None, f"rejected-{decision.id}")
        if isinstance(decision.event, ClusterVersionRaised):
            return Held(None, f"cluster-{decision.id}-{decision.event.version}")
        of_node = isinstance(decision.event, NodeSuspected | NodeHeard | NodeLost)
        over = subjects.NODE_EVENTS if of_node else subjects.MODEL_EVENTS
        return Held(Guard(over, self._seqs[over]), None)

    def hold(self, decision: Decision) -> bool:
        """Return whether a decision can still be appended: its guard was not lost to another."""
        guard = self.of(decision).guard
        return guard is None or guard.subject not in self._lost

    def lost(self, decision: Decision) -> None:
        """Count the guard of a decision as lost: another router has decided on those subjects."""
        guard = self.of(decision).guard
        if guard is not None:
            self._lost.add(guard.subject)

    def appended(self, held: Held, seq: int) -> None:
        """Count a decision as appended at `seq`: it must not be in the way of the next."""
        if held.guard is not None:
            self._seqs[held.guard.subject] = seq
