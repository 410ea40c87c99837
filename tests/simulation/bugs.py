"""Bugs to plant: each a few lines that could be anybody's mistake, for the simulation to find."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any
from unittest import mock

from msgspec import Struct
from msgspec.structs import replace

from nebula.actors.node import reconciliation
from nebula.actors.node.reconciliation import Action, Running
from nebula.actors.placement import planning
from nebula.actors.placement.decision import Decider, Decision
from nebula.actors.router import observation, routing
from nebula.actors.router.hearing import Silence
from nebula.events import evolve_replica, snapshot
from nebula.events.index import indexed
from nebula.events.state import Model, Replica, State
from nebula.events.vocabulary import ModelUnschedulable, NodeLost
from tests.simulation.invariants import (
    ALIVE,
    CAUSED,
    GAP,
    GRANTED,
    ONCE,
    PROMISED,
    ROOM,
    ROUTED,
    SERVED,
    SETTLED,
)
from tests.simulation.journal import SAME, Journal, Message
from tests.simulation.node import Node

Patch = tuple[object, str, object]


class Bug(Struct, frozen=True):
    """A mistake: what is put in place of what, and the laws of which it may break the first."""

    name: str
    patch: Patch
    laws: tuple[str, ...]
    steps: int
    """To how many steps a scenario that finds it can be reduced, at most."""


@contextlib.contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """Have a bug in Nebula for a while."""
    where, name, instead = bug.patch
    with mock.patch.object(where, name, instead):
        yield


_decide, _reconcile, _store = Decider.decide, reconciliation.reconcile, Journal.store
_trim = planning._Draft.trim
_able, _load = routing.able, snapshot.load


def _without_retired(self: Decider, state: State) -> tuple[Decision, ...]:
    replicas = state.replicas
    for replica in state.replicas.values():
        if replica.retired:
            replicas = replicas.insert(replica.id, replace(replica, memory=0))
    return _decide(Decider(), indexed(replace(state, replicas=replicas)))


def _without_guard(self: Journal, message: Message) -> int:
    return _store(self, replace(message, guard=None))


def _too_early(
    state: State,
    replicas: Sequence[Replica],
    running: Mapping[str, Running],
    retry_at: Mapping[str, float],
    now: float,
    waiting: Set[str] = frozenset(),
) -> tuple[Action, ...]:
    still = {key: each for key, each in running.items() if not each.ending}
    return _reconcile(state, replicas, still, retry_at, now, waiting)


def _numbers_again(self: planning._Draft) -> Iterator[int]:
    taken = {place.replica for place in (*self.fresh, *self.old, *self.idle)}
    return (each for each in itertools.count() if f"{self.model.id}-{each}" not in taken)


def _at_once(self: planning._Draft) -> None:
    _trim(self)
    for place in self.old:
        self._drop(place)
    self.old = []


def _again_and_again(self: Decider, state: State) -> tuple[Decision, ...]:
    due = _decide(self, state)
    if due:
        return due
    for identity in sorted(state.models):
        model = state.models[identity]
        if model.unschedulable:
            event = ModelUnschedulable(model.unschedulable, model.missing)
            return (Decision(identity, event, model.intent),)
    return ()


def _forgetful(data: bytes) -> State:
    return replace(_load(data), capacity_seq=0)


def _adopts_nothing(self: Node) -> Iterator[Any]:
    self.spawn(self._listen())
    yield 0.0


def _any_replica(state: State, model: Model, adapter: str) -> list[Replica]:
    return [replica for replica in state.replicas_of(model) if not replica.retired]


def _own_ear_alone(
    state: State, seen: Mapping[str, Silence], lost_after: float
) -> Iterator[Decision]:
    for identity, silence in sorted(seen.items()):
        node = state.nodes.get(identity)
        if node is not None and not node.lost and silence.seconds > lost_after:
            yield Decision(identity, NodeLost("silent"), node.changed)


def _never_removed(state: State, replica: Replica, seq: int) -> State:
    return state


BUGS = (
    Bug(
        "placement forgets the memory of replicas that still end",
        (Decider, "decide", _without_retired),
        (PROMISED, ROOM, CAUSED),
        5,
    ),
    Bug(
        "the log ignores the guard of decisions",
        (Journal, "store", _without_guard),
        (CAUSED, GRANTED),
        3,
    ),
    Bug(
        "reconcile starts an engine while the old one still ends",
        (reconciliation, "reconcile", _too_early),
        (ONCE, ROOM),
        3,
    ),
    Bug(
        "a replica that moves keeps its number",
        (planning._Draft, "_free_numbers", _numbers_again),
        (ONCE,),
        4,
    ),
    Bug(
        "a change ends the old replica before the new one serves",
        (planning._Draft, "trim", _at_once),
        (GAP,),
        3,
    ),
    Bug(
        "a router says again and again that a model does not fit",
        (Decider, "decide", _again_and_again),
        (SETTLED,),
        2,
    ),
    Bug("a snapshot loses a field", (snapshot, "load", _forgetful), (SAME,), 3),
    Bug(
        "a node that starts does not look for engines that still run",
        (Node, "_adopt", _adopts_nothing),
        (ONCE, ROOM, SERVED),
        3,
    ),
    Bug(
        "requests go to replicas that are not ready",
        (routing, "able", _any_replica),
        (ROUTED,),
        3,
    ),
    Bug(
        "an engine's end frees nothing",
        (evolve_replica, "remove", _never_removed),
        (SERVED,),
        3,
    ),
    Bug(
        "a router declares lost whom it alone does not hear",
        (observation, "decide_lost", _own_ear_alone),
        (ALIVE,),
        2,
    ),
)
