"""What one more replica of a model requires of devices, and which places it prefers. Pure."""

from typing import TypeAlias

from nebula.actors.placement.sizing import need
from nebula.events.engine_options import devices_needed
from nebula.events.sources import is_folder
from nebula.events.state import Model, Node, State
from nebula.events.values import Device, Policy

Rank: TypeAlias = tuple[int, bool, int, str]
"""The order of the places of one replica: the lowest rank is chosen."""


class Requirements:
    """The requirements of one more replica of a model."""

    def __init__(self, state: State, model: Model, policy: Policy | None = None) -> None:
        self.model = model
        self.spec = model.spec
        self.policy: Policy = policy or model.spec.policy
        self.spread = self.policy == "spread"
        self.rank = _spread_rank if self.spread else _binpack_rank
        self.count = devices_needed(model.spec.options)
        self.apart = _kept_apart(state, model)
        self._own = model.id in model.spec.apart
        self.exclusive = self._own or bool(self.apart)
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

    def conflict(self, node: str, same: int) -> str:
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


def _spread_rank(same: int, holds: bool, room: int, node: str) -> Rank:
    """Prefer few replicas of the model, then its weights, then most room, then the first name."""
    return same, not holds, -room, node


def _binpack_rank(_same: int, holds: bool, room: int, node: str) -> Rank:
    """Prefer the model's weights, then least room, then the first name."""
    return 0, not holds, room, node
