"""Indexes that the fold keeps beside the aggregates, so that readers need not scan them. Pure.

They follow from the aggregates alone: `indexed` computes them, and snapshots leave them out.
"""

from __future__ import annotations  # rpds maps take no [] at run time

from collections.abc import Iterable

from msgspec.structs import replace
from rpds import HashTrieMap, HashTrieSet

from nebula.events.drift import houses, out_of_date, out_of_place
from nebula.events.state import Model, Occupancy, Replica, State, launch_of

_VACANT = Occupancy()


class Unsettled(set[str]):
    """The models that an unfinished state will have to look at before it is seen."""


def hold(
    occupancy: HashTrieMap[str, Occupancy], replica: Replica, sign: int = 1
) -> HashTrieMap[str, Occupancy]:
    """Add a replica's memory to the use of its node's devices, or subtract it with `sign` -1."""
    held = occupancy.get(replica.node, _VACANT)
    used = dict(held.used)
    for index in replica.devices:
        used[index] = used.get(index, 0) + sign * replica.memory
        if not used[index]:
            del used[index]
    here = held.replicas | {replica.id} if sign > 0 else held.replicas - {replica.id}
    if not here:
        return occupancy.discard(replica.node)
    return occupancy.insert(replica.node, Occupancy(here, used))


def set_apart(state: State, old: Model | None, new: Model | None) -> State:
    """Index for each model the other models that must not share a node with it."""
    before = old.spec.apart if old is not None else ()
    after = new.spec.apart if new is not None else ()
    if before == after:
        return state
    known = new or old
    assert known is not None
    apart = state.apart
    for other in before:
        rest = apart.get(other, frozenset()) - {known.id}
        apart = apart.insert(other, rest) if rest else apart.discard(other)
    for other in after:
        apart = apart.insert(other, apart.get(other, frozenset()) | {known.id})
    return replace(state, apart=apart, capacity_seq=state.seq)


def settle(state: State, models: Iterable[str]) -> State:
    """Note for each of these models whether a decision may be due."""
    unsettled = state.unsettled
    if isinstance(unsettled, Unsettled):
        unsettled.update(models)
        return state
    for identity in models:
        model = state.models.get(identity)
        if model is not None and _calls(state, model):
            unsettled = unsettled.insert(identity)
        elif identity in unsettled:
            unsettled = unsettled.remove(identity)
    return state if unsettled is state.unsettled else replace(state, unsettled=unsettled)


def resettle(state: State, model: str) -> State:
    """Note whether a decision is still due for a model, after what makes none due."""
    unsettled = state.unsettled
    if isinstance(unsettled, Unsettled):
        unsettled.add(model)
        return state
    return settle(state, (model,)) if model in unsettled else state


def models_on(state: State, node: str) -> set[str]:
    """Return the models that have a replica on a node."""
    held = state.occupancy.get(node, _VACANT)
    return {state.replicas[identity].model for identity in held.replicas}


def _calls(state: State, model: Model) -> bool:
    if model.requested_seq > model.planned_seq or model.unschedulable:
        return True
    if model.wanted != len(model.assignments) or len(model.replicas) != len(model.assignments):
        return True
    if model.unloading or (model.proven is not None and model.proven != model.spec):
        return True
    launch = launch_of(model)
    replicas, nodes = state.replicas, state.nodes
    for place in model.assignments:
        replica, node = replicas.get(place.replica), nodes.get(place.node)
        if replica is None or node is None or not houses(node, place):
            return True
        if replica.node != place.node:
            node = nodes.get(replica.node)
        if out_of_date(node, replica, launch) or out_of_place(node, model, replica):
            return True
    return False


def indexed(state: State) -> State:
    """Compute all indexes for a state that was read from elsewhere."""
    occupancy: HashTrieMap[str, Occupancy] = HashTrieMap()
    for replica in state.replicas.values():
        occupancy = hold(occupancy, replica)
    capacity = state.capacity_seq
    state = replace(state, occupancy=occupancy, apart=HashTrieMap(), unsettled=HashTrieSet())
    for model in state.models.values():
        state = set_apart(state, None, model)
    return settle(replace(state, capacity_seq=capacity), state.models)
