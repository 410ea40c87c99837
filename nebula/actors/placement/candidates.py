"""The devices that a new replica could go to: the best one, and why the others are not."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from heapq import nsmallest

from msgspec import Struct

from nebula.actors.placement.capacity import NodeCapacity, Place
from nebula.actors.placement.requirements import Rank, Requirements
from nebula.events import memory
from nebula.events.drift import unsuited
from nebula.events.sources import lacks
from nebula.events.state import Node
from nebula.events.values import Device, Policy


class Lack(IntEnum):
    """What a place lacks, the hardest to mend first: a lack of room is the mildest."""

    PLACE = 0
    """The load request names another node."""
    LABEL = 1
    FILES = 2
    DEVICES = 3
    OPEN = 4
    """The node takes no replicas now."""
    ROOM = 5
    NOTHING = 6


SHOWN = 8
"""Candidates that a reason names, at most."""


class PlacementCandidate(Struct, frozen=True):
    """Devices of a node as a place for one more replica of a model.

    `need` and `room` are bytes of each device: what the replica needs, and what plans have left
    (the least of several devices). `same` counts the model's replicas on the node; `holds` says
    whether its weights are there. `unfit` says why it can't be chosen, "" if it can; `lack` is the
    kind of that reason.
    """

    node: str
    devices: tuple[int, ...]
    kind: str
    need: int
    room: int
    same: int
    holds: bool = False
    unfit: str = ""
    lack: Lack = Lack.NOTHING

    @property
    def name(self) -> str:
        """The devices in words: `n1/gpu0`, `n1/gpu0+1`."""
        return f"{self.node}/{self.kind}{'+'.join(map(str, self.devices))}"


def best(
    rooms: Mapping[str, NodeCapacity],
    required: Requirements,
    same: Mapping[str, int],
    delta: Mapping[Place, int],
) -> PlacementCandidate | None:
    """Return the first candidate of `weigh` if it fits, computed faster because without reasons.

    Most nodes are compared by the rank of their best place alone; that this finds the same place
    as `weigh` is a law of `tests/unit/test_index.py`.
    """
    spec, spread, rank_of = required.spec, required.spread, required.rank
    labels = list(spec.labels.items())
    changed = {node for node, _ in delta}
    if spec.node:
        rooms = {spec.node: rooms[spec.node]} if spec.node in rooms else {}
    found: PlacementCandidate | None = None
    best_rank: Rank | None = None
    kind, size, needed = "", -1, 0
    for identity, room in rooms.items():
        node, shape = room.node, room.shape
        if node.draining or node.lost or node.stopped or (labels and not _carries(node, labels)):
            continue
        if node.weights and lacks(node, spec.source):
            continue
        here = same.get(identity, 0)
        if required.exclusive and required.conflict(identity, here):
            continue
        if shape is None or spec.devices or identity in changed:
            for each in _options(room, required, here, delta):
                if each.lack is Lack.NOTHING and (
                    found is None or _rank(each, required) < _rank(found, required)
                ):
                    found, best_rank = each, _rank(each, required)[0]
            continue
        if shape.memory != size or shape.kind != kind:
            kind, size, needed = shape.kind, shape.memory, max(required.need(shape), 1)
        count = required.count
        ranked = room.ranked
        if len(ranked) < count or ranked[-count] < needed or (count > 1 and kind != "gpu"):
            continue
        left = ranked[-count] if spread else ranked[bisect_left(ranked, needed)]
        rank = rank_of(here, bool(node.weights) and required.holds(node), left, identity)
        if best_rank is None or rank < best_rank:
            found, best_rank = _place(room, shape, left, required, here), rank
    return found


def _carries(node: Node, labels: Sequence[tuple[str, str]]) -> bool:
    return all(node.labels.get(key) == value for key, value in labels)


def _place(
    room: NodeCapacity, shape: Device, left: int, required: Requirements, same: int
) -> PlacementCandidate:
    """Return the best place on a node whose devices are alike.

    `left`: bytes that are free on the best of them.
    """
    needed, sign = max(required.need(shape), 1), -1 if required.spread else 1
    fits = sorted(
        (sign * free, device.index)
        for device, free in zip(room.devices, room.free, strict=True)
        if free >= needed
    )
    indexes = tuple(sorted([index for _, index in fits[: required.count]]))
    return PlacementCandidate(
        room.node.id,
        indexes,
        shape.kind,
        required.need(shape),
        left,
        same,
        required.holds(room.node),
    )


def weigh(
    rooms: Mapping[str, NodeCapacity],
    required: Requirements,
    same: Mapping[str, int],
    delta: Mapping[Place, int],
) -> list[PlacementCandidate]:
    """Return every place, the best first and those that do not fit last.

    `same` counts the model's replicas on each node. `delta`: bytes by device that are assigned in
    addition to what `rooms` knows.
    """
    found = [
        _explained(each, room, required)
        for identity, room in rooms.items()
        for each in _options(room, required, same.get(identity, 0), delta)
    ]
    return sorted(found, key=lambda each: (bool(each.unfit), -each.lack, _rank(each, required)))


def _options(
    room: NodeCapacity, required: Requirements, same: int, delta: Mapping[Place, int]
) -> Iterator[PlacementCandidate]:
    """Yield a node's devices as places, checked only for devices and room."""
    node, asked = room.node, required.spec.devices
    holds = required.holds(node)
    free = {
        device.index: (left - delta.get((node.id, device.index), 0), device)
        for device, left in zip(room.devices, room.free, strict=True)
        if not asked or device.index in asked
    }
    if required.count > 1:
        yield _several(node, required, free, same, holds)
        return
    for index, (left, device) in free.items():
        needed = required.need(device)
        lack = Lack.NOTHING if left >= max(needed, 1) else Lack.ROOM
        yield PlacementCandidate(
            node.id, (index,), device.kind, needed, left, same, holds, "", lack
        )
    if not free:
        yield PlacementCandidate(node.id, (), "", 0, 0, same, holds, "", Lack.DEVICES)


def _several(
    node: Node,
    required: Requirements,
    free: Mapping[int, tuple[int, Device]],
    same: int,
    holds: bool,
) -> PlacementCandidate:
    """Choose GPUs of a node for one engine that needs several.

    It needs the same of each GPU, as much as the largest requires; so without a large GPU the
    others may have room.
    """
    gpus = [(left, device) for left, device in free.values() if device.kind == "gpu"]
    sign = -1 if required.spread else 1
    found: tuple[tuple[int, tuple[int, ...]], int] | None = None
    for most in sorted({required.need(device) for _, device in gpus}):
        fit = [each for each in gpus if required.need(each[1]) <= most <= each[0] and each[0] > 0]
        if len(fit) < required.count:
            continue
        fit.sort(key=lambda each: (sign * each[0], each[1].index))
        taken = fit[: required.count]
        indexes = tuple(sorted(device.index for _, device in taken))
        rank = (sign * min(left for left, _ in taken), indexes)
        if found is None or rank < found[0]:
            found = rank, max(required.need(device) for _, device in taken)
    if found is not None:
        (left, indexes), needed = found
        return PlacementCandidate(node.id, indexes, "gpu", needed, sign * left, same, holds)
    ordered = sorted(gpus, key=lambda each: (sign * each[0], each[1].index))[: required.count]
    return PlacementCandidate(
        node.id,
        tuple(sorted(device.index for _, device in ordered)),
        "gpu",
        max((required.need(device) for _, device in ordered), default=0),
        min((left for left, _ in ordered), default=0),
        same,
        holds,
        "",
        Lack.DEVICES if len(gpus) < required.count else Lack.ROOM,
    )


def _explained(
    each: PlacementCandidate, room: NodeCapacity, required: Requirements
) -> PlacementCandidate:
    """Return why it can't be chosen: the reason that is hardest to fix."""
    spec, node, lack, unfit = required.spec, room.node, each.lack, ""
    wrong, lacking = unsuited(spec, node), lacks(node, spec.source)
    conflict = required.conflict(node.id, each.same)
    if wrong:
        lack, unfit = (Lack.PLACE if spec.node and spec.node != node.id else Lack.LABEL), wrong
    elif lacking:
        lack, unfit = Lack.FILES, lacking
    elif lack == Lack.DEVICES:
        unfit = _too_few(each, node, required)
    elif node.closed:
        lack, unfit = Lack.OPEN, f"{node.id} is {node.closed}"
    elif conflict:
        lack = Lack.ROOM
        other = "a replica of it" if conflict == required.model.id else conflict
        unfit = f"{node.id} has {other}, which it is to be kept apart from"
    elif lack == Lack.ROOM:
        unfit = (
            f"{each.name} has {memory.text(max(each.room, 0))} left, needs {memory.text(each.need)}"
        )
        beside = max((room.beside_of(index) for index in each.devices), default=0)
        if beside:
            unfit += f" ({memory.text(beside)} of it are another node's, on the same machine)"
    return PlacementCandidate(
        each.node, each.devices, each.kind, each.need, each.room, each.same, each.holds, unfit, lack
    )


def _too_few(each: PlacementCandidate, node: Node, required: Requirements) -> str:
    if required.spec.devices:
        return f"{node.id} has no device {' or '.join(map(str, required.spec.devices))}"
    has = len(each.devices)
    if has:
        return f"{node.id} has {has} GPU{'' if has == 1 else 's'}"
    return (
        f"{node.id} has a CPU only"
        if required.count > 1 and node.devices
        else f"{node.id} has none"
    )


def _rank(each: PlacementCandidate, required: Requirements) -> tuple[Rank, tuple[int, ...]]:
    """Return the rank of a place: that of its node, then its devices."""
    return required.rank(each.same, each.holds, each.room, each.node), each.devices


def why_not(each: PlacementCandidate, best: PlacementCandidate, policy: Policy = "spread") -> str:
    """Return why a candidate was not chosen."""
    if each.unfit:
        return each.unfit
    if policy == "spread" and each.same != best.same:
        return f"{each.node} has {each.same} of its replicas already, {best.node} {best.same}"
    if each.holds != best.holds:
        return f"its weights do not lie on {each.node}, as they do on {best.node}"
    if each.room != best.room:
        word = "less" if policy == "spread" else "more"
        return f"it has {word} room: {memory.text(each.room)}, not {memory.text(best.room)}"
    return f"it is as good, but {best.name} comes first by name"


def shortage(
    rooms: Mapping[str, NodeCapacity],
    required: Requirements,
    same: Mapping[str, int],
    delta: Mapping[Place, int],
) -> str:
    """Return what is missing: its kind before the first colon, the places after it.

    If there are many nodes, those with the most room are named.
    """
    nearest: Lack = Lack.OPEN if not rooms else Lack.PLACE
    near: list[NodeCapacity] = []
    for room in rooms.values():
        lack = _node_lacks(room, required)
        if lack > nearest:
            nearest, near = lack, []
        if lack == nearest:
            near.append(room)
    found = [
        _explained(each, room, required)
        for room in nsmallest(SHOWN, near, key=lambda room: (-room.most, room.node.id))
        for each in _options(room, required, same.get(room.node.id, 0), delta)
    ]
    found.sort(key=lambda each: _rank(each, required))
    told = "; ".join(list(dict.fromkeys(each.unfit for each in found if each.unfit))[:SHOWN])
    spec = required.spec
    match nearest:
        case Lack.PLACE:
            return f"there is no node {spec.node}: it was asked for as the only place"
        case Lack.LABEL:
            labels = ", ".join(f"{key}={value}" for key, value in sorted(spec.labels.items()))
            return f"no node carries {labels}: {told}"
        case Lack.FILES:
            return f"no node can serve {spec.source}: {told}"
        case Lack.DEVICES if spec.devices:
            return f"a device that was asked for is not there: {told}"
        case Lack.DEVICES:
            gpus = f"{required.count} GPUs" if required.count > 1 else "devices"
            return f"no node has {gpus} for one replica: {told}"
        case Lack.OPEN if rooms and (spec.node or spec.labels):
            return f"no node that suits takes replicas: {told}"
        case Lack.OPEN:
            return "no node takes replicas: start one with `nebula node`"
        case _:
            return f"no device has room: {told}"


def _node_lacks(room: NodeCapacity, required: Requirements) -> Lack:
    """Return what a node lacks, for its device that lacks least."""
    node, spec = room.node, required.spec
    if (spec.node or spec.labels) and unsuited(spec, node):
        return Lack.PLACE if spec.node and spec.node != node.id else Lack.LABEL
    if lacks(node, spec.source):
        return Lack.FILES
    devices = room.devices
    if spec.devices:
        devices = tuple([device for device in devices if device.index in spec.devices])
    fit = devices if required.count == 1 else [each for each in devices if each.kind == "gpu"]
    if len(fit) < required.count:
        return Lack.DEVICES
    return Lack.OPEN if node.closed else Lack.ROOM
