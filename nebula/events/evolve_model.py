"""The fold of a model's events: requests, plans, and the replicas that follow from them."""

from __future__ import annotations  # rpds maps take no [] at run time

from typing import TypeVar, assert_never

from msgspec.structs import replace
from rpds import HashTrieMap

from nebula.events import evolve_adapter
from nebula.events.brief import brief
from nebula.events.index import hold, set_apart
from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    ModelLoadRequested,
    ModelRebalanceRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
)
from nebula.events.record import Record
from nebula.events.state import Measured, Model, NameBinding, Replica, State, launch_of, proven_spec
from nebula.events.values import Assignment
from nebula.events.version import ADAPTERS_STAY
from nebula.events.vocabulary import (
    EngineReady,
    ModelAssigned,
    ModelEvent,
    ModelMeasured,
    ModelRolledBack,
    ModelScaled,
    ModelSlept,
    ModelUnloaded,
    ModelUnschedulable,
    ModelWoken,
)

T = TypeVar("T")


def _put(state: State, model: Model) -> State:
    models = state.models.insert(model.id, model)
    return state if models is state.models else replace(state, models=models)


def _rename(state: State, old: Model | None, new: Model | None) -> State:
    """Bring the index of public names in line with a model's new name and adapters."""
    names = state.names
    before, after = _names(old), _names(new)
    for name in before:
        if name not in after:
            names = names.discard(name)
    for name, binding in after.items():
        if before.get(name) != binding:
            names = names.insert(name, binding)
    return replace(state, names=names)


def _names(model: Model | None) -> dict[str, NameBinding]:
    if model is None:
        return {}
    adapters = (*model.leaving, *model.adapters)
    return {
        model.name: NameBinding(model.id),
        **{name: NameBinding(model.id, name) for name in adapters},
    }


def _load(state: State, record: Record, event: ModelLoadRequested) -> State:
    old = state.models.get(record.id)
    adapters = {adapter.name: adapter.source for adapter in event.adapters}
    name = event.name or record.id
    if old is None:
        new = Model(
            id=record.id,
            name=name,
            spec=event,
            adapters=adapters,
            requested_seq=record.seq,
            changed=record.seq,
            created_ns=record.time,
            asleep=event.on_request,
            offers=evolve_adapter.asked({}, adapters, record.seq),
        )
    else:
        offers = evolve_adapter.asked(old.offers, adapters, record.seq)
        leaving: dict[str, str] = {}
        if state.cluster.version >= ADAPTERS_STAY:
            stay = evolve_adapter.staying(old, event)
            leaving = evolve_adapter.leaving(state, old, event)
            offers = evolve_adapter.held(old.offers, stay, leaving) | offers
            if stay and event.lora is None and not adapters:
                event = replace(event, lora=True)  # as where the request itself names adapters
            adapters = {**stay, **adapters}
        same = _is_same_model(old.spec, event)
        new = replace(
            old,
            name=name,
            spec=event,
            adapters=adapters,
            leaving=leaving,
            requested_seq=record.seq,
            unloading=False,
            changed=record.seq,
            asleep=old.asleep and event.on_request,
            scaled=old.scaled if event.autoscale is not None else None,
            measured=old.measured if event.source == old.spec.source else None,
            rolled_back="",
            offers=offers,
            tasks=old.tasks if same else (),
            context=old.context if same else 0,
        )
        state = evolve_adapter.forgive(state, old)
    return set_apart(_rename(_put(state, new), old, new), old, new)


def fold_model(state: State, record: Record, event: ModelEvent) -> State:
    """Fold a valid event of a model."""
    if isinstance(event, ModelLoadRequested):
        return _load(state, record, event)
    model = state.models.get(record.id)
    if model is None:
        return state
    seq = record.seq
    match event:
        case ModelAssigned():
            return _assign(state, model, record, event)
        case ModelScaleRequested(replicas=wanted):
            spec = replace(model.spec, replicas=wanted, autoscale=None)
            model = replace(
                model, spec=spec, asleep=False, scaled=None, requested_seq=seq, changed=seq
            )
            return _put(state, model)
        case ModelRebalanceRequested(replicas=moving):
            moved = tuple(sorted({*model.moving, *moving}))
            return _put(state, replace(model, moving=moved, requested_seq=seq, changed=seq))
        case ModelUnloadRequested():
            model = replace(model, unloading=True, assignments=(), requested_seq=seq, changed=seq)
            return _retire(_put(state, model), model, record)
        case AdapterLoadRequested(name=name, source=source):
            state = evolve_adapter.forgive(state, model, name)
            offers = model.offers | evolve_adapter.asked(model.offers, {name: source}, seq)
            adapters = {**model.adapters, name: source}
            leaving = _without(model.leaving, name)
            new = replace(model, adapters=adapters, leaving=leaving, offers=offers, changed=seq)
            return _name(_put(state, new), state.names.insert(name, NameBinding(model.id, name)))
        case AdapterUnloadRequested(name=name):
            state = evolve_adapter.forgive(state, model, name)
            new = replace(
                model,
                adapters=_without(model.adapters, name),
                leaving=_without(model.leaving, name),
                offers=_without(model.offers, name),
                changed=seq,
            )
            state = _put(state, new)
            return state if name == model.name else _name(state, state.names.discard(name))
        case ModelUnschedulable(reason=reason, missing=missing):
            return _put(
                state,
                replace(
                    model,
                    unschedulable=brief(reason),
                    missing=missing,
                    moving=(),  # they stay where they are: a request to move counts once
                    planned_seq=model.requested_seq,
                    changed=seq,
                ),
            )
        case ModelUnloaded():
            for replica in list(state.replicas_of(model)):
                state = remove(state, replica, seq)
            state = set_apart(_rename(state, model, None), model, None)
            return replace(state, models=state.models.discard(model.id), capacity_seq=seq)
        case ModelMeasured():
            known = model.measured
            if event.source != model.spec.source:
                return state
            if record.node and record.node not in state.nodes:
                return state
            if known is not None and known.source == event.source and known.weights:
                return state  # the first answer with figures counts
            known = Measured(
                event.source, event.weights, event.cache_per_token, event.context, event.reason
            )
            return _put(state, replace(model, measured=known, changed=seq))
        case ModelScaled(replicas=wanted):
            return _put(state, replace(model, scaled=wanted, requested_seq=seq, changed=seq))
        case ModelSlept():
            return _put(
                state, replace(model, asleep=True, scaled=None, requested_seq=seq, changed=seq)
            )
        case ModelWoken():
            return _put(state, replace(model, asleep=False, requested_seq=seq, changed=seq))
        case ModelRolledBack(reason=reason):
            return _roll_back(state, model, record, reason)
        case _:
            assert_never(event)


def _name(state: State, names: HashTrieMap[str, NameBinding]) -> State:
    return state if names is state.names else replace(state, names=names)


def _without(named: dict[str, T], name: str) -> dict[str, T]:
    """Return what is known by other names; the same object if the name is not there."""
    if name not in named:
        return named
    return {key: each for key, each in named.items() if key != name}


def _roll_back(state: State, model: Model, record: Record, reason: str) -> State:
    """Restore the last proven spec, with the present number of replicas and adapters.

    Adapters that the change was to take off stay.
    """
    spec = proven_spec(model)
    if spec is None:
        return state
    new = replace(
        model,
        name=spec.name or model.id,
        spec=spec,
        adapters={**model.leaving, **model.adapters},
        leaving={},
        rolled_back=brief(reason),
        requested_seq=record.seq,
        changed=record.seq,
    )
    return set_apart(_rename(_put(state, new), model, new), model, new)


def _assign(state: State, model: Model, record: Record, event: ModelAssigned) -> State:
    placed: dict[str, Replica] = {}
    occupancy, freed = state.occupancy, False
    launch = launch_of(model)
    for place in event.replicas:
        known = state.replicas.get(place.replica)
        if known is None:
            replica = Replica(
                id=place.replica,
                model=model.id,
                node=place.node,
                devices=place.devices,
                memory=place.memory,
                version=place.version,
                changed=record.seq,
                since=record.time,
                launch=launch,
            )
        elif _stays(known, place):
            placed[known.id] = replace(known, retired=False, changed=record.seq, since=record.time)
            continue
        else:
            fresh = known.engine is None and known.version != place.version
            replica = replace(
                known,
                node=place.node,
                devices=place.devices,
                memory=known.memory if known.given_up and not fresh else place.memory,
                version=place.version,
                retired=False,
                phase="assigned" if fresh else known.phase,
                attempt=0 if fresh else known.attempt,
                changed=record.seq,
                since=record.time,
                launch=known.launch if known.version == place.version else launch,
            )
        placed[replica.id] = replica
        if known is None:
            occupancy = hold(occupancy, replica)
        elif (
            known.node != replica.node
            or known.devices != replica.devices
            or known.memory != replica.memory
        ):
            occupancy, freed = hold(hold(occupancy, known, -1), replica), True
    planned = tuple([place.replica for place in event.replicas])
    retiring = tuple([identity for identity in model.replicas if identity not in planned])
    model = replace(
        model,
        version=event.version,
        launch=launch,
        assignments=event.replicas,
        replicas=planned + retiring,
        planned_seq=model.requested_seq,
        unschedulable="",
        missing=0,
        moving=model.moving and tuple([each for each in model.moving if each in planned]),
        changed=record.seq,
    )
    state = replace(
        state,
        replicas=state.replicas.update(placed),
        models=state.models.insert(model.id, model),
        occupancy=occupancy,
        capacity_seq=record.seq if freed else state.capacity_seq,
    )
    if retiring:
        state = _retire(state, model, record)
        model = state.models.get(model.id, model)
    return evolve_adapter.settled(*proved(state, model))


def _stays(replica: Replica, place: Assignment) -> bool:
    """Return whether a plan leaves a replica as it is."""
    return (
        replica.version == place.version
        and replica.node == place.node
        and replica.devices == place.devices
        and replica.memory == place.memory
    )


def _retire(state: State, model: Model, record: Record) -> State:
    """Retire the replicas that are not in the plan; those without an engine are removed at once."""
    planned = {place.replica for place in model.assignments}
    for replica in list(state.replicas_of(model)):
        if replica.id in planned or replica.retired:
            continue
        if replica.engine is None:
            state = remove(state, replica, record.seq)
        else:
            retired = replace(replica, retired=True, changed=record.seq, since=record.time)
            state = replace(state, replicas=state.replicas.insert(replica.id, retired))
    return state


def remove(state: State, replica: Replica, seq: int) -> State:
    """Forget a replica: its engine is gone and it is no longer wanted."""
    model = state.models.get(replica.model)
    if model is not None:
        rest = tuple(identity for identity in model.replicas if identity != replica.id)
        state = _put(state, replace(model, replicas=rest, changed=seq))
    return replace(
        state,
        replicas=state.replicas.discard(replica.id),
        occupancy=hold(state.occupancy, replica, -1),
        capacity_seq=seq,
    )


def let_go(state: State, replica: Replica) -> tuple[State, Replica]:
    """Free the memory of a replica that was just given up.

    It has no engine, and gets none without a request. It keeps its memory only if its model may
    still be rolled back to what worked, in this place.
    """
    model = state.models.get(replica.model)
    if model is None or (model.proven is not None and model.proven != model.spec):
        return state, replica
    now = replace(replica, memory=0)
    occupancy = hold(hold(state.occupancy, replica, -1), now)
    return replace(state, occupancy=occupancy, capacity_seq=replica.changed), now


def _is_same_model(before: ModelLoadRequested, now: ModelLoadRequested) -> bool:
    """Return whether engines of both can do the same."""
    return (before.source, before.task, before.options) == (now.source, now.task, now.options)


def learned(
    state: State, model: Model, replica: Replica, event: EngineReady
) -> tuple[State, Model]:
    """Note what a model's engines can do, unless the engine was started for an earlier request."""
    if not event.tasks or replica.launch != launch_of(model):
        return state, model
    if (model.tasks, model.context) == (event.tasks, event.max_model_len):
        return state, model
    model = replace(model, tasks=event.tasks, context=event.max_model_len)
    return _put(state, model), model


def proved(state: State, model: Model) -> tuple[State, Model]:
    """Note that a model's spec works, once every replica that it wants serves with it."""
    if len(model.assignments) != model.wanted or not model.assignments:
        return state, model
    if model.proven is model.spec or model.proven == model.spec:
        return state, model
    launch, replicas = launch_of(model), state.replicas
    for place in model.assignments:
        replica = replicas.get(place.replica)
        if replica is not None and not (replica.serving and replica.launch == launch):
            return state, model
    model = replace(model, proven=model.spec)
    return _put(state, model), model
