"""What a router decides: which replica goes where, and which wishes can't be granted. Pure.

`decide` looks only at the folded state, so that a decision that was lost is made again by whoever
folds the same log, and a decision that was appended leaves nothing to decide.
"""

from collections.abc import Iterator
from typing import TypeAlias

from msgspec import Struct

from nebula.events import memory
from nebula.events.state import Model, Node, Replica, State, launch_of, replica_id
from nebula.events.vocabulary import (
    Assignment,
    Device,
    Event,
    EventRejected,
    ModelAssigned,
    ModelUnloaded,
    ModelUnschedulable,
    Task,
)

USABLE = 0.92
"""The part of a device that plans may promise; the rest is the driver's and everybody's."""

DEFAULT_SHARE: dict[Task, float] = {"chat": 0.45, "embedding": 0.15}
"""The part of a device that a replica gets whose load request names no memory."""

Place: TypeAlias = tuple[str, int]
"""A node and the index of one of its devices."""


class Decision(Struct, frozen=True):
    """An event to append to an aggregate, and the sequence of the event that calls for it."""

    id: str
    event: Event
    cause: int


def decide(state: State) -> tuple[Decision, ...]:
    """Give what `state` calls for: answers to rejected entries, then the first due plan.

    One plan at a time, because each changes how much room is left for the next.
    """
    rejected = tuple(
        Decision(str(seq), EventRejected(rejection.subject, rejection.reason), seq)
        for seq, rejection in sorted(state.rejections.items())
    )
    for identity in sorted(state.models):
        planned = _decide_model(state, state.models[identity])
        if planned is not None:
            return (*rejected, planned)
    return rejected


def _decide_model(state: State, model: Model) -> Decision | None:
    if model.unloading:
        if model.replicas:
            return None
        return Decision(model.id, ModelUnloaded(), model.changed)
    due = model.intent > model.answered
    housed = all(place.node in state.nodes for place in model.assignments)
    if not due and housed and len(model.assignments) == model.spec.replicas:
        return None
    version = model.version + 1
    assignments, reason = _plan(state, model, version, revive=due)
    missing = model.spec.replicas - len(assignments)
    cause = model.intent if due else max(state.capacity_seq, model.answered)
    if assignments != model.assignments or (due and not missing):
        return Decision(model.id, ModelAssigned(version, assignments), cause)
    if missing and (due or reason != model.unschedulable):
        return Decision(model.id, ModelUnschedulable(reason, missing), cause)
    return None


def _plan(
    state: State, model: Model, version: int, *, revive: bool
) -> tuple[tuple[Assignment, ...], str]:
    """Keep the replicas that are well where they are; place the rest. Gives why any is missing.

    `revive`: try again those that their nodes gave up, because somebody has asked for the model.
    """
    wanted = model.spec.replicas
    kept = [
        _renewed(state, model, place, version, revive=revive)
        for place in sorted(model.assignments, key=_number)
        if place.node in state.nodes
    ][:wanted]
    used = _used(state, without=model)
    for place in kept:
        for device in place.devices:
            used[place.node, device] = used.get((place.node, device), 0) + place.memory
    fitting = []
    for place in kept:
        if _overfull(state, place, used):
            _release(used, place)
        else:
            fitting.append(place)
    numbers = _free_numbers(model, fitting)
    reason = ""
    while len(fitting) < wanted:
        chosen, reason = _best(state, model, fitting, used)
        if chosen is None:
            break
        node, device, need = chosen
        fitting.append(
            Assignment(replica_id(model.id, next(numbers)), node, (device,), need, version)
        )
        used[node, device] = used.get((node, device), 0) + need
    return tuple(sorted(fitting, key=_number)), reason


def _renewed(
    state: State, model: Model, place: Assignment, version: int, *, revive: bool
) -> Assignment:
    """Keep a place; a changed launch or a replica that is to be revived makes it a new version."""
    replica = state.replicas.get(place.replica)
    revived = revive and replica is not None and replica.given_up
    if launch_of(model) == model.launch and not revived:
        return place
    device = _device(state.nodes[place.node], place.devices[0])
    need = place.memory if device is None else _need(model, device)
    return Assignment(place.replica, place.node, place.devices, need, version)


def _used(state: State, *, without: Model) -> dict[Place, int]:
    """Sum what is promised on each device; a retired replica still holds its memory."""
    used: dict[Place, int] = {}
    for replica in state.replicas.values():
        if replica.model == without.id and not replica.retired:
            continue
        for device in replica.devices:
            used[replica.node, device] = used.get((replica.node, device), 0) + replica.memory
    return used


def _release(used: dict[Place, int], place: Assignment) -> None:
    for device in place.devices:
        used[place.node, device] -= place.memory


def _overfull(state: State, place: Assignment, used: dict[Place, int]) -> bool:
    for index in place.devices:
        device = _device(state.nodes[place.node], index)
        if device is None or used[place.node, index] > usable(device):
            return True
    return False


def usable(device: Device) -> int:
    """Give how many bytes of a device plans may promise in all."""
    return int(device.memory * USABLE)


def _need(model: Model, device: Device) -> int:
    amount = model.spec.memory
    if amount is None:
        return int(device.memory * DEFAULT_SHARE[model.task])
    return memory.parse(amount)


def _best(
    state: State, model: Model, placed: list[Assignment], used: dict[Place, int]
) -> tuple[tuple[str, int, int] | None, str]:
    """Choose the device with the fewest replicas of this model on its node, then the most room."""
    fitting: list[tuple[int, int, str, int, int]] = []
    tight: list[str] = []
    for node, device in _devices(state):
        need = _need(model, device)
        room = usable(device) - used.get((node.id, device.index), 0)
        if room < max(need, 1):
            tight.append(
                f"{node.id}/{device.kind}{device.index} has {memory.text(max(room, 0))} left, "
                f"needs {memory.text(need)}"
            )
            continue
        same = sum(place.node == node.id for place in placed)
        fitting.append((same, -room, node.id, device.index, need))
    if fitting:
        _, _, node_id, index, need = min(fitting)
        return (node_id, index, need), ""
    if not tight:
        return None, "no node takes replicas: start one with `nebula node`"
    return None, "no device has room: " + "; ".join(tight[:8])


def _devices(state: State) -> Iterator[tuple[Node, Device]]:
    for identity in sorted(state.nodes):
        node = state.nodes[identity]
        if node.schedulable:
            for device in node.devices:
                if device is _device(node, device.index):
                    yield node, device


def _device(node: Node, index: int) -> Device | None:
    return next((device for device in node.devices if device.index == index), None)


def _number(place: Assignment) -> int:
    return int(place.replica.rpartition("-")[2])


def _free_numbers(model: Model, placed: list[Assignment]) -> Iterator[int]:
    """Count up, passing over every replica there is.

    One that moves gets a new number too: its engine may still run, or just be starting, elsewhere.
    """
    taken = {place.replica for place in placed} | set(model.replicas)
    number = 0
    while True:
        if replica_id(model.id, number) not in taken:
            yield number
        number += 1


def replicas_on(state: State, node: str) -> list[Replica]:
    """Give the replicas that a node holds or should hold, in the order of their ids."""
    return sorted(
        (replica for replica in state.replicas.values() if replica.node == node),
        key=lambda replica: replica.id,
    )
