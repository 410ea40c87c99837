"""When a router looks which nodes could not be lost, and when it records a new answer. Pure.

The answer is worked out again only if the placement has changed, and recorded only if it stood for
`STEADY` seconds and the last record is `APART` seconds old: a model that starts, moves or scales
changes it for a while. Times are seconds of the router's own clock.
"""

import heapq
from collections.abc import Iterable

from msgspec import Struct

from nebula.actors.placement.decision import Decision
from nebula.actors.placement.resilience import NodeLoss
from nebula.events.cluster import Risks
from nebula.events.decisions import NodeRisk
from nebula.events.state import State
from nebula.events.version import RESILIENCE
from nebula.events.vocabulary import ResilienceChanged

LOOK = 5.0
"""Seconds between two looks whether the placement has changed."""

STEADY = 10.0
"""Seconds for which an answer stands before it is recorded."""

APART = 60.0
"""Seconds between two records, at least: some 1,400 a day at most, whatever happens."""

SHARE = 0.05
"""Part of a router's time that working out an answer may take."""

NODES = 50
"""Nodes that a record names, at most."""

MODELS = 10
"""Models that a record names for each node, at most."""


class _Answer(Struct, frozen=True):
    """What was worked out from a state, and from when to when it has been the same."""

    state: State
    risks: ResilienceChanged
    since: float
    until: float


class StandingCheck:
    """Keeps the last answer. `now`: the clock's time when this router began to listen."""

    def __init__(self, now: float) -> None:
        self._recorded_at = now - APART
        self._answer: _Answer | None = None
        self._seen = 0

    def wanted(self, state: State) -> bool:
        """Return whether the answer has to be worked out for this state.

        It is not while decisions are due, nor for a cluster that has only ever had one node.
        """
        if state.cluster.version < RESILIENCE or not state.cluster.id or len(state.nodes) < 2:
            return False
        return self._answer is None or not _alike(self._answer.state, state)

    def take(self, state: State, losses: Iterable[NodeLoss], now: float) -> None:
        """Take what was worked out from a state."""
        risks = risks_of(losses, len(state.nodes))
        known = self._answer
        same = known is not None and _same(known.risks, risks)
        since = known.since if known is not None and same else now
        self._answer = _Answer(state, risks, since, now)

    def due(self, state: State, now: float) -> Decision | None:
        """Return the event to record now; None if nothing has changed, or not for long enough."""
        recorded = state.cluster.risks
        if recorded.changed != self._seen:  # by this router or another one
            self._seen, self._recorded_at = recorded.changed, now
        known = self._answer
        if known is None or _same(recorded, known.risks):
            return None
        stood = (now if _alike(known.state, state) else known.until) - known.since
        if stood < STEADY or now - self._recorded_at < APART:
            return None
        return Decision(state.cluster.id, known.risks, max(known.state.capacity_seq, 1))


def risks_of(losses: Iterable[NodeLoss], nodes: int) -> ResilienceChanged:
    """Return the record of what was worked out; `nodes`: how many there are."""
    lacking = [each for each in losses if each.missing]
    worst = heapq.nsmallest(
        NODES, lacking, key=lambda each: (-each.memory, -each.missing, each.node)
    )
    risks = tuple([_risk(each) for each in worst])
    short = {each.model for loss in lacking for each in loss.models if each.missing}
    if not lacking:
        reason = f"any one of {nodes} nodes can be lost: everything has a place elsewhere"
    else:
        reason = (
            f"{len(lacking)} of {nodes} nodes can't be lost without leaving replicas of "
            f"{len(short)} {'model' if len(short) == 1 else 'models'} without a place"
        )
    return ResilienceChanged(risks, len(lacking), len(short), reason)


def _risk(loss: NodeLoss) -> NodeRisk:
    models = [each.model for each in loss.models if each.missing]
    return NodeRisk(loss.node, tuple(models[:MODELS]), loss.missing, loss.memory)


def _same(one: ResilienceChanged | Risks, other: ResilienceChanged | Risks) -> bool:
    """Return whether two answers name the same nodes and models; memory may differ."""
    return (one.count, one.models) == (other.count, other.models) and _named(one) == _named(other)


def _named(risks: ResilienceChanged | Risks) -> dict[str, tuple[object, ...]]:
    return {each.node: (each.models, each.missing) for each in risks.nodes}


def _alike(one: State, other: State) -> bool:
    """Return whether two states have the same placement, quickly: most events change none."""
    return (
        one.models is other.models
        and one.occupancy is other.occupancy
        and one.capacity_seq == other.capacity_seq
    )
