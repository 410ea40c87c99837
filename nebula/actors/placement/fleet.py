"""The room that plans have left on every node, worked out anew only where it may have changed."""

from collections.abc import Mapping
from typing import TypeAlias

from msgspec import Struct

from nebula.actors.placement.sizing import distinct, usable
from nebula.events.state import Node, Occupancy, State
from nebula.events.values import Device

Place: TypeAlias = tuple[str, int]
"""A node and the index of one of its devices."""


class Room(Struct, frozen=True):
    """What plans have left of a node: of each of its `devices` so many bytes.

    `ranked`: the same, least first. `shape` is what all of the devices are like, where they are.
    """

    node: Node
    occupancy: Occupancy | None
    devices: tuple[Device, ...]
    free: tuple[int, ...]
    ranked: tuple[int, ...]
    shape: Device | None

    @property
    def most(self) -> int:
        """What is left of the roomiest device."""
        return self.ranked[-1] if self.ranked else 0


class Fleet:
    """Gives the room on all nodes of a state, and of the next one."""

    def __init__(self) -> None:
        self._rooms: dict[str, Room] = {}
        self._seen: tuple[object, object] = (None, None)
        self.full: dict[object, str] = {}
        """What has no room now, by `Wish.kind`, and the words for it."""

    def of(self, state: State) -> Mapping[str, Room]:
        """Give the room on every node, in no order."""
        if self._seen[0] is state.nodes and self._seen[1] is state.occupancy:
            return self._rooms
        known, occupancy = self._rooms, state.occupancy
        rooms = {}
        for identity, node in state.nodes.items():
            held = occupancy.get(identity)
            room = known.get(identity)
            if room is None or room.node is not node or room.occupancy is not held:
                room = _room(node, held)
            rooms[identity] = room
        self._rooms, self._seen = rooms, (state.nodes, state.occupancy)
        self.full.clear()
        return rooms


def _room(node: Node, held: Occupancy | None) -> Room:
    devices = tuple(distinct(node))
    used = held.used if held is not None else {}
    free = tuple([usable(device) - used.get(device.index, 0) for device in devices])
    alike = len({(device.kind, device.memory) for device in devices}) == 1
    ranked = tuple(sorted(free))
    return Room(node, held, devices, free, ranked, devices[0] if alike else None)
