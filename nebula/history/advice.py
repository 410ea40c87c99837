"""What an operator should do about a model that is not healthy: one sentence. Pure."""

from __future__ import annotations  # rpds maps take no [] at run time

from collections.abc import Sequence, Set

from msgspec.structs import replace
from rpds import HashTrieMap

from nebula.actors.node.permanent import way_out
from nebula.actors.node.weights.provision import prunable
from nebula.actors.placement.candidates import Lack, PlacementCandidate
from nebula.actors.placement.planning import plan
from nebula.events import memory
from nebula.events.advised import command, why
from nebula.events.engine_options import PARALLEL, devices_needed, option_name
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
from nebula.history.load_command import load_again
from nebula.history.remedies import remedied

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
        return "Wait: a node measures how much memory it needs, which takes some seconds."
    if model.requested_seq > model.planned_seq:
        return "Start a router (`nebula router`) if none runs: none has decided where it goes."
    replicas = [replica for replica in state.replicas_of(model) if not replica.retired]
    failed = next((each for each in replicas if each.given_up), None)
    if failed is not None and (remedy := way_out(failed.reason)):
        return f"{remedied(model, remedy)} As it is, it would fail again in the same way."
    if failed is not None:
        return (
            f"{_mend(failed)}, {_again(model)}. Its node does not try again by itself, and begins "
            "with attempt 1 once you ask."
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
            f"{_mend(replica)}, or wait: {replica.node} starts "
            f"{replica.id} again, and stops trying after some failures in a row (an engine that "
            "served for twice as long as its start took begins a new row)."
        )
    if replica.phase == "starting" and failed_before(replica):
        wait = f"Wait: attempt {replica.attempt} is under way"
        if ended_from_outside(replica):
            return f"{wait}, and the engine before it was killed, not faulty."
        mend = _mend(replica)
        return f"{wait}. If it fails too: {mend[:1].lower()}{mend[1:]}."
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
            f"Wait: {node.id} fetches the files first and tries again by itself; `nebula weights` "
            "shows what else it fetches."
        )
    if not held.reason:
        return (
            f"Wait: {node.id} fetches the files first; `nebula weights` and "
            f"{command('events', '--node', node.id, '-f')} show how far it is."
        )
    again = "it tries again by itself" if held.retry_in is not None else "then ask for it again"
    if not disk_is_full(held.reason):
        return f"Fix what keeps {node.id} from fetching {source}; {again}."
    if prunable(state, node.id):
        prune = command("weights", "prune", node.id)
        return f"Make room on the disk of {node.id}; {again}. {prune} removes what no model needs."
    return (
        f"Make room on the disk of {node.id}; {again}. Or start that node with another "
        "--weights-folder: models still need all that Nebula has fetched there."
    )


def disk_is_full(reason: str) -> bool:
    """Return whether files could not be fetched because a disk has no room for them."""
    return any(words in reason for words in _NO_ROOM)


def _mend(replica: Replica) -> str:
    """Return what to mend before a replica is tried again, as the beginning of a sentence."""
    logs = command("logs", replica.id)
    if "ended a process of this machine then" in replica.reason:
        return (
            f"Run less on {replica.node}, or load it with less memory (--memory, or "
            f"--option max-model-len): the machine had no more ({logs})"
        )
    if ended_from_outside(replica):
        return f"Find out what ended its process on {replica.node} ({logs} shows its last lines)"
    return f"Fix what its engine complains of ({logs} shows all it wrote)"


def _again(model: Model) -> str:
    """Return how to ask for a model again as it is."""
    if model.spec.autoscale is not None:
        return f"then load it again as it is: {load_again(model)}"
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
        if first.phase != "ready":
            return f"Wait: {first.id} has to end there first."
        return (
            f"Wait: {first.id} has to end there first, once it has finished its requests "
            "(`--drain` of its node says how long it may take)."
        )
    if first.engine is None:
        return (
            f"Wait: {first.id} served before, and starts there first; "
            f"{why(first.id)} tells why it does not serve."
        )
    stuck = failed_before(first)
    mend = f" Its attempt before failed ({stuck}): {why(first.id)}." if stuck else ""
    return (
        f"Wait: {first.id} starts there first, as {command('logs', '-f', first.id)} shows. "
        f"Its node ends a start that makes no progress (`--start-limit`).{mend}"
    )


def _still(replica: Replica) -> str:
    engine = replica.engine
    if engine is None or engine.ends:
        return (
            f"Wait: {replica.node} ends {replica.id} if it makes no progress, and starts it again; "
            f"{command('logs', replica.id)} shows its last lines."
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
    if found[0].lack == Lack.FILES:
        return (
            f"Put the model's files into {model.spec.source} on a node, which looks again every "
            f"half minute, or load it from elsewhere: {load_again(model, source='SOURCE')}."
        )
    if found[0].lack in (Lack.PLACE, Lack.LABEL, Lack.DEVICES):
        return _nowhere(model, found[0].lack)
    return _either(_opened(state, model) + _roomier(state, model, found))


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


def _roomier(state: State, model: Model, found: Sequence[PlacementCandidate]) -> list[str]:
    """Return what would make room on the present nodes, or by a new one."""
    full = [each for each in found if each.lack == Lack.ROOM]
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
        offer = load_again(model, memory=_offer(roomiest.room))
        ways.append(f"load it again with less memory, as {roomiest.name} has left now ({offer})")
    return ways


def _nowhere(model: Model, lack: Lack) -> str:
    spec = model.spec
    if lack == Lack.PLACE:
        elsewhere = load_again(model, node="", devices=())
        return (
            f"Start {command('node', '--name', spec.node)}, or load it for any node: {elsewhere}."
        )
    if lack == Lack.LABEL:
        pairs = (("--label", f"{key}={value}") for key, value in sorted(spec.labels.items()))
        start = command("node", *(word for pair in pairs for word in pair))
        return (
            f"Start a node with that label ({start}), or load it without one: "
            f"{load_again(model, labels={})}."
        )
    if spec.devices:
        return (
            f"Load it for any device of {spec.node}, or add a --device that {spec.node} has to "
            f"this: {load_again(model, devices=())}."
        )
    count = devices_needed(spec.options)
    rest = {key: each for key, each in spec.options.items() if option_name(key) not in PARALLEL}
    return (
        f"Add a node with {count} GPUs, or load it for one GPU: {load_again(model, options=rest)}."
    )


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
