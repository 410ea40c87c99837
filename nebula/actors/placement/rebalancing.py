"""Finds replicas that would be better placed elsewhere, now that there is room again. Pure.

Placement spreads replicas when it places them. After a loss they go where there is room, and stay
there, because moving a replica costs the start of an engine. So moves happen only on request. Each
move is tried on the state, one after the other, with the planner that will do it.
"""

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from nebula.actors.placement.capacity import Capacity
from nebula.actors.placement.planning import plan
from nebula.events.evolve import evolve
from nebula.events.intents import ModelRebalanceRequested
from nebula.events.record import supposed
from nebula.events.state import Model, Node, Occupancy, State
from nebula.events.values import Assignment
from nebula.events.vocabulary import EngineStopped, Event, ModelAssigned

MOST_MOVES = 256
"""Moves of one plan, at most; the next plan shows the rest."""


class Move(Struct, frozen=True, kw_only=True):
    """A replica that would be better placed on the node `target` than on `source`, and why."""

    model: str
    replica: str
    source: str
    target: str
    reason: str


class Rebalancing(Struct, frozen=True):
    """The moves, and the models that are left alone, each with its reason."""

    moves: tuple[Move, ...]
    passed: tuple[str, ...] = ()


def rebalance(state: State, only: str = "") -> Rebalancing:
    """Return the moves that would spread replicas again; `only`: those of one model.

    A replica moves if fewer replicas of its model share a node afterwards, or if as many do and the
    fuller of both nodes becomes emptier. So moves come to an end, and none undoes another.
    """
    moves: list[Move] = []
    passed: list[str] = []
    now = state
    for identity in [only] if only else sorted(state.models):
        reason = _unsettled(state, state.models[identity])
        if reason:
            passed.append(f"{identity}: {reason}")
            continue
        while len(moves) < MOST_MOVES:
            found = next(_better(now, now.models[identity]), None)
            if found is None:
                break
            move, now = found
            moves.append(move)
    return Rebalancing(tuple(moves), tuple(passed))


def requests(moves: tuple[Move, ...]) -> Iterator[tuple[str, ModelRebalanceRequested]]:
    """Yield for each model the intent that requests its moves."""
    for model in dict.fromkeys(move.model for move in moves):
        replicas = tuple(sorted(move.replica for move in moves if move.model == model))
        yield model, ModelRebalanceRequested(replicas)


def _unsettled(state: State, model: Model) -> str:
    """Return why a model is left alone; empty if it is not."""
    if model.unloading or not model.wanted:
        return ""
    if model.spec.policy != "spread":
        return f"its policy is {model.spec.policy}"
    if model.unschedulable:
        return f"it lacks replicas: {model.unschedulable}"
    if model.moving or any(not each.serving for each in state.replicas_of(model)):
        return "its replicas are changing now"
    return ""


def _better(state: State, model: Model) -> Iterator[tuple[Move, State]]:
    """Yield the moves that improve the placement, each with the resulting state."""
    together: dict[str, int] = {}
    for place in model.assignments:
        together[place.node] = together.get(place.node, 0) + 1
    for place in sorted(model.assignments, key=lambda each: (-together[each.node], each.replica)):
        target = _target(state, model, place)
        if target is None or target.node == place.node:
            continue
        here, there = together[place.node], together.get(target.node, 0)
        after = _moved(state, model, place, target)
        fuller = _load(state, place.node)
        if there + 1 < here:
            reason = f"{here} replicas of {model.id} share {place.node}, {target.node} has {there}"
        elif there + 1 <= here and _load(after, target.node) < fuller:
            reason = (
                f"{place.node} is {fuller:.0%} full, {target.node} {_load(state, target.node):.0%}"
            )
        else:
            continue
        yield (
            Move(
                model=model.id,
                replica=place.replica,
                source=place.node,
                target=target.node,
                reason=reason,
            ),
            after,
        )


def _target(state: State, model: Model, place: Assignment) -> Assignment | None:
    """Return where the planner would put the successor of a replica."""
    wished = _fold(state, model.id, ModelRebalanceRequested((place.replica,)))
    planned = plan(wished, wished.models[model.id], capacity=Capacity())
    before = {each.replica for each in model.assignments}
    return next((each for each in planned.assignments if each.replica not in before), None)


def _moved(state: State, model: Model, old: Assignment, new: Assignment) -> State:
    """Return the state once the successor serves and the old engine has ended."""
    known = state.replicas[old.replica]
    places = tuple(each for each in model.assignments if each.replica != old.replica)
    version = model.version + 1
    state = _fold(state, model.id, ModelAssigned(version, (*places, replace(new, version=version))))
    engine = replace(known.engine, version=version) if known.engine is not None else None
    successor = replace(state.replicas[new.replica], phase="ready", engine=engine)
    state = replace(state, replicas=state.replicas.insert(successor.id, successor))
    return _fold(state, old.replica, EngineStopped(node=old.node), old.node)


def _fold(state: State, identity: str, event: Event, node: str = "") -> State:
    return evolve(state, supposed(state.seq + 1, state.time, identity, event, node))


def _load(state: State, node: str) -> float:
    """Return the part of a node's device memory that plans have assigned."""
    known: Node | None = state.nodes.get(node)
    whole = sum(device.memory for device in known.devices) if known is not None else 0
    used = sum(state.occupancy.get(node, Occupancy()).used.values())
    return used / whole if whole else 1.0
