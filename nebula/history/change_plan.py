"""The plan of a change: what would follow from intents, before they are appended. Pure.

The same pure `decide` that a router uses decides on a copy of the folded state. What only live
actors know, such as loads, is not known to it: the plan says where it would matter.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from nebula.actors.removal import occupied
from nebula.actors.router.eviction import ModelUsage, decide_eviction
from nebula.events import drift, memory
from nebula.events.clear_secrets import in_clear
from nebula.events.showing import shown
from nebula.events.sizes import oversized
from nebula.events.sources import is_folder, unmeasured
from nebula.events.state import Model, State, launch_of
from nebula.events.values import Assignment
from nebula.events.vocabulary import Event, ModelRolledBack, ModelSlept, NodeDeregistered
from nebula.history.difference import Change, differences
from nebula.history.supposing import Supposition

Kind: TypeAlias = Literal["place", "end", "restart", "roll back"]

LONG_AGO = 1e6
"""Seconds without a request of a model that is supposed to be unused."""


MOST_CALLING = 100
"""Models without a place for which a plan looks for others that would make room, at most."""


class Effect(Struct, frozen=True, kw_only=True):
    """One thing that would happen to a replica or a model, in the order of the decisions.

    `anyway`: it is due already, without the change. `reason`: why, in words.
    """

    kind: Kind
    model: str
    replica: str = ""
    node: str = ""
    devices: tuple[int, ...] = ()
    memory: int = 0
    reason: str = ""
    anyway: bool = False


class Lack(Struct, frozen=True):
    """A model of which so many replicas would have no place; `anyway`: now as well."""

    model: str
    missing: int
    reason: str
    anyway: bool = False


class Refusal(Struct, frozen=True):
    """An intent that would be rejected, and why."""

    id: str
    type: str
    reason: str


class Displacement(Struct, frozen=True):
    """The models that would be put to sleep once a request for `model` waits."""

    model: str
    asleep: tuple[str, ...]


class ChangePlan(Struct, frozen=True):
    """What would follow from intents, decided on the state after the event `at`.

    `changes`: what is asked for otherwise than now. `effects`: what happens to replicas. `lacks`:
    models without enough room afterwards. `displaced`: models that make room for others when
    requests come. `unknown`: what the log does not tell, in sentences. `possible`: nothing is
    refused, and no model would lack room that has it now.
    """

    at: int
    changes: tuple[Change, ...] = ()
    effects: tuple[Effect, ...] = ()
    lacks: tuple[Lack, ...] = ()
    refused: tuple[Refusal, ...] = ()
    displaced: tuple[Displacement, ...] = ()
    unknown: tuple[str, ...] = ()
    possible: bool = True


def plan_change(state: State, intents: Sequence[tuple[str, Event]]) -> ChangePlan:
    """Return what would follow if these intents were appended now, in this order."""
    without = Supposition(state)
    due = {(each.kind, each.replica): each.node for each in _effects(without) if each.replica}
    supposed = Supposition(state)
    refused: list[Refusal] = []
    asked: list[Effect] = []
    for identity, event in intents:
        if isinstance(event, NodeDeregistered):
            asked += _effects(supposed)  # it is emptied first, which the command waits for
        before = supposed.state
        reason = _objection(before, identity, event) or supposed.append(identity, event)
        if reason:
            refused.append(Refusal(identity, type(event).__name__, reason))
        else:
            asked += _difference(before, supposed.state, identity, event)
    wished = supposed.state
    found = (*asked, *_effects(supposed))
    effects = tuple(_marked(each, due) for each in found)
    after = supposed.state
    lacks = tuple(_lacks(without.state, after))
    concerned = {each.model for each in found} | _differing(state, wished)
    return shown(
        ChangePlan(
            at=state.seq,
            changes=tuple(_changes(state, wished)),
            effects=effects,
            lacks=lacks,
            refused=tuple(refused),
            displaced=tuple(_displaced(after, concerned)),
            unknown=tuple(_unknown(state, after, concerned, effects, intents, supposed)),
            possible=not refused and all(each.anyway for each in lacks),
        )
    )


def _objection(state: State, identity: str, event: Event) -> str:
    """Return what commands and HTTP object to themselves, beside what the fold rejects."""
    occupying = occupied(state, identity) if isinstance(event, NodeDeregistered) else ""
    return oversized(event) or in_clear(event) or occupying


def _marked(effect: Effect, due: Mapping[tuple[Kind, str], str]) -> Effect:
    """Return an effect with what would come of it without the change."""
    elsewhere = due.get((effect.kind, effect.replica))
    if elsewhere is None:
        return effect
    if elsewhere == effect.node:
        return replace(effect, anyway=True)
    return replace(effect, reason=f"without the change it would be on {elsewhere}")


def _effects(supposed: Supposition) -> list[Effect]:
    return [
        effect
        for before, identity, event in supposed.decisions()
        for effect in _difference(before, supposed.state, identity, event)
    ]


def _difference(before: State, after: State, identity: str, event: Event) -> Iterator[Effect]:
    """Yield what an event does to the places of a model's replicas."""
    old, new = before.models.get(identity), after.models.get(identity)
    if isinstance(event, ModelRolledBack):
        yield Effect(kind="roll back", model=identity, reason=event.reason)
    had = {each.replica: each for each in old.assignments} if old is not None else {}
    has = {each.replica: each for each in new.assignments} if new is not None else {}
    for replica, place in has.items():
        known = had.get(replica)
        if known is None:
            yield _effect("place", identity, place, "")
        elif known.version != place.version:
            yield _effect("restart", identity, place, _why_stale(before, old, replica))
    for replica, place in had.items():
        if replica not in has:
            yield _effect("end", identity, place, _why_ended(before, old, new, event, replica))


def _effect(kind: Kind, model: str, place: Assignment, reason: str) -> Effect:
    return Effect(
        kind=kind,
        model=model,
        replica=place.replica,
        node=place.node,
        devices=place.devices,
        memory=place.memory,
        reason=reason,
    )


def _why_stale(state: State, model: Model | None, replica: str) -> str:
    known = state.replicas.get(replica)
    if known is None or model is None:
        return ""
    return drift.stale(state, model, known, launch_of(model))


def _why_ended(
    before: State, old: Model | None, new: Model | None, event: Event, replica: str
) -> str:
    if new is None or new.unloading:
        return "its model is unloaded"
    if isinstance(event, ModelSlept):
        return event.reason
    stale = _why_stale(before, old, replica)
    if stale:
        return stale
    if old is not None and new.wanted < len(old.assignments):
        wanted = f"{new.wanted} replica" if new.wanted == 1 else f"{new.wanted} replicas"
        return f"{wanted} of {new.id} {'is' if new.wanted == 1 else 'are'} wanted"
    return "it has no place where it is"


def _changes(before: State, after: State) -> Iterator[Change]:
    """Yield what is asked for otherwise; what becomes of it is told by the effects."""
    for each in differences(before, after):
        now = after.models.get(each.id) if each.field == "status" else None
        if now is not None and now.unloading:
            yield Change(sign="-", aggregate="model", id=each.id, before="it is unloaded")
        becomes = each.aggregate == "model" and each.field in ("status", "placement")
        if each.aggregate != "replica" and not becomes and each.field != "unschedulable":
            yield each


def _differing(before: State, after: State) -> set[str]:
    """Return the models that are asked for otherwise."""
    return {
        identity
        for identity, model in after.models.items()
        if model is not before.models.get(identity)
    }


def _lacks(without: State, after: State) -> Iterator[Lack]:
    """Yield the models that lack room once nothing is left to decide."""
    for identity in sorted(after.models):
        model = after.models[identity]
        if model.unloading or not model.missing:
            continue
        same = without.models.get(identity)
        anyway = same is not None and same.missing >= model.missing
        yield Lack(identity, model.missing, model.unschedulable, anyway)


def _displaced(after: State, concerned: set[str]) -> Iterator[Displacement]:
    """Yield which models a request for a model without a place would put to sleep."""
    unused = ModelUsage(idle=LONG_AGO, asked=LONG_AGO, serving=LONG_AGO)
    uses = {
        identity: unused
        for identity, model in after.models.items()
        if model.spec.evictable and model.assignments
    }
    if not uses:
        return
    calling = [
        each
        for each in sorted(concerned)
        if (model := after.models.get(each)) and not (model.unloading or model.assignments)
    ]
    for identity in calling[:MOST_CALLING]:
        called = {**uses, identity: ModelUsage(waiting=1, longest=1.0)}
        sleeping = tuple(
            decision.id
            for decision in decide_eviction(after, called)
            if isinstance(decision.event, ModelSlept)
        )
        if sleeping:
            yield Displacement(identity, sleeping)


def _unknown(
    now: State,
    after: State,
    concerned: set[str],
    effects: Sequence[Effect],
    intents: Sequence[tuple[str, Event]],
    supposed: Supposition,
) -> Iterator[str]:
    """Yield what the log does not tell, and the plan therefore can't."""
    if any(not each.anyway for each in effects):
        yield "every engine is taken to start, and to end as soon as its requests have ended"
    for identity in sorted(concerned):
        model = after.models.get(identity)
        if model is None or model.unloading:
            continue
        if unmeasured(after, model):
            yield (
                f"{identity}: how much memory it needs is not known before a node has measured "
                "it, and so neither are its places"
            )
        if model.spec.autoscale is not None:
            yield f"{identity}: its number of replicas follows its load, which only routers know"
        if model.asleep:
            yield f"{identity}: it starts with its first request, and its places are chosen then"
        elif model.spec.idle_after is not None or model.spec.evictable:
            yield f"{identity}: when it goes to sleep depends on its requests, which routers know"
        yield from _to_fetch(now, model, effects)
    for each in {each for each, event in intents if isinstance(event, NodeDeregistered)}:
        yield f"{each}: whether a process runs it is only known when it is asked"
    if not supposed.steady:
        yield "the decisions come to no end: this is the plan of the first ones only"


def _to_fetch(now: State, model: Model, effects: Sequence[Effect]) -> Iterator[str]:
    """Yield the nodes that have not told of a model's files; folders are the nodes' own."""
    if is_folder(model.spec.source):
        return
    placed = {each.node for each in effects if each.model == model.id and each.kind == "place"}
    for each in sorted(placed):
        node = now.nodes.get(each)
        held = node.weights.get(model.spec.source) if node is not None else None
        if held is None or not held.whole:
            yield f"{each} has not told that it has the files of {model.spec.source}: it gets them"


def sentences(plan: ChangePlan) -> Iterator[str]:
    """Yield a plan as lines for people, the parts under headings."""
    yield f"The plan, on event {plan.at} of the log:"
    for change in plan.changes:
        yield f"  {_change(change)}"
    if not (plan.changes or plan.refused):
        yield "  nothing is asked for otherwise than now"
    if plan.effects:
        yield "What follows:"
    for effect in plan.effects:
        yield f"  {_told(effect)}{', which is due already' if effect.anyway else ''}"
    for displaced in plan.displaced:
        yield (
            f"  once a request for {displaced.model} waits, {', '.join(displaced.asleep)} would "
            "be put to sleep, by what is known here"
        )
    if plan.lacks:
        yield "Without a place:"
    for lack in plan.lacks:
        already = ", as now" if lack.anyway else ""
        yield f"  {lack.model} lacks {lack.missing}{already}: {lack.reason}"
    if plan.refused:
        yield "Refused:"
    for refusal in plan.refused:
        yield f"  {refusal.id}: {refusal.type}: {refusal.reason}"
    if plan.unknown:
        yield "Not in the log:"
    for text in plan.unknown:
        yield f"  {text}"


def _change(change: Change) -> str:
    what = f"{change.aggregate} {change.id}"
    if not change.field:
        whole = change.after or change.before
        if change.aggregate == "model" and whole.startswith("status "):
            whole = whole.partition(", ")[2]  # it is not asked for
        return f"{change.sign} {what}: {whole}"
    return f"{change.sign} {what}: {change.field}: {change.before} -> {change.after}"


def _told(effect: Effect) -> str:
    where = "+".join(map(str, effect.devices))
    place = f"{effect.node}, device {where}"
    because = f": {effect.reason}" if effect.reason else ""
    match effect.kind:
        case "place":
            return f"{effect.replica} is placed on {place}, {memory.text(effect.memory)}{because}"
        case "end":
            return f"{effect.replica} on {effect.node} ends{because}"
        case "restart":
            return f"{effect.replica} on {place} is restarted there{because}"
        case _:
            return f"{effect.model} is rolled back{because}"
