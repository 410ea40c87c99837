"""The devices that a new replica could go to: which is best, and why each of the others is not."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from msgspec import Struct

from nebula.events import memory
from nebula.events.state import Model, Node, State
from nebula.events.vocabulary import Assignment, Device, Policy, Task

USABLE = 0.92
"""The part of a device that plans may promise; the rest is the driver's and everybody's."""

DEFAULT_SHARE: dict[Task, float] = {"chat": 0.45, "embedding": 0.15}
"""The part of a device that a replica gets whose load request names no memory."""

Place: TypeAlias = tuple[str, int]
"""A node and the index of one of its devices."""


class Candidate(Struct, frozen=True):
    """A device as a place for one more replica of a model.

    `need` and `room` in bytes: what the replica takes of it, what plans have left of it. `same`
    counts the model's replicas on the node. `unfit` says why it can't be taken; empty if it can.
    """

    node: str
    device: int
    kind: str
    need: int
    room: int
    same: int
    unfit: str = ""

    @property
    def name(self) -> str:
        """The device in words: `n1/gpu0`."""
        return f"{self.node}/{self.kind}{self.device}"


def weigh(
    state: State,
    model: Model,
    placed: Sequence[Assignment],
    used: Mapping[Place, int],
    policy: Policy = "spread",
) -> list[Candidate]:
    """Give every device there is, the best first, those that can't be taken last."""
    found = [
        _candidate(model, node, device, placed, used)
        for identity in sorted(state.nodes)
        for node in (state.nodes[identity],)
        for device in distinct(node)
    ]
    return sorted(found, key=lambda each: (bool(each.unfit), *_rank(each, policy)))


def _candidate(
    model: Model,
    node: Node,
    device: Device,
    placed: Sequence[Assignment],
    used: Mapping[Place, int],
) -> Candidate:
    needed = need(model, device)
    room = usable(device) - used.get((node.id, device.index), 0)
    same = sum(place.node == node.id for place in placed)
    unfit = ""
    if node.lost:
        unfit = f"{node.id} is lost"
    elif node.draining:
        unfit = f"{node.id} is draining"
    elif room < max(needed, 1):
        unfit = (
            f"{node.id}/{device.kind}{device.index} has {memory.text(max(room, 0))} left, "
            f"needs {memory.text(needed)}"
        )
    return Candidate(node.id, device.index, device.kind, needed, room, same, unfit)


def _rank(each: Candidate, policy: Policy) -> tuple[int, int, str, int]:
    if policy == "binpack":
        return each.room, 0, each.node, each.device
    return each.same, -each.room, each.node, each.device


def why_not(each: Candidate, best: Candidate, policy: Policy = "spread") -> str:
    """Say why a candidate lost against the best one."""
    if each.unfit:
        return each.unfit
    if policy == "spread" and each.same != best.same:
        return f"{each.node} has {each.same} of its replicas already, {best.node} {best.same}"
    if each.room != best.room:
        word = "less" if policy == "spread" else "more"
        return f"it has {word} room: {memory.text(each.room)}, not {memory.text(best.room)}"
    return f"it is as good, but {best.name} comes first by name"


def shortage(candidates: Sequence[Candidate]) -> str:
    """Say why no candidate can be taken."""
    tight = [each.unfit for each in candidates if " left, needs " in each.unfit]
    if not tight:
        return "no node takes replicas: start one with `nebula node`"
    return "no device has room: " + "; ".join(tight[:8])


def usable(device: Device) -> int:
    """Give how many bytes of a device plans may promise in all."""
    return int(device.memory * USABLE)


def need(model: Model, device: Device) -> int:
    """Give how many bytes of a device one replica of a model takes."""
    amount = model.spec.memory
    if amount is None:
        return int(device.memory * DEFAULT_SHARE[model.task])
    return memory.parse(amount)


def distinct(node: Node) -> Iterator[Device]:
    """Give a node's devices; of those that share an index the first."""
    for device in node.devices:
        if device is device_at(node, device.index):
            yield device


def device_at(node: Node, index: int) -> Device | None:
    """Give a node's device by its index."""
    return next((device for device in node.devices if device.index == index), None)
