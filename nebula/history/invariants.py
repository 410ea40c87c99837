"""What must hold of every folded state, whatever the log says. Pure.

A new version of Nebula is held to it with a cluster's own log before it runs the cluster.
"""

from collections.abc import Iterator

from nebula.actors.placement.decision import Decider, Decision
from nebula.events import snapshot
from nebula.events.evolve import evolve
from nebula.events.index import indexed
from nebula.events.record import supposed
from nebula.events.state import State
from nebula.events.vocabulary import EventRejected

MOST_DECISIONS = 10_000
"""Decisions that may follow from a state in a row, each from the result of the previous one."""


def broken(state: State) -> list[str]:
    """Return a sentence for each thing that should hold of a state and does not."""
    return [*_snapshot(state), *_indexes(state), *_names(state), *_plans(state)]


def following(state: State, most: int = MOST_DECISIONS) -> tuple[list[Decision], bool]:
    """Return the decisions that would follow from a state, and whether they come to an end.

    Answers to rejected entries are left out.
    """
    decider, found = Decider(), list[Decision]()
    while len(found) < most:
        due = next(
            (each for each in decider.decide(state) if not isinstance(each.event, EventRejected)),
            None,
        )
        if due is None:
            return found, True
        found.append(due)
        state = evolve(state, supposed(state.seq + 1, state.time, due.id, due.event))
    return found, False


def _snapshot(state: State) -> Iterator[str]:
    """A router that starts from a snapshot must go on as one that has folded the whole log."""
    try:
        same = snapshot.load(snapshot.dump(state)) == state
    except snapshot.Unusable as error:
        yield f"a snapshot of it can't be read: {error}"
        return
    if not same:
        yield "a snapshot of it is read as another state"


def _indexes(state: State) -> Iterator[str]:
    anew = indexed(state)
    for name in ("occupancy", "apart", "unsettled"):
        same = getattr(anew, name) == getattr(state, name)  # these maps define no `!=`
        if not same:
            yield f"its index {name} is not what follows from the rest"


def _names(state: State) -> Iterator[str]:
    for name, binding in state.names.items():
        if binding.alias:
            if binding.alias not in state.aliases:
                yield _dangling(name, "alias", binding.alias)
        elif binding.model not in state.models:
            yield _dangling(name, "model", binding.model)
    for model in state.models.values():
        if model.name not in state.names:
            yield f"the name {model.name!r} of model {model.id!r} stands for nothing"


def _dangling(name: str, kind: str, identity: str) -> str:
    return f"the name {name!r} stands for the {kind} {identity!r}, which is not there"


def _plans(state: State) -> Iterator[str]:
    for model in state.models.values():
        for identity in model.replicas:
            if identity not in state.replicas:
                yield f"model {model.id!r} has the replica {identity!r}, which is not there"
        for place in model.assignments:
            replica = state.replicas.get(place.replica)
            if replica is None or replica.model != model.id:
                yield f"the plan of {model.id!r} has {place.replica!r}, which is not its replica"
    for replica in state.replicas.values():
        if replica.model not in state.models:
            yield f"replica {replica.id!r} is of model {replica.model!r}, which is not there"
