"""What would follow if events were appended now: decisions, and engines that do as planned. Pure.

Nothing of this is written anywhere: the events are folded into a state of the caller's own. Engines
start and end at once, because it is unknown how long they would take, or whether they would fail.
"""

from collections.abc import Iterator

from nebula.actors.placement.decision import Decider
from nebula.events.evolve import evolve
from nebula.events.record import supposed
from nebula.events.state import Replica, State
from nebula.events.validation import rejection_reason
from nebula.events.version import reporter
from nebula.events.vocabulary import EngineReady, EngineStarted, EngineStopped, Event, EventRejected

ROUNDS = 10_000
"""Decisions in a row after which the outcome is taken as unstable."""


class Supposition:
    """A state, and what is supposed to happen next in it.

    `steady`: whether nothing is left to decide; False if decisions never come to an end.
    """

    def __init__(self, state: State) -> None:
        self.state = state
        self.steady = True
        self._decider = Decider()

    def append(self, identity: str, event: Event) -> str:
        """Fold an event, and return why it would be rejected; "" if it would not."""
        reason = rejection_reason(self.state, identity, event)
        if reason is None:
            self._fold(identity, event)
        return reason or ""

    def decisions(self) -> Iterator[tuple[State, str, Event]]:
        """Yield every decision that follows, with the state before it, until none is left."""
        for _ in range(ROUNDS):
            due = [
                each
                for each in self._decider.decide(self.state)
                if not isinstance(each.event, EventRejected)
            ]
            for each in due:
                before = self.state
                self._fold(each.id, each.event)
                yield before, each.id, each.event
            if not due and not self._follow():
                return
        self.steady = False

    def _follow(self) -> bool:
        """Let engines start and end as planned; return whether there were any to do so."""
        before = self.state
        for replica in sorted(before.replicas.values(), key=lambda each: each.id):
            for event in _reports(before, replica):
                self._fold(replica.id, event)
        return self.state.replicas is not before.replicas

    def _fold(self, identity: str, event: Event) -> None:
        state, held = self.state, self.state.replicas.get(identity)
        node = reporter(state, event, held.node if held is not None else "")
        self.state = evolve(state, supposed(state.seq + 1, state.time, identity, event, node))


def _reports(state: State, replica: Replica) -> Iterator[Event]:
    """Yield what a node would report of a replica next; nothing if it runs as planned."""
    node = state.nodes.get(replica.node)
    if node is None or node.away or replica.given_up:
        return
    if replica.retired:
        if replica.engine is not None:
            yield EngineStopped("", replica.node)
    elif not replica.serving:
        yield EngineStarted(2, 0.0, 0, "", replica.version, node=replica.node)
        yield EngineReady(node=replica.node)
