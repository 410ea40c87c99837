"""What a router decides: which replica goes where, and which wishes can't be granted. Pure.

`decide` looks only at the folded state, so that a decision that was lost is made again by whoever
folds the same log, and a decision that was appended leaves nothing to decide.
"""

from collections.abc import Iterator

from msgspec import Struct

from nebula.actors.candidates import (
    Candidate,
    Place,
    device_at,
    need,
    shortage,
    usable,
    weigh,
)
from nebula.events.state import Model, Replica, State, launch_of, replica_id
from nebula.events.vocabulary import (
    Assignment,
    Event,
    EventRejected,
    ModelAssigned,
    ModelUnloaded,
    ModelUnschedulable,
    Policy,
)


class Decision(Struct, frozen=True):
    """An event to append to an aggregate, and the sequence of the event that calls for it."""

    id: str
    event: Event
    cause: int


class Choice(Struct, frozen=True):
    """Where one new replica goes: every candidate, the best first. It goes nowhere if none fits."""

    replica: str
    candidates: tuple[Candidate, ...]


class Plan(Struct, frozen=True):
    """What a model's replicas should be. `evicted` had a place that they can't keep."""

    assignments: tuple[Assignment, ...]
    reason: str
    kept: tuple[str, ...] = ()
    evicted: tuple[str, ...] = ()
    choices: tuple[Choice, ...] = ()


def decide(state: State, policy: Policy | None = None) -> tuple[Decision, ...]:
    """Give what `state` calls for: answers to rejected entries, then the first due plan.

    One plan at a time, because each changes how much room is left for the next. `policy` is tried
    instead of each model's own.
    """
    rejected = tuple(
        Decision(str(seq), EventRejected(rejection.subject, rejection.reason), seq)
        for seq, rejection in sorted(state.rejections.items())
    )
    for identity in sorted(state.models):
        planned = _decide_model(state, state.models[identity], policy)
        if planned is not None:
            return (*rejected, planned)
    return rejected


def _decide_model(state: State, model: Model, policy: Policy | None) -> Decision | None:
    if model.unloading:
        if model.replicas:
            return None
        return Decision(model.id, ModelUnloaded(), model.changed)
    due = model.intent > model.answered
    housed = all(_stands(state, place) for place in model.assignments)
    if not due and housed and len(model.assignments) == model.wanted:
        return None
    planned = plan(state, model, policy)
    missing = model.wanted - len(planned.assignments)
    cause = model.intent if due else max(state.capacity_seq, model.answered)
    if planned.assignments != model.assignments or (due and not missing):
        return Decision(model.id, ModelAssigned(model.version + 1, planned.assignments), cause)
    if missing and (due or planned.reason != model.unschedulable):
        return Decision(model.id, ModelUnschedulable(planned.reason, missing), cause)
    return None


def plan(state: State, model: Model, policy: Policy | None = None) -> Plan:
    """Keep the replicas that are well where they are; place the rest.

    Replicas that their nodes gave up are tried again when somebody has asked for the model.
    """
    due = model.intent > model.answered
    wanted, version = model.wanted, model.version + 1
    kept = [
        _renewed(state, model, place, version, revive=due)
        for place in sorted(model.assignments, key=_number)
        if _stands(state, place)
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
    stay = {place.replica for place in fitting}
    numbers = _free_numbers(model, fitting)
    choices: list[Choice] = []
    reason = ""
    while len(fitting) < wanted:
        candidates = weigh(state, model, fitting, used, policy or model.spec.policy)
        replica = replica_id(model.id, next(numbers))
        choices.append(Choice(replica, tuple(candidates)))
        if not candidates or candidates[0].unfit:
            reason = shortage(candidates)
            break
        best = candidates[0]
        fitting.append(Assignment(replica, best.node, (best.device,), best.need, version))
        used[best.node, best.device] = used.get((best.node, best.device), 0) + best.need
    return Plan(
        tuple(sorted(fitting, key=_number)),
        reason,
        tuple(sorted(stay)),
        tuple(place.replica for place in model.assignments if place.replica not in stay),
        tuple(choices),
    )


def _stands(state: State, place: Assignment) -> bool:
    """Say whether a place can be kept: its node has not left and is not lost."""
    node = state.nodes.get(place.node)
    return node is not None and not node.lost


def _renewed(
    state: State, model: Model, place: Assignment, version: int, *, revive: bool
) -> Assignment:
    """Keep a place; a changed launch or a replica that is to be revived makes it a new version."""
    replica = state.replicas.get(place.replica)
    revived = revive and replica is not None and replica.given_up
    if launch_of(model) == model.launch and not revived:
        return place
    device = device_at(state.nodes[place.node], place.devices[0])
    share = place.memory if device is None else need(model, device)
    return Assignment(place.replica, place.node, place.devices, share, version)


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
        device = device_at(state.nodes[place.node], index)
        if device is None or used[place.node, index] > usable(device):
            return True
    return False


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
