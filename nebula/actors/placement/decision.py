"""What a router decides from the state: placements, and rejections of requests. Pure.

`decide` depends only on the folded state. So any router that folds the same log repeats a decision
that was lost, and after a decision was appended nothing is left to decide.
"""

from msgspec import Struct
from msgspec.structs import replace

from nebula.actors.placement.capacity import Capacity
from nebula.actors.placement.planning import Plan, plan
from nebula.events.brief import brief
from nebula.events.sources import unmeasured
from nebula.events.state import Model, Replica, State, launch_of, proven_spec
from nebula.events.validation import rejection_reason
from nebula.events.values import Policy
from nebula.events.version import too_new
from nebula.events.vocabulary import (
    Event,
    EventRejected,
    ModelAssigned,
    ModelRolledBack,
    ModelUnloaded,
    ModelUnschedulable,
)


class Decision(Struct, frozen=True):
    """An event to append to an aggregate, and the sequence of the event that caused it."""

    id: str
    event: Event
    cause: int


def decide(state: State, policy: Policy | None = None) -> tuple[Decision, ...]:
    """Return the decisions due in `state`: the first due plan, then answers to rejected entries.

    There is one plan at a time, because each changes how much room is left for the next. A plan
    comes first, so that rejected entries can't delay it. `policy` replaces each model's own.
    """
    return Decider(policy).decide(state)


class Decider:
    """Decides as `decide` does, for consecutive states of the same log.

    It caches results about unchanged nodes, and which models had no room while none can have become
    free. The cache never changes a decision.
    """

    def __init__(self, policy: Policy | None = None, *, capacity: Capacity | None = None) -> None:
        self._policy = policy
        self._capacity = capacity or Capacity()
        self._all_quiet: tuple[object, int] = (None, -1)
        self._quiet: dict[str, tuple[object, ...]] = {}

    def decide(self, state: State) -> tuple[Decision, ...]:
        """Return the decisions due in `state`; none if this Nebula can't read the whole log."""
        if too_new(state) is not None:
            return ()
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
            decision = _of_model(state, model, self._policy, self._capacity)
            if decision is not None:
                return (decision, *rejected)
            self._quiet[identity] = (state.capacity_seq, *now)
        self._all_quiet = (state.unsettled, state.capacity_seq)
        self._quiet = {each: self._quiet[each] for each in state.unsettled}
        return rejected

    def _known_quiet(self, state: State, now: tuple[object, ...]) -> bool:
        """Return whether nothing was due for a model, and neither it nor the room changed since."""
        assert isinstance(now[0], Model)
        then = self._quiet.get(now[0].id)
        if then is None or len(then) != len(now) + 1 or then[0] != state.capacity_seq:
            return False
        return all(one is other for one, other in zip(then[1:], now, strict=True))


def due(state: State, model: Model) -> Decision | None:
    """Return the due decision on one model, if there is one."""
    if model.id not in state.unsettled:
        return None
    return _of_model(state, model, None, Capacity())


def _of_model(
    state: State, model: Model, policy: Policy | None, capacity: Capacity
) -> Decision | None:
    if model.unloading:
        if model.replicas:
            return None
        return Decision(model.id, ModelUnloaded(), model.changed)
    due = model.requested_seq > model.planned_seq
    failed = None if due else _failed_change(state, model)
    if failed is not None:
        back = _rolled_back(state, model, f"{failed.id} was given up: {failed.reason}")
        if back is not None:
            return Decision(model.id, back, failed.changed)
    if unmeasured(state, model):
        return None
    planned = plan(state, model, policy, capacity=capacity)
    cause = model.requested_seq if due else _cause(state, model)
    if planned.assignments != model.assignments or (_answers(model) and not planned.missing):
        return Decision(model.id, ModelAssigned(model.version + 1, planned.assignments), cause)
    if planned.missing and (due or _told_otherwise(model, planned)):
        return Decision(model.id, ModelUnschedulable(brief(planned.reason), planned.missing), cause)
    if planned.missing and _stranded(state, model, policy, capacity):
        why = f"it fits nowhere, and what worked before is gone: {planned.reason}"
        back = _rolled_back(state, model, why)
        return None if back is None else Decision(model.id, back, cause)
    return None


def _rolled_back(state: State, model: Model, reason: str) -> ModelRolledBack | None:
    back = ModelRolledBack(brief(reason))
    return back if rejection_reason(state, model.id, back) is None else None


def _stranded(state: State, model: Model, policy: Policy | None, capacity: Capacity) -> bool:
    """Return whether a change that fits nowhere prevents serving by the previous spec."""
    before = _before_change(model)
    if before is None or any(replica.serving for replica in state.replicas_of(model)):
        return False
    return bool(plan(state, before, policy, capacity=capacity).assignments)


def _answers(model: Model) -> bool:
    """Return whether a plan is due even if it changes nothing."""
    return model.requested_seq > model.planned_seq or bool(model.unschedulable)


def _told_otherwise(model: Model, planned: Plan) -> bool:
    """Return whether something different is missing than was recorded.

    Only the part before the first colon counts, because the figures of free room change all the
    time.
    """
    same = model.unschedulable.partition(":")[0] == planned.reason.partition(":")[0]
    return model.missing != planned.missing or not same


def _cause(state: State, model: Model) -> int:
    """Return the newest event that can have caused a decision without a request."""
    reports = (replica.changed for replica in state.replicas_of(model))
    return max(state.capacity_seq, model.planned_seq, *reports, 1)


def _before_change(model: Model) -> Model | None:
    """Return the model with its proven spec, if its engines were started differently then."""
    spec = proven_spec(model)
    if spec is None or spec == model.spec:
        return None
    before = replace(model, spec=spec, name=spec.name or model.id)
    return before if launch_of(before) != launch_of(model) else None


def _failed_change(state: State, model: Model) -> Replica | None:
    """Return a replica that was given up with the present spec, if the proven spec differs."""
    if _before_change(model) is None:
        return None
    launch = launch_of(model)
    planned = {place.replica for place in model.assignments}
    for replica in state.replicas_of(model):
        if replica.id in planned and replica.given_up and replica.launch == launch:
            return replica
    return None


def replicas_on(state: State, node: str) -> list[Replica]:
    """Return the replicas that a node has or should have, in the order of their ids."""
    held = state.occupancy.get(node)
    return [state.replicas[identity] for identity in sorted(held.replicas)] if held else []
