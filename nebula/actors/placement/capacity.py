"""The memory that plans have left on every node, recomputed only if it may have changed."""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from msgspec import Struct

from nebula.actors.placement.sizing import distinct, usable
from nebula.events.state import Node, Occupancy, State
from nebula.events.values import Device

Place: TypeAlias = tuple[str, int]
"""A node and the index of one of its devices."""


class NodeCapacity(Struct, frozen=True):
    """What plans have left of a node: bytes of each of its `devices`.

    `ranked`: the same, least first. `shape`: the common properties of its devices, if they are
    alike. `beside`: bytes of each device that replicas of other nodes use, if those offer the same
    device.
    """

    node: Node
    occupancy: Occupancy | None
    devices: tuple[Device, ...]
    free: tuple[int, ...]
    ranked: tuple[int, ...]
    shape: Device | None
    beside: tuple[int, ...] = ()

    def beside_of(self, index: int) -> int:
        """Return the bytes of a device that replicas of other nodes use."""
        found = zip(self.devices, self.beside, strict=False)
        return next((other for device, other in found if device.index == index), 0)

    @property
    def most(self) -> int:
        """The bytes left on the device with the most room."""
        return self.ranked[-1] if self.ranked else 0


class Capacity:
    """Computes the room on all nodes for consecutive states."""

    def __init__(self) -> None:
        self._rooms: dict[str, NodeCapacity] = {}
        self._seen: tuple[object, object] = (None, None)
        self.twins: Mapping[Place, tuple[Place, ...]] = {}
        """For each device that several nodes offer, its other nodes."""
        self.full: dict[object, str] = {}
        """The requirements (`Requirements.kind`) that have no room now, with the reason."""

    def of(self, state: State) -> Mapping[str, NodeCapacity]:
        """Return the room on every node, in no order."""
        if self._seen[0] is state.nodes and self._seen[1] is state.occupancy:
            return self._rooms
        known, occupancy = self._rooms, state.occupancy
        if self._seen[0] is not state.nodes:
            self.twins = twins(state)
        rooms = {}
        for identity, node in state.nodes.items():
            held = occupancy.get(identity)
            room = known.get(identity)
            beside = self._beside(node, occupancy) if self.twins else ()
            if (
                room is None
                or room.node is not node
                or room.occupancy is not held
                or room.beside != beside
            ):
                room = _room(node, held, beside)
            rooms[identity] = room
        self._rooms, self._seen = rooms, (state.nodes, state.occupancy)
        self.full.clear()
        return rooms

    def branch(self) -> "Capacity":
        """Return a copy that goes on by itself, from the state that this one knows."""
        copy = Capacity()
        copy._rooms, copy._seen = dict(self._rooms), self._seen
        copy.twins = self.twins
        return copy

    def step(self, state: State, nodes: Iterable[str]) -> None:
        """Take over a state that differs from the last one at most on these nodes, quicker than
        `of`.

        None of them may be new or have other devices than before.
        """
        if self.twins or self._seen[0] is None:
            return  # `of` compares all nodes
        more = False
        for identity in nodes:
            node = state.nodes.get(identity)
            if node is None:
                return
            before = self._rooms[identity]
            room = _room(node, state.occupancy.get(identity), ())
            more = more or (node.schedulable and _grew(before, room))
            self._rooms[identity] = room
        self._seen = (state.nodes, state.occupancy)
        if more:
            self.full.clear()

    def _beside(self, node: Node, occupancy: Mapping[str, Occupancy]) -> tuple[int, ...]:
        """Return what other nodes use of a node's devices; nothing if no device is shared."""
        places = [(node.id, device.index) for device in distinct(node)]
        if not any(place in self.twins for place in places):
            return ()
        return tuple([promised_beside(occupancy, self.twins.get(place, ())) for place in places])


def twins(state: State) -> dict[Place, tuple[Place, ...]]:
    """Return the devices that several nodes offer, each with its other nodes."""
    same: dict[str, list[Place]] = {}
    for node in state.nodes.values():
        for device in node.devices:
            if device.identity:
                same.setdefault(device.identity, []).append((node.id, device.index))
    return {
        place: tuple(other for other in sorted(places) if other != place)
        for places in same.values()
        if len(places) > 1
        for place in places
    }


def promised_beside(occupancy: Mapping[str, Occupancy], others: tuple[Place, ...]) -> int:
    """Return the bytes of a device that replicas of other nodes use."""
    found = [(occupancy.get(node), index) for node, index in others]
    return sum(held.used.get(index, 0) for held, index in found if held is not None)


def _grew(before: NodeCapacity, after: NodeCapacity) -> bool:
    """Return whether a device has more room than before."""
    return any(now > then for then, now in zip(before.free, after.free, strict=True))


def _room(node: Node, held: Occupancy | None, beside: tuple[int, ...]) -> NodeCapacity:
    devices = tuple(distinct(node))
    used = held.used if held is not None else {}
    others = beside or (0,) * len(devices)
    free = tuple(
        [
            usable(device) - used.get(device.index, 0) - other
            for device, other in zip(devices, others, strict=True)
        ]
    )
    alike = len({(device.kind, device.memory) for device in devices}) == 1
    ranked = tuple(sorted(free))
    return NodeCapacity(node, held, devices, free, ranked, devices[0] if alike else None, beside)
