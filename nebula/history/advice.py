"""What an operator should do about a model that is not well: one sentence. Pure."""

from __future__ import annotations  # rpds maps take no [] at run time

from collections.abc import Sequence, Set

from msgspec.structs import replace
from rpds import HashTrieMap

from nebula.actors.placement.candidates import Candidate
from nebula.actors.placement.planning import plan
from nebula.events import memory
from nebula.events.engine_options import devices_needed
from nebula.events.standing import standing, stands_still, starts_before
from nebula.events.state import Model, Node, Replica, State

_NAMED = 3
"""Nodes of a kind that are named: of a thousand nobody starts all again."""


def advice(state: State, model: Model) -> str:
    """Say what to do so that all wanted replicas of a model serve; empty where they do."""
    stands = standing(state, model)
    if model.unloading:
        return _unloading(state, model)
    if model.asleep:
        return ""
    if model.wanted == 0:
        return f"Give it replicas: `nebula scale {model.id} 1`."
    still = next((each for each in state.replicas_of(model) if stands_still(each)), None)
    if still is not None and still.serving:
        return _still(still)
    if stands.ready == stands.wanted and not (stands.changing and model.unschedulable):
        return ""
    if model.intent > model.answered:
        return "Start a router (`nebula router`): nobody has decided yet where it goes."
    replicas = [replica for replica in state.replicas_of(model) if not replica.retired]
    failed = next((each for each in replicas if each.given_up), None)
    if failed is not None:
        return (
            f"Mend what the engine says (`nebula logs {failed.id}` has all of it), "
            f"then ask for it again: `nebula scale {model.id} {model.wanted}`."
        )
    if model.unschedulable:
        return _unschedulable(state, model)
    for replica in replicas:
        if not replica.serving:
            return _replica(state, replica)
    return ""


def _replica(state: State, replica: Replica) -> str:
    node = state.nodes.get(replica.node)
    if node is None or node.lost:
        return f"Start `nebula node --name {replica.node}` on its machine again."
    if replica.phase == "failed":
        return (
            f"Wait: {replica.node} tries {replica.id} again; "
            f"`nebula logs {replica.id}` says what went wrong."
        )
    if replica.phase == "starting":
        return f"Wait: its engine is loading; `nebula logs -f {replica.id}` shows how far it is."
    first = starts_before(state, replica)
    if first is not None:
        return (
            f"Wait: {first.id} starts there first, as `nebula logs -f {first.id}` shows. "
            "Its node ends a start that gets on no more (`--start-limit`)."
        )
    return (
        f"Wait for {replica.node} to start {replica.id}; if it does not, "
        f"see that `nebula node --name {replica.node}` runs there."
    )


def _still(replica: Replica) -> str:
    engine = replica.engine
    if engine is None or engine.ends:
        return (
            f"Wait: {replica.node} ends {replica.id} if that lasts, and starts it anew; "
            f"`nebula logs {replica.id}` has its last words."
        )
    return (
        f"End process {engine.pid} on {replica.node}, so that {replica.id} is started anew: "
        f"`--stall-limit 0` keeps its node from doing so."
    )


def _unschedulable(state: State, model: Model) -> str:
    planned = plan(state, model, tell=True)
    if not planned.choices:
        return "Wait: there is room for it now, and a router will place it."
    found = planned.choices[-1].candidates
    if not found or not found[0].unfit:
        return (
            "Start a machine that takes it: `nebula node`."
            if not found
            else "Wait: there is room for it now, and a router will place it."
        )
    # The nearest to being taken come first.
    if found[0].lack in ("place", "label", "devices"):
        return _nowhere(model, found[0].lack)
    return _either(_opened(state, model) + _roomier(state, found))


def _either(ways: Sequence[str]) -> str:
    """Make one sentence of several ways, any of which will do."""
    *first, last = ways
    text = f"{', '.join(first)}, or {last}" if first else last
    return f"{text[0].upper()}{text[1:]}."


def _opened(state: State, model: Model) -> list[str]:
    """Name the nodes that are lost or draining and would have room, were they not."""
    lost = [node for node in state.nodes.values() if node.lost]
    draining = [node for node in state.nodes.values() if node.draining and not node.lost]
    # A lost node ends its engines before it is back.
    emptied = state.occupancy
    for node in lost:
        emptied = emptied.discard(node.id)
    returned = _with(state, lost, lost=False, draining=False)
    back = replace(state, nodes=returned, occupancy=emptied)
    undrained = replace(state, nodes=_with(state, draining, draining=False))
    ways = [
        f"start the lost node {node} again (`nebula node --name {node}` on its machine"
        + (f", then `nebula drain {node} --undo`)" if state.nodes[node].draining else ")")
        for node in _taking(back, model, {node.id for node in lost})
    ]
    ways += [
        f"let {node} take replicas again (`nebula drain {node} --undo`)"
        for node in _taking(undrained, model, {node.id for node in draining})
    ]
    return ways


def _with(state: State, nodes: Sequence[Node], **fields: bool) -> HashTrieMap[str, Node]:
    changed = state.nodes
    for node in nodes:
        changed = changed.insert(node.id, replace(node, **fields))
    return changed


def _taking(state: State, model: Model, nodes: Set[str]) -> list[str]:
    """Give those of the nodes, at most a few, that a plan would choose or keep in `state`."""
    if not nodes:
        return []
    places = plan(state, model).assignments
    return sorted({place.node for place in places if place.node in nodes})[:_NAMED]


def _roomier(state: State, found: Sequence[Candidate]) -> list[str]:
    """Say what would make room on the nodes that take replicas, and on one that is not there."""
    full = [each for each in found if each.lack == "room"]
    if not full:
        return ["start another `nebula node`"]
    roomiest = max(full, key=lambda each: each.room)
    if roomiest.room >= roomiest.need:
        return [f"add a node that it may be on: {roomiest.unfit}"]
    ways = [
        f"add a node with a device that has {memory.text(roomiest.need)} to give",
    ]
    sizes = {device.index: device.memory for device in state.nodes[roomiest.node].devices}
    if min(sizes[index] for index in roomiest.devices) >= roomiest.need:
        ways.append(f"unload something from {roomiest.name}")
    if roomiest.room > 0:
        ways.append(f"load it again with --memory {_offer(roomiest.room)} or less")
    return ways


def _nowhere(model: Model, lack: str) -> str:
    spec = model.spec
    if lack == "place":
        return f"Start `nebula node --name {spec.node}`, or load it again without --node."
    if lack == "label":
        labels = " ".join(f"--label {key}={value}" for key, value in sorted(spec.labels.items()))
        return f"Start a node that carries it (`nebula node {labels}`), or load it again without."
    if spec.devices:
        return f"Load it again with a --device that {spec.node} has."
    count = devices_needed(spec.options)
    return f"Add a node with {count} GPUs, or load it again with a smaller --tensor-parallel."


def _offer(room: int) -> str:
    """Write a size that is not above `room`: rounding up would not fit."""
    tenths = room * 10 // memory.GIB
    return f"{tenths // 10}.{tenths % 10}GiB" if tenths else f"{room // 2**20}MiB"


def _unloading(state: State, model: Model) -> str:
    for replica in state.replicas_of(model):
        node = state.nodes.get(replica.node)
        if node is None or node.lost:
            return (
                f"Start `nebula node --name {replica.node}` on its machine again, so that it can "
                f"end {replica.id}, or publish NodeDeregistered for it."
            )
    return "Wait: its engines are ending."
