"""What a router decides: which replica goes where, and which wishes can't be granted. Pure.

`decide` looks only at the folded state, so that a decision that was lost is made again by whoever
folds the same log, and a decision that was appended leaves nothing to decide.
"""

from msgspec import Struct
from msgspec.structs import replace

from nebula.actors.placement.fleet import Fleet
from nebula.actors.placement.planning import Plan, plan
from nebula.events.brief import brief
from nebula.events.index import unmeasured
from nebula.events.objections import objection
from nebula.events.state import Model, Replica, State, launch_of, proven_spec
from nebula.events.values import Policy
from nebula.events.vocabulary import (
    Event,
    EventRejected,
    ModelAssigned,
    ModelRolledBack,
    ModelUnloaded,
    ModelUnschedulable,
)


class Decision(Struct, frozen=True):
    """An event to append to an aggregate, and the sequence of the event that calls for it."""

    id: str
    event: Event
    cause: int


def decide(state: State, policy: Policy | None = None) -> tuple[Decision, ...]:
    """Return what `state` calls for: the first due plan, then answers to rejected entries.

    One plan at a time, because each changes how much room is left for the next. A plan goes first:
    no number of rejected entries may hold it up. `policy` is tried instead of each model's own.
    """
    return Decider(policy).decide(state)


class Decider:
    """Decides as `decide` does, for one state after the other of the same log.

    It remembers what it has worked out of nodes that did not change, and that no model had room
    when none can have got any since. Nothing that it decides depends on what it remembers.
    """

    def __init__(self, policy: Policy | None = None) -> None:
        self._policy = policy
        self._fleet = Fleet()
        self._all_quiet: tuple[object, int] = (None, -1)
        self._quiet: dict[str, tuple[object, ...]] = {}

    def decide(self, state: State) -> tuple[Decision, ...]:
        """Give what `state` calls for."""
        rejected = tuple(
            Decision(str(seq), EventRejected(rejection.subject, rejection.reason), seq)
            for seq, rejection in sorted(state.rejections.items())
        )
        unsettled, capacity = self._all_quiet
        if unsettled is state.unsettled and capacity == state.capacity_seq:
            return rejected
        for identity in sorted(state.unsettled):
            model = state.models[identity]
            now = (model, *state.replicas_of(model))
            if self._known_quiet(state, now):
                continue
            decision = _of_model(state, model, self._policy, self._fleet)
            if decision is not None:
                return (decision, *rejected)
            self._quiet[identity] = (state.capacity_seq, *now)
        self._all_quiet = (state.unsettled, state.capacity_seq)
        self._quiet = {each: self._quiet[each] for each in state.unsettled}
        return rejected

    def _known_quiet(self, state: State, now: tuple[object, ...]) -> bool:
        """Say whether a model called for nothing, and neither it nor the room has grown since."""
        assert isinstance(now[0], Model)
        then = self._quiet.get(now[0].id)
        if then is None or len(then) != len(now) + 1 or then[0] != state.capacity_seq:
            return False
        return all(one is other for one, other in zip(then[1:], now, strict=True))


def _of_model(state: State, model: Model, policy: Policy | None, fleet: Fleet) -> Decision | None:
    if model.unloading:
        if model.replicas:
            return None
        return Decision(model.id, ModelUnloaded(), model.changed)
    due = model.intent > model.answered
    failed = None if due else _failed_change(state, model)
    if failed is not None:
        back = _rolled_back(state, model, f"{failed.id} was given up: {failed.reason}")
        if back is not None:
            return Decision(model.id, back, failed.changed)
    if unmeasured(state, model):
        return None
    planned = plan(state, model, policy, fleet=fleet)
    cause = model.intent if due else _cause(state, model)
    if planned.assignments != model.assignments or (_answers(model) and not planned.missing):
        return Decision(model.id, ModelAssigned(model.version + 1, planned.assignments), cause)
    if planned.missing and (due or _told_otherwise(model, planned)):
        return Decision(model.id, ModelUnschedulable(brief(planned.reason), planned.missing), cause)
    if planned.missing and _stranded(state, model, policy, fleet):
        why = f"it fits nowhere, and what worked before is gone: {planned.reason}"
        back = _rolled_back(state, model, why)
        return None if back is None else Decision(model.id, back, cause)
    return None


def _rolled_back(state: State, model: Model, reason: str) -> ModelRolledBack | None:
    back = ModelRolledBack(brief(reason))
    return back if objection(state, model.id, back) is None else None


def _stranded(state: State, model: Model, policy: Policy | None, fleet: Fleet) -> bool:
    """Say whether a change that fits nowhere stands in the way of what would serve without it."""
    before = _before_change(model)
    if before is None or any(replica.serving for replica in state.replicas_of(model)):
        return False
    return bool(plan(state, before, policy, fleet=fleet).assignments)


def _answers(model: Model) -> bool:
    """Say whether a plan is called for even if it changes nothing."""
    return model.intent > model.answered or bool(model.unschedulable)


def _told_otherwise(model: Model, planned: Plan) -> bool:
    """Say whether something else is missing than was told.

    Of how much room there is where, which changes all the time, only the first word counts.
    """
    same = model.unschedulable.partition(":")[0] == planned.reason.partition(":")[0]
    return model.missing != planned.missing or not same


def _cause(state: State, model: Model) -> int:
    """Give the newest event that can have called for a decision nobody asked for."""
    reports = (replica.changed for replica in state.replicas_of(model))
    return max(state.capacity_seq, model.answered, *reports, 1)


def _before_change(model: Model) -> Model | None:
    """Give the model as it last worked, where its engines were started otherwise then."""
    spec = proven_spec(model)
    if spec is None or spec == model.spec:
        return None
    before = replace(model, spec=spec, name=spec.name or model.id)
    return before if launch_of(before) != launch_of(model) else None


def _failed_change(state: State, model: Model) -> Replica | None:
    """Find a replica that was given up as it is wanted now, where the last that worked differs."""
    if _before_change(model) is None:
        return None
    launch = launch_of(model)
    planned = {place.replica for place in model.assignments}
    for replica in state.replicas_of(model):
        if replica.id in planned and replica.given_up and replica.launch == launch:
            return replica
    return None


def replicas_on(state: State, node: str) -> list[Replica]:
    """Give the replicas that a node holds or should hold, in the order of their ids."""
    held = state.occupancy.get(node)
    return [state.replicas[identity] for identity in sorted(held.replicas)] if held else []
