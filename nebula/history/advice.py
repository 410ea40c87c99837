"""What an operator should do about a model that is not healthy: one sentence. Pure."""

from __future__ import annotations  # rpds maps take no [] at run time

from collections.abc import Sequence, Set

from msgspec.structs import replace
from rpds import HashTrieMap

from nebula.actors.node.permanent import way_out
from nebula.actors.node.weights.provision import prunable
from nebula.actors.placement.candidates import PlacementCandidate
from nebula.actors.placement.planning import plan
from nebula.events import memory
from nebula.events.advised import command, why
from nebula.events.engine_options import devices_needed
from nebula.events.model_status import (
    ended_from_outside,
    failed_before,
    fetches,
    model_status,
    stands_still,
    starts_before,
)
from nebula.events.sources import unmeasured
from nebula.events.state import CachedSource, Model, Node, Replica, State

_NAMED = 3
"""Nodes of a kind that are named, at most: a list of a thousand would not help."""

_NO_ROOM = ("more on the disk of", "No space left on device", "Disk quota exceeded")
"""What a node says of a disk that is full: its own words, and those of the operating system."""


def advice(state: State, model: Model) -> str:
    """Return what to do so that all wanted replicas of a model serve; empty if they do."""
    stands = model_status(state, model)
    if model.unloading:
        return _unloading(state, model)
    if model.asleep:
        return ""
    if model.wanted == 0:
        return f"Give it replicas: {command('scale', model.id, '1')}."
    still = next((each for each in state.replicas_of(model) if stands_still(each)), None)
    if still is not None and still.serving:
        return _still(still)
    if stands.ready == stands.wanted and not (stands.changing and model.unschedulable):
        return ""
    if unmeasured(state, model):
        return (
            "Wait: a node measures how much memory it needs, which takes some seconds; load it "
            "again with --memory to skip this."
        )
    if model.requested_seq > model.planned_seq:
        return "Start a router (`nebula router`) if none runs: none has decided where it goes."
    replicas = [replica for replica in state.replicas_of(model) if not replica.retired]
    failed = next((each for each in replicas if each.given_up), None)
    if failed is not None and (remedy := way_out(failed.reason)):
        start = f"{remedy[:1].upper()}{remedy[1:]}"
        return f"{start}. The same request would fail in the same way."
    if failed is not None:
        return (
            f"{_mend(failed)}, {_again(model)}, or load it otherwise. It is not tried again by "
            "itself; a request begins with attempt 1."
        )
    if model.unschedulable:
        return _unschedulable(state, model)
    for replica in replicas:
        if not replica.serving:
            return _replica(state, replica)
    return ""


def _replica(state: State, replica: Replica) -> str:
    node = state.nodes.get(replica.node)
    if node is None or node.away:
        return f"Start {command('node', '--name', replica.node)} on its machine again."
    if replica.phase == "failed":
        return (
            f"{_mend(replica)}, or wait: {replica.node} tries "
            f"{replica.id} again, and gives it up after some failures in a row. Once an engine "
            "has served for twice as long as its start took, its failures are counted anew."
        )
    if replica.phase == "starting" and failed_before(replica):
        wait = f"ait for attempt {replica.attempt}, which is under way"
        if ended_from_outside(replica):
            return (
                f"W{wait}: the previous engine was ended from outside, not by a fault of its own."
            )
        return f"{_mend(replica)}, or w{wait}."
    if replica.phase == "starting":
        return (
            f"Wait: its engine is loading, as {command('logs', '-f', replica.id)} shows. "
            "Its node ends a start that makes no progress (`--start-limit`)."
        )
    fetching = fetches(node, replica)
    if fetching:
        return _files(state, node, replica)
    return _turn(state, replica)


def _files(state: State, node: Node, replica: Replica) -> str:
    """Return what to do about files that a node still fetches, or can't fetch."""
    source = replica.launch.source if replica.launch is not None else ""
    held = node.weights.get(source, CachedSource())
    if held.waits:
        return (
            f"Wait: {node.id} fetches the files first, and goes on by itself; `nebula weights` "
            "shows what else it fetches. A hub that does not answer in time is asked again later."
        )
    if not held.reason:
        return (
            f"Wait: {node.id} fetches the files first; `nebula weights` and "
            f"{command('events', '--node', node.id, '-f')} show how far it is."
        )
    again = "it tries again by itself" if held.retry_in is not None else "then ask for it again"
    if not disk_is_full(held.reason):
        return f"Mend what keeps {node.id} from fetching {source}, {again}."
    if prunable(state, node.id):
        prune = command("weights", "prune", node.id)
        return f"Make room on the disk of {node.id}, {again}: {prune} removes what no model needs."
    return (
        f"Make room on the disk of {node.id}, {again}, or give that node another "
        "--weights-folder: nothing that Nebula fetched there can go."
    )


def disk_is_full(reason: str) -> bool:
    """Return whether files could not be fetched because a disk has no room for them."""
    return any(words in reason for words in _NO_ROOM)


def _mend(replica: Replica) -> str:
    """Return what to mend before a replica is tried again, as the beginning of a sentence."""
    logs = command("logs", replica.id)
    if "ended a process of this machine then" in replica.reason:
        return (
            f"Have less on {replica.node}, or give the engine less memory (--memory, or "
            f"--option max-model-len=…): the machine had no more ({logs})"
        )
    if ended_from_outside(replica):
        return f"Find out what ended its process on {replica.node} ({logs} has its last words)"
    return f"Mend what its engine says ({logs} has all of it)"


def _again(model: Model) -> str:
    """Return how to ask for a model again as it is."""
    if model.spec.autoscale is not None:
        return "then load it again as before (a number of its own would end --autoscale)"
    return f"then ask for it again: {command('scale', model.id, str(model.wanted))}"


def _turn(state: State, replica: Replica) -> str:
    """Return what to do about a replica that can't start yet."""
    first = starts_before(state, replica)
    if first is None:
        return (
            f"Wait for {replica.node} to start {replica.id}; if it does not, "
            f"see that {command('node', '--name', replica.node)} runs there."
        )
    if first.retired:
        return (
            f"Wait: {first.id} has to end there first, with the requests that it has (`--drain` of "
            f"its node says for how long)."
        )
    if first.engine is None:
        return (
            f"Wait: {first.id} served before, and starts there first; "
            f"{why(first.id)} tells what became of it."
        )
    stuck = failed_before(first)
    mend = f" It failed before ({stuck}): {why(first.id)}." if stuck else ""
    return (
        f"Wait: {first.id} starts there first, as {command('logs', '-f', first.id)} shows. "
        f"Its node ends a start that gets on no more (`--start-limit`).{mend}"
    )


def _still(replica: Replica) -> str:
    engine = replica.engine
    if engine is None or engine.ends:
        return (
            f"Wait: {replica.node} ends {replica.id} if that lasts, and starts it anew; "
            f"{command('logs', replica.id)} has its last words."
        )
    return (
        f"End process {engine.pid} on {replica.node}, so that {replica.id} is started again: "
        "`--stall-limit 0` keeps its node from doing so."
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
    # The nodes that lack least come first.
    if found[0].lack == "files":
        return (
            f"Put the model's files at {model.spec.source} on a node, which checks every half "
            "minute, or load it again with another source."
        )
    if found[0].lack in ("place", "label", "devices"):
        return _nowhere(model, found[0].lack)
    return _either(_opened(state, model) + _roomier(state, found))


def _either(ways: Sequence[str]) -> str:
    """Return one sentence with several ways, any of which is enough."""
    *first, last = ways
    text = f"{', '.join(first)}, or {last}" if first else last
    return f"{text[0].upper()}{text[1:]}."


def _opened(state: State, model: Model) -> list[str]:
    """Name the nodes that are lost, stopped or draining and would have room, were they not."""
    lost = [node for node in state.nodes.values() if node.away]
    draining = [node for node in state.nodes.values() if node.draining and not node.away]
    # Such a node has ended its engines before it is back.
    emptied = state.occupancy
    for node in lost:
        emptied = emptied.discard(node.id)
    returned = _with(state, lost, lost=False, stopped=False, draining=False)
    back = replace(state, nodes=returned, occupancy=emptied)
    undrained = replace(state, nodes=_with(state, draining, draining=False))
    ways = [
        f"start the {state.nodes[node].closed} node {node} again "
        f"({command('node', '--name', node)} on its machine"
        + (f", then {command('drain', node, '--undo')})" if state.nodes[node].draining else ")")
        for node in _taking(back, model, {node.id for node in lost})
    ]
    ways += [
        f"let {node} take replicas again ({command('drain', node, '--undo')})"
        for node in _taking(undrained, model, {node.id for node in draining})
    ]
    return ways


def _with(state: State, nodes: Sequence[Node], **fields: bool) -> HashTrieMap[str, Node]:
    changed = state.nodes
    for node in nodes:
        changed = changed.insert(node.id, replace(node, **fields))
    return changed


def _taking(state: State, model: Model, nodes: Set[str]) -> list[str]:
    """Return a few of the nodes that a plan would use in `state`."""
    if not nodes:
        return []
    places = plan(state, model).assignments
    return sorted({place.node for place in places if place.node in nodes})[:_NAMED]


def _roomier(state: State, found: Sequence[PlacementCandidate]) -> list[str]:
    """Return what would make room on the present nodes, or by a new one."""
    full = [each for each in found if each.lack == "room"]
    if not full:
        return ["start another `nebula node`"]
    roomiest = max(full, key=lambda each: each.room)
    if roomiest.room >= roomiest.need:
        return [f"add a node that it may be on: {roomiest.unfit}"]
    ways = [
        f"add a node with a device that has {memory.text(roomiest.need)} free",
    ]
    sizes = {device.index: device.memory for device in state.nodes[roomiest.node].devices}
    if min(sizes[index] for index in roomiest.devices) >= roomiest.need:
        ways.append(f"unload something from {roomiest.name}")
    if roomiest.room > 0:
        offer = f"load it again with --memory {_offer(roomiest.room)} or less"
        ways.append(f"{offer}, which {roomiest.name} has left now")
    return ways


def _nowhere(model: Model, lack: str) -> str:
    spec = model.spec
    if lack == "place":
        return f"Start {command('node', '--name', spec.node)}, or load it again without --node."
    if lack == "label":
        pairs = (("--label", f"{key}={value}") for key, value in sorted(spec.labels.items()))
        start = command("node", *(word for pair in pairs for word in pair))
        return f"Start a node that carries it ({start}), or load it again without."
    if spec.devices:
        return f"Load it again with a --device that {spec.node} has."
    count = devices_needed(spec.options)
    return f"Add a node with {count} GPUs, or load it again with a smaller --tensor-parallel."


def _offer(room: int) -> str:
    """Return a size in words that is not above `room`, because a rounded-up size would not fit."""
    hundredths = room * 100 // memory.GIB
    if not hundredths:
        return f"{room // memory.MIB}MiB"
    return f"{hundredths // 100}.{hundredths % 100:02}GiB"


def _unloading(state: State, model: Model) -> str:
    for replica in state.replicas_of(model):
        node = state.nodes.get(replica.node)
        if node is None or node.away:
            return (
                f"Start {command('node', '--name', replica.node)} on its machine again, so that it "
                f"can end {replica.id}, or let it go for good: "
                f"{command('remove-node', replica.node)}."
            )
    return "Wait: its engines are ending."
