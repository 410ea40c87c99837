"""Reverting: the events that return models, adapters, places and aliases to a state. Pure.

Nothing is removed from the log. The planned events are tried on the present state first, so that no
event is written that would be rejected.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from nebula.actors.placement.sizing import device_at, usable
from nebula.events.evolve import evolve
from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    AliasRemoveRequested,
    AliasRequested,
    ModelLoadRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
)
from nebula.events.record import Record, supposed
from nebula.events.state import Model, State, launch_of, replica_id
from nebula.events.validation import rejection_reason
from nebula.events.values import Adapter, Assignment
from nebula.events.vocabulary import Event, ModelAssigned
from nebula.history.difference import asked_otherwise


class Step(Struct, frozen=True):
    """One event to append, to the model or alias that is called `id`."""

    id: str
    event: Event


class Reversion(Struct, frozen=True):
    """The events to append, in this order and together; `cannot`: what can't be reverted, and why.

    `waits` is set if names are still in use by models that must be unloaded first: once they are,
    another reversion restores the rest.
    """

    steps: tuple[Step, ...]
    cannot: tuple[str, ...]
    waits: bool = False


def revert(now: State, then: State) -> Reversion:
    """Return the way from one state back to an earlier one."""
    wanted = {
        identity: model
        for identity in sorted(then.models)
        if not (model := then.models[identity]).unloading
    }
    way = _Way(now, wanted)
    for identity in sorted(now.aliases):
        was = then.aliases.get(identity)
        if was is None or was.name != now.aliases[identity].name:  # names of aliases first
            way.append(identity, AliasRemoveRequested())
    for identity in sorted(now.models):
        if identity not in wanted and not now.models[identity].unloading:
            way.append(identity, ModelUnloadRequested())
    for identity, model in wanted.items():
        for event in _wishes(now.models.get(identity), model):
            way.append(identity, event)
        there = way.state.models.get(identity)
        for name in sorted(set(there.adapters if there is not None else ()) - set(model.adapters)):
            way.append(identity, AdapterUnloadRequested(name))  # a load request leaves them alone
    for identity, model in wanted.items():
        way.place(identity, model)
    for identity in sorted(then.aliases):
        _revert_alias(way, then, identity)
    return Reversion(tuple(way.steps), tuple(way.cannot), way.waits)


def revert_one(
    now: State, then: State, kind: Literal["model", "alias"], identity: str
) -> Reversion:
    """Return the way of one model or alias back; where its replicas are is left to routers."""
    way = _Way(now, {})
    if kind == "model":
        was, known = then.models.get(identity), now.models.get(identity)
        if was is not None and not was.unloading:
            for event in _wishes(known, was):
                way.append(identity, event)
            there = way.state.models.get(identity)
            left = set(there.adapters if there is not None else ()) - set(was.adapters)
            for name in sorted(left):
                way.append(identity, AdapterUnloadRequested(name))
        elif known is not None and not known.unloading:
            way.append(identity, ModelUnloadRequested())
    else:
        _revert_alias(way, then, identity)
    return Reversion(tuple(way.steps), tuple(way.cannot), way.waits)


def _revert_alias(way: "_Way", then: State, identity: str) -> None:
    """Return one alias to what it was: by one request, or removed."""
    was, known = then.aliases.get(identity), way.state.aliases.get(identity)
    if was is None:
        if known is not None:
            way.append(identity, AliasRemoveRequested())
        return
    event = AliasRequested(was.targets, was.name, was.mirror)
    if known is None or AliasRequested(known.targets, known.name, known.mirror) != event:
        way.append(identity, event)


def _wishes(now: Model | None, then: Model) -> Iterator[Event]:
    """Yield the intents that restore the request for a model."""
    if now is None or now.unloading or _character(now) != _character(then):
        yield _load(then)
        return
    if now.spec.replicas != then.spec.replicas:
        yield ModelScaleRequested(then.spec.replicas)
    for name in sorted(set(now.adapters) - set(then.adapters)):
        yield AdapterUnloadRequested(name)
    for name, source in sorted(then.adapters.items()):
        if now.adapters.get(name) != source:
            yield AdapterLoadRequested(name, source)


def _character(model: Model) -> ModelLoadRequested:
    """Return a load request without the fields that have intents of their own."""
    return replace(model.spec, name=model.name, replicas=0, adapters=(), lora=model.lora)


def _load(then: Model) -> ModelLoadRequested:
    adapters = tuple(Adapter(name, source) for name, source in sorted(then.adapters.items()))
    spec = replace(then.spec, adapters=adapters)
    lora = spec.lora if spec.lora is not None else bool(adapters)
    return spec if lora == then.lora else replace(spec, lora=then.lora)


def meaning(now: State, step: Step) -> tuple[str, ...]:
    """Return what a load request changes of an existing model."""
    model = now.models.get(step.id)
    if model is None or not isinstance(step.event, ModelLoadRequested):
        return ()
    after = evolve(now, _record(now, step))
    changes = asked_otherwise(step.id, now, after)
    said = [f"{each.field}: {each.before} -> {each.after}" for each in changes]
    if model.assignments and launch_of(after.models[step.id]) != model.launch:
        said.append("its engines are replaced one after the other")
    return tuple(said)


def _record(now: State, step: Step) -> Record:
    return supposed(now.seq + 1, now.time, step.id, step.event)


class _Way:
    """The steps so far, and the resulting state."""

    def __init__(self, now: State, wanted: Mapping[str, Model]) -> None:
        self.state = now
        self._after = {
            identity: _after(now, now.models.get(identity), then)
            for identity, then in wanted.items()
        }
        self.steps: list[Step] = []
        self.cannot: list[str] = []
        self.waits = False

    def append(self, identity: str, event: Event) -> bool:
        problem = rejection_reason(self.state, identity, event)
        if problem is not None:
            holder = _holder(self.state, identity, event)
            if holder is not None and holder.unloading:
                self.waits = True
                self.cannot.append(f"{identity}: waits until {holder.id} is unloaded: {problem}")
            else:
                self.cannot.append(f"{identity}: {type(event).__name__}: {problem}")
            return False
        step = Step(identity, event)
        self.steps.append(step)
        self.state = evolve(self.state, _record(self.state, step))
        return True

    def place(self, identity: str, then: Model) -> None:
        """Plan the replicas where they were; a router places those that can't be there.

        A router replaces serving engines whose command line changes: the new ones are ready before
        the old ones end.
        """
        model = self.state.models.get(identity)
        if model is None or model.unloading:
            return
        changes = launch_of(model) != model.launch
        if changes and any(each.serving for each in self.state.replicas_of(model)):
            return
        version = model.version + 1
        free = list(model.assignments)
        taken = set(model.replicas)
        places: list[Assignment] = []
        for old in then.assignments[: model.wanted]:
            problem = self._closed(model, old, places)
            if problem:
                self.cannot.append(f"{old.replica}: not back on {old.node}: {problem}")
                continue
            same = next((each for each in free if _alike(each, old)), None)
            if same is not None:
                free.remove(same)
                places.append(self._kept(model, same, version))
            else:
                name = _free_name(model.id, old.replica, taken)
                taken.add(name)
                places.append(replace(old, replica=name, version=version))
        if not places:
            return
        plan = tuple(sorted(places, key=lambda each: int(each.replica.rpartition("-")[2])))
        if plan != model.assignments:
            self.append(identity, ModelAssigned(version, plan))

    def _kept(self, model: Model, place: Assignment, version: int) -> Assignment:
        """Return whether a replica needs a new engine: its launch changed, or it was given up."""
        known = self.state.replicas.get(place.replica)
        fresh = launch_of(model) != model.launch or (known is not None and known.given_up)
        return replace(place, version=version) if fresh else place

    def _closed(self, model: Model, old: Assignment, places: list[Assignment]) -> str:
        """Return why a replica can't return to its place; empty if it can."""
        problem = _shut(self.state, old)
        if problem:
            return problem
        # What counts is where the others will be, since two replicas may swap places.
        others = [
            each
            for identity, after in self._after.items()
            if identity != model.id
            for each in after
        ]
        for index in old.devices:
            device = device_at(self.state.nodes[old.node], index)
            promised = sum(
                each.memory
                for each in (*others, *places, old)
                if each.node == old.node and index in each.devices
            )
            if device is None or promised > usable(device):
                return "there is no room"
        return ""


def _after(now: State, model: Model | None, then: Model) -> list[Assignment]:
    """Return where a model's replicas will be: in their earlier places, else where they are."""
    back = [each for each in then.assignments if not _shut(now, each)]
    if model is None or len(back) == len(then.assignments):
        return back
    stay = [each for each in model.assignments if not any(_alike(each, other) for other in back)]
    return back + stay[: len(then.assignments) - len(back)]


def _shut(now: State, place: Assignment) -> str:
    """Return why nothing can be placed there now; empty if it can."""
    node = now.nodes.get(place.node)
    if node is None:
        return "the node has left"
    if not node.schedulable:
        return f"the node is {node.closed}"
    gone = [index for index in place.devices if device_at(node, index) is None]
    return f"it no longer has device {gone[0]}" if gone else ""


def _alike(one: Assignment, other: Assignment) -> bool:
    return (one.node, one.devices, one.memory) == (other.node, other.devices, other.memory)


def _free_name(model: str, wanted: str, taken: set[str]) -> str:
    """Return the old id if it is free: an engine that is still ending keeps its own."""
    number = 0
    name = wanted
    while name in taken:
        name = replica_id(model, number)
        number += 1
    return name


def _holder(state: State, identity: str, event: Event) -> Model | None:
    """Return the model that has a name which an event about `identity` needs."""
    names = []
    if isinstance(event, ModelLoadRequested):
        names = [event.name or identity, *(adapter.name for adapter in event.adapters)]
    elif isinstance(event, AdapterLoadRequested | AliasRequested):
        names = [event.name]
    for name in names:
        known = state.names.get(name)
        if known is not None and (model := state.models.get(known.model)) is not None:
            return model
    return None
