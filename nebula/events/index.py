"""What the fold keeps beside the aggregates, so that nobody has to look at all of them. Pure.

All of it follows from the aggregates alone: `indexed` makes it anew, and it stands in no snapshot.
"""

from __future__ import annotations  # rpds maps take no [] at run time

from collections.abc import Iterable

from msgspec.structs import replace
from rpds import HashTrieMap, HashTrieSet

from nebula.events.intents import ModelLoadRequested
from nebula.events.state import Launch, Model, Node, Occupancy, Replica, State, launch_of
from nebula.events.values import Assignment

_VACANT = Occupancy()


def hold(
    occupancy: HashTrieMap[str, Occupancy], replica: Replica, sign: int = 1
) -> HashTrieMap[str, Occupancy]:
    """Count what a replica has of its node's devices, or with `sign` -1 no longer."""
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
    """Keep for each model which others want to be on no node with it."""
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
    """Note of each of these models whether it may call for a decision now."""
    unsettled = state.unsettled
    for identity in models:
        model = state.models.get(identity)
        if model is not None and _calls(state, model):
            unsettled = unsettled.insert(identity)
        elif identity in unsettled:
            unsettled = unsettled.remove(identity)
    return state if unsettled is state.unsettled else replace(state, unsettled=unsettled)


def models_on(state: State, node: str) -> set[str]:
    """Give the models that have a replica on a node."""
    held = state.occupancy.get(node, _VACANT)
    return {state.replicas[identity].model for identity in held.replicas}


def _calls(state: State, model: Model) -> bool:
    if model.intent > model.answered or model.unschedulable:
        return True
    if model.wanted != len(model.assignments) or len(model.replicas) != len(model.assignments):
        return True
    if model.unloading or (model.proven is not None and model.proven != model.spec):
        return True
    launch = launch_of(model)
    replicas, nodes = state.replicas, state.nodes
    for place in model.assignments:
        replica, node = replicas.get(place.replica), nodes.get(place.node)
        if replica is None or node is None or not _houses(node, place):
            return True
        if replica.node != place.node:
            node = nodes.get(replica.node)
        if _outdated(node, replica, launch) or _misplaced(node, model, replica):
            return True
    return False


def housed(state: State, place: Assignment) -> bool:
    """Say whether a place is still there: its node has not left, is not lost, has its devices.

    Nor has the machine come back with smaller ones than was promised of them.
    """
    node = state.nodes.get(place.node)
    return node is not None and _houses(node, place)


def _houses(node: Node, place: Assignment) -> bool:
    if node.lost:
        return False
    for index in place.devices:
        for device in node.devices:
            if device.index == index:
                if place.memory > device.memory:
                    return False
                break
        else:
            return False
    return True


def stale(state: State, model: Model, replica: Replica, launch: Launch) -> str:
    """Say why another replica should replace this one; empty where none should.

    `launch` is what the model's engines are to be started with now.
    """
    return outdated(state, replica, launch) or misplaced(state, model, replica)


def outdated(state: State, replica: Replica, launch: Launch) -> str:
    """Say why its engine is to be started anew; empty where it is not."""
    return _outdated(state.nodes.get(replica.node), replica, launch)


def _outdated(node: Node | None, replica: Replica, launch: Launch) -> str:
    if replica.launch != launch:
        return "it runs as was asked for before"
    engine = replica.engine
    if engine is None or node is None or engine.version != replica.version:
        return ""
    if engine.installed and node.engine_version and engine.installed != node.engine_version:
        return f"{node.id} has engine {node.engine_version} by now, not {engine.installed}"
    return ""


def misplaced(state: State, model: Model, replica: Replica) -> str:
    """Say why a replica may not stay where it is; empty where it may."""
    return _misplaced(state.nodes.get(replica.node), model, replica)


def _misplaced(node: Node | None, model: Model, replica: Replica) -> str:
    if node is None:
        return ""
    if model.moving and replica.id in model.moving:
        return "somebody wants it elsewhere"
    if node.draining:
        return f"{node.id} is draining"
    wrong = unsuited(model.spec, node)
    if not wrong and model.spec.devices and not set(replica.devices) <= set(model.spec.devices):
        return f"it is to be on device {' or '.join(map(str, model.spec.devices))}"
    return wrong


def unsuited(spec: ModelLoadRequested, node: Node) -> str:
    """Say what of a load request a node does not have; empty where it suits."""
    if spec.node and spec.node != node.id:
        return f"{node.id} is not {spec.node}"
    if not spec.labels:
        return ""
    lacking = [f"{key}={value}" for key, value in spec.labels.items() if not _has(node, key, value)]
    return f"{node.id} does not carry {', '.join(sorted(lacking))}" if lacking else ""


def _has(node: Node, key: str, value: str) -> bool:
    return node.labels.get(key) == value


def unmeasured(state: State, model: Model) -> bool:
    """Say whether a model waits for a node to tell how much memory it needs.

    Nobody waits once it has replicas of the same files, or where no node would tell.
    """
    spec = model.spec
    if spec.memory is not None or model.measured is not None or not model.wanted:
        return False
    if model.assignments and model.launch is not None and model.launch.source == spec.source:
        return False
    return any(node.measures and node.schedulable for node in state.nodes.values())


def indexed(state: State) -> State:
    """Make all of it anew, for a state that was read from elsewhere."""
    occupancy: HashTrieMap[str, Occupancy] = HashTrieMap()
    for replica in state.replicas.values():
        occupancy = hold(occupancy, replica)
    capacity = state.capacity_seq
    state = replace(state, occupancy=occupancy, apart=HashTrieMap(), unsettled=HashTrieSet())
    for model in state.models.values():
        state = set_apart(state, None, model)
    return settle(replace(state, capacity_seq=capacity), state.models)
