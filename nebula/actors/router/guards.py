"""The conditions under which decisions that were made from one state may be appended.

No other router may have decided in between: each decision is guarded by the last sequence on the
subjects that it concerns, including its own once it is appended.
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
    ResilienceChanged,
)
from nebula.store.log import Guard


class AppendGuard(NamedTuple):
    """How one decision is appended: under a guard, or once by its message id."""

    guard: Guard | None
    message_id: str | None


class Guards:
    """The guards of decisions that were made from one state."""

    def __init__(self, state: State) -> None:
        self._seqs = {
            subjects.MODEL_EVENTS: state.models_seq,
            subjects.NODE_EVENTS: state.nodes_seq,
        }
        self._risks = state.cluster.risks.changed
        self._lost: set[str] = set()

    def of(self, decision: Decision) -> AppendGuard:
        """Return the guard under which a decision is appended."""
        if isinstance(decision.event, EventRejected):
            # Guarded by its message id: the same answer of several routers is stored once, whatever
            # people publish about the same sequence.
            return AppendGuard(None, f"rejected-{decision.id}")
        if isinstance(decision.event, ClusterVersionRaised):
            return AppendGuard(None, f"cluster-{decision.id}-{decision.event.version}")
        if isinstance(decision.event, ResilienceChanged):
            # Guarded by the answer that it replaces: of several routers' answers one is stored.
            return AppendGuard(None, f"resilience-{decision.id}-{self._risks}")
        of_node = isinstance(decision.event, NodeSuspected | NodeHeard | NodeLost)
        over = subjects.NODE_EVENTS if of_node else subjects.MODEL_EVENTS
        return AppendGuard(Guard(over, self._seqs[over]), None)

    def hold(self, decision: Decision) -> bool:
        """Return whether a decision can still be appended because its guard still holds."""
        guard = self.of(decision).guard
        return guard is None or guard.subject not in self._lost

    def lost(self, decision: Decision) -> None:
        """Note that the guard of a decision is lost: another router was first."""
        guard = self.of(decision).guard
        if guard is not None:
            self._lost.add(guard.subject)

    def appended(self, held: AppendGuard, seq: int) -> None:
        """Advance the guard to `seq`, so that this decision does not conflict with the next."""
        if held.guard is not None:
            self._seqs[held.guard.subject] = seq
