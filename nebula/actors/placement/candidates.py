"""The devices that a new replica could go to: the best one, and why the others are not."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from heapq import nsmallest
from typing import Literal, TypeAlias

from msgspec import Struct

from nebula.actors.placement.fleet import Place, Room
from nebula.actors.placement.sizing import need
from nebula.events import memory
from nebula.events.drift import unsuited
from nebula.events.engine_options import devices_needed
from nebula.events.sources import is_folder, lacks
from nebula.events.state import Model, Node, State
from nebula.events.values import Device, Policy

Lack: TypeAlias = Literal["", "place", "label", "files", "devices", "open", "room"]
"""What a candidate lacks, ordered by severity: lack of room is the mildest."""

_NEARNESS: dict[Lack, int] = {
    "place": 0,
    "label": 1,
    "files": 2,
    "devices": 3,
    "open": 4,
    "room": 5,
    "": 6,
}

SHOWN = 8
"""Candidates that a reason names, at most."""


class PlacementCandidate(Struct, frozen=True):
    """Devices of a node as a place for one more replica of a model.

    `need` and `room` are bytes of each device: what the replica needs, and what plans have left
    (the least of several devices). `same` counts the model's replicas on the node; `holds` says
    whether its weights are there. `unfit` says why it can't be chosen, `lack` the kind of that
    reason; both are empty if it can.
    """

    node: str
    devices: tuple[int, ...]
    kind: str
    need: int
    room: int
    same: int
    holds: bool = False
    unfit: str = ""
    lack: Lack = ""

    @property
    def name(self) -> str:
        """The devices in words: `n1/gpu0`, `n1/gpu0+1`."""
        return f"{self.node}/{self.kind}{'+'.join(map(str, self.devices))}"


class Requirements:
    """The requirements of one more replica of a model."""

    def __init__(self, state: State, model: Model, policy: Policy | None = None) -> None:
        self.model = model
        self.spec = model.spec
        self.policy: Policy = policy or model.spec.policy
        self.count = devices_needed(model.spec.options)
        self.apart = _kept_apart(state, model)
        self._own = model.id in model.spec.apart
        self.hostile = self._own or bool(self.apart)
        self._needs: dict[tuple[str, int], int] = {}

    def need(self, device: Device) -> int:
        """Return how many bytes of a device it needs."""
        shape = (device.kind, device.memory)
        found = self._needs.get(shape)
        if found is None:
            found = self._needs[shape] = need(self.model, device, self.count)
        return found

    @property
    def kind(self) -> object:
        """Return a key that is equal for all models with the same requirements."""
        spec = self.spec
        sized: object = spec.memory
        if sized is None:
            sized = (spec.task, self.model.measured, *map(str, spec.options.items()))
        pins = (spec.node, spec.devices, *sorted(spec.labels.items()))
        folder = spec.source if is_folder(spec.source) else ""
        return (self.count, self.policy, sized, pins, folder)

    def holds(self, node: Node) -> bool:
        """Return whether a node has the model's files on its disk."""
        held = node.weights.get(self.spec.source) if node.weights else None
        return held is not None and held.whole and not held.removing

    def enemy(self, node: str, same: int) -> str:
        """Return a model on the node with which it must not share it; empty if there is none."""
        if self._own and same:
            return self.model.id
        return self.apart.get(node, "")


def _kept_apart(state: State, model: Model) -> dict[str, str]:
    """Return the nodes with a replica of a model that must be kept apart, by either request."""
    others = {*model.spec.apart, *state.apart.get(model.id, ())} - {model.id}
    found: dict[str, str] = {}
    for identity in sorted(others):
        other = state.models.get(identity)
        for replica in state.replicas_of(other) if other is not None else ():
            found.setdefault(replica.node, identity)
    return found


def best(
    rooms: Mapping[str, Room],
    wish: Requirements,
    same: Mapping[str, int],
    delta: Mapping[Place, int],
) -> PlacementCandidate | None:
    """Return the first candidate of `weigh` if it fits, computed faster because without reasons."""
    spec, spread = wish.spec, wish.policy == "spread"
    labels = list(spec.labels.items())
    changed = {node for node, _ in delta}
    if spec.node:
        rooms = {spec.node: rooms[spec.node]} if spec.node in rooms else {}
    found: PlacementCandidate | None = None
    kind, size, needed = "", -1, 0
    for identity, room in rooms.items():
        node, shape = room.node, room.shape
        if node.draining or node.lost or node.stopped or (labels and not _carries(node, labels)):
            continue
        if node.weights and lacks(node, spec.source):
            continue
        here = same.get(identity, 0)
        if wish.hostile and wish.enemy(identity, here):
            continue
        if shape is None or spec.devices or identity in changed:
            for each in _options(room, wish, here, delta):
                if not each.lack and (found is None or _rank(each, wish) < _rank(found, wish)):
                    found = each
            continue
        if shape.memory != size or shape.kind != kind:
            kind, size, needed = shape.kind, shape.memory, max(wish.need(shape), 1)
        count = wish.count
        ranked = room.ranked
        if len(ranked) < count or ranked[-count] < needed or (count > 1 and kind != "gpu"):
            continue
        left = ranked[-count] if spread else ranked[bisect_left(ranked, needed)]
        if found is not None and (found.holds or not node.weights):
            worse = found.room - left if spread else left - found.room
            if (spread and here > found.same) or (
                (here == found.same or not spread)
                and (worse > 0 or (worse == 0 and identity > found.node))
            ):
                continue
        found = _better(room, shape, left, wish, here, found)
    return found


def _carries(node: Node, labels: Sequence[tuple[str, str]]) -> bool:
    return all(node.labels.get(key) == value for key, value in labels)


def _better(
    room: Room,
    shape: Device,
    left: int,
    wish: Requirements,
    same: int,
    found: PlacementCandidate | None,
) -> PlacementCandidate:
    """Return the better of the best place on this node and the best place found before.

    All devices of the node are alike; `left`: bytes that are free on the best ones.
    """
    count = wish.count
    spread, holds = wish.policy == "spread", wish.holds(room.node)
    mine = (same if spread else 0, not holds, -left if spread else left, room.node.id)
    if found is not None and mine > _rank(found, wish)[:4]:
        return found
    needed, sign = max(wish.need(shape), 1), -1 if spread else 1
    fits = sorted(
        (sign * free, device.index)
        for device, free in zip(room.devices, room.free, strict=True)
        if free >= needed
    )
    indexes = tuple(sorted([index for _, index in fits[:count]]))
    return PlacementCandidate(
        room.node.id, indexes, shape.kind, wish.need(shape), left, same, holds
    )


def weigh(
    rooms: Mapping[str, Room],
    wish: Requirements,
    same: Mapping[str, int],
    delta: Mapping[Place, int],
) -> list[PlacementCandidate]:
    """Return every place, the best first and those that do not fit last.

    `same` counts the model's replicas on each node. `delta`: bytes by device that are assigned in
    addition to what `rooms` knows.
    """
    found = [
        _explained(each, room, wish)
        for identity, room in rooms.items()
        for each in _options(room, wish, same.get(identity, 0), delta)
    ]
    return sorted(
        found, key=lambda each: (bool(each.unfit), -_NEARNESS[each.lack], _rank(each, wish))
    )


def _options(
    room: Room, wish: Requirements, same: int, delta: Mapping[Place, int]
) -> Iterator[PlacementCandidate]:
    """Yield a node's devices as places, checked only for devices and room."""
    node, asked = room.node, wish.spec.devices
    holds = wish.holds(node)
    free = {
        device.index: (left - delta.get((node.id, device.index), 0), device)
        for device, left in zip(room.devices, room.free, strict=True)
        if not asked or device.index in asked
    }
    if wish.count > 1:
        yield _several(node, wish, free, same, holds)
        return
    for index, (left, device) in free.items():
        needed = wish.need(device)
        lack: Lack = "" if left >= max(needed, 1) else "room"
        yield PlacementCandidate(
            node.id, (index,), device.kind, needed, left, same, holds, "", lack
        )
    if not free:
        yield PlacementCandidate(node.id, (), "", 0, 0, same, holds, "", "devices")


def _several(
    node: Node, wish: Requirements, free: Mapping[int, tuple[int, Device]], same: int, holds: bool
) -> PlacementCandidate:
    """Choose GPUs of a node for one engine that needs several.

    It needs the same of each GPU, as much as the largest requires; so without a large GPU the
    others may have room.
    """
    gpus = [(left, device) for left, device in free.values() if device.kind == "gpu"]
    sign = -1 if wish.policy == "spread" else 1
    found: tuple[tuple[int, tuple[int, ...]], int] | None = None
    for most in sorted({wish.need(device) for _, device in gpus}):
        fit = [each for each in gpus if wish.need(each[1]) <= most <= each[0] and each[0] > 0]
        if len(fit) < wish.count:
            continue
        fit.sort(key=lambda each: (sign * each[0], each[1].index))
        taken = fit[: wish.count]
        indexes = tuple(sorted(device.index for _, device in taken))
        rank = (sign * min(left for left, _ in taken), indexes)
        if found is None or rank < found[0]:
            found = rank, max(wish.need(device) for _, device in taken)
    if found is not None:
        (left, indexes), needed = found
        return PlacementCandidate(node.id, indexes, "gpu", needed, sign * left, same, holds)
    ordered = sorted(gpus, key=lambda each: (sign * each[0], each[1].index))[: wish.count]
    return PlacementCandidate(
        node.id,
        tuple(sorted(device.index for _, device in ordered)),
        "gpu",
        max((wish.need(device) for _, device in ordered), default=0),
        min((left for left, _ in ordered), default=0),
        same,
        holds,
        "",
        "devices" if len(gpus) < wish.count else "room",
    )


def _explained(each: PlacementCandidate, room: Room, wish: Requirements) -> PlacementCandidate:
    """Return why it can't be chosen: the reason that is hardest to fix."""
    spec, node, lack, unfit = wish.spec, room.node, each.lack, ""
    wrong, lacking = unsuited(spec, node), lacks(node, spec.source)
    enemy = wish.enemy(node.id, each.same)
    if wrong:
        lack, unfit = ("place" if spec.node and spec.node != node.id else "label"), wrong
    elif lacking:
        lack, unfit = "files", lacking
    elif lack == "devices":
        unfit = _too_few(each, node, wish)
    elif node.closed:
        lack, unfit = "open", f"{node.id} is {node.closed}"
    elif enemy:
        lack = "room"
        other = "a replica of it" if enemy == wish.model.id else enemy
        unfit = f"{node.id} has {other}, which it is to be kept apart from"
    elif lack == "room":
        unfit = (
            f"{each.name} has {memory.text(max(each.room, 0))} left, needs {memory.text(each.need)}"
        )
        beside = max((room.beside_of(index) for index in each.devices), default=0)
        if beside:
            unfit += f" ({memory.text(beside)} of it are another node's, on the same machine)"
    return PlacementCandidate(
        each.node, each.devices, each.kind, each.need, each.room, each.same, each.holds, unfit, lack
    )


def _too_few(each: PlacementCandidate, node: Node, wish: Requirements) -> str:
    if wish.spec.devices:
        return f"{node.id} has no device {' or '.join(map(str, wish.spec.devices))}"
    has = len(each.devices)
    if has:
        return f"{node.id} has {has} GPU{'' if has == 1 else 's'}"
    return f"{node.id} has a CPU only" if wish.count > 1 and node.devices else f"{node.id} has none"


def _rank(
    each: PlacementCandidate, wish: Requirements
) -> tuple[int, bool, int, str, tuple[int, ...]]:
    if wish.policy == "binpack":
        return 0, not each.holds, each.room, each.node, each.devices
    return each.same, not each.holds, -each.room, each.node, each.devices


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
    rooms: Mapping[str, Room],
    wish: Requirements,
    same: Mapping[str, int],
    delta: Mapping[Place, int],
) -> str:
    """Return what is missing: its kind before the first colon, the places after it.

    If there are many nodes, those with the most room are named.
    """
    nearest: Lack = "open" if not rooms else "place"
    near: list[Room] = []
    for room in rooms.values():
        lack = _node_lacks(room, wish)
        if _NEARNESS[lack] > _NEARNESS[nearest]:
            nearest, near = lack, []
        if lack == nearest:
            near.append(room)
    found = [
        _explained(each, room, wish)
        for room in nsmallest(SHOWN, near, key=lambda room: (-room.most, room.node.id))
        for each in _options(room, wish, same.get(room.node.id, 0), delta)
    ]
    found.sort(key=lambda each: _rank(each, wish))
    told = "; ".join(list(dict.fromkeys(each.unfit for each in found if each.unfit))[:SHOWN])
    spec = wish.spec
    match nearest:
        case "place":
            return f"there is no node {spec.node}: it was asked for as the only place"
        case "label":
            labels = ", ".join(f"{key}={value}" for key, value in sorted(spec.labels.items()))
            return f"no node carries {labels}: {told}"
        case "files":
            return f"no node can serve {spec.source}: {told}"
        case "devices" if spec.devices:
            return f"a device that was asked for is not there: {told}"
        case "devices":
            gpus = f"{wish.count} GPUs" if wish.count > 1 else "devices"
            return f"no node has {gpus} for one replica: {told}"
        case "open" if rooms and (spec.node or spec.labels):
            return f"no node that suits takes replicas: {told}"
        case "open":
            return "no node takes replicas: start one with `nebula node`"
        case _:
            return f"no device has room: {told}"


def _node_lacks(room: Room, wish: Requirements) -> Lack:
    """Return what a node lacks, for its device that lacks least."""
    node, spec = room.node, wish.spec
    if (spec.node or spec.labels) and unsuited(spec, node):
        return "place" if spec.node and spec.node != node.id else "label"
    if lacks(node, spec.source):
        return "files"
    devices = room.devices
    if spec.devices:
        devices = tuple([device for device in devices if device.index in spec.devices])
    fit = devices if wish.count == 1 else [each for each in devices if each.kind == "gpu"]
    if len(fit) < wish.count:
        return "devices"
    return "open" if node.closed else "room"
