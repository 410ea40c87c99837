"""The fold: what each event of the log does to the state.

`evolve` is total. It never raises, never blocks, reads no clock: an entry that makes no sense
becomes a pending rejection, an entry about something unknown changes nothing, and an entry that
was folded before is passed over.
"""

from collections.abc import Iterable
from typing import assert_never

from msgspec.structs import replace

from nebula.events.objections import objection
from nebula.events.record import Malformed, Record
from nebula.events.state import (
    AdapterStatus,
    Engine,
    Model,
    Named,
    Node,
    Rejection,
    Replica,
    State,
    launch_of,
)
from nebula.events.vocabulary import (
    AdapterLoaded,
    AdapterLoadFailed,
    AdapterLoadRequested,
    AdapterUnloaded,
    AdapterUnloadRequested,
    EngineFailed,
    EngineReady,
    EngineStarted,
    EngineStopped,
    EventRejected,
    ModelAssigned,
    ModelLoadRequested,
    ModelScaleRequested,
    ModelUnloaded,
    ModelUnloadRequested,
    ModelUnschedulable,
    NodeDeregistered,
    NodeDrainRequested,
    NodeLost,
    NodeRegistered,
    ReplicaEvent,
)

_REPORTS = (
    AdapterLoaded,
    AdapterUnloaded,
    AdapterLoadFailed,
    EngineStarted,
    EngineReady,
    EngineFailed,
    EngineStopped,
)


def fold(state: State, records: Iterable[Record]) -> State:
    """Fold many entries, in order."""
    for record in records:
        state = evolve(state, record)
    return state


def evolve(state: State, record: Record) -> State:
    """Give the state after one more entry of the log."""
    if record.seq <= state.seq:
        return state
    content = record.content
    if isinstance(content, _REPORTS):
        return _report(state, record, content)
    is_model = record.subject.startswith("nebula.events.model.")
    state = replace(
        state,
        seq=record.seq,
        time=record.time,
        models_seq=record.seq if is_model else state.models_seq,
    )
    if isinstance(content, Malformed):
        return _reject(state, record, content.reason)
    reason = objection(state, record.id, content)
    if reason is not None:
        return _reject(state, record, reason)
    match content:
        case ModelLoadRequested():
            return _load(state, record, content)
        case (
            ModelScaleRequested()
            | ModelUnloadRequested()
            | AdapterLoadRequested()
            | AdapterUnloadRequested()
            | ModelAssigned()
            | ModelUnschedulable()
            | ModelUnloaded()
        ):
            return _model(state, record, content)
        case NodeRegistered() | NodeDrainRequested() | NodeLost() | NodeDeregistered():
            return _node(state, record, content)
        case EventRejected():
            seq = int(record.id) if record.id.isascii() and record.id.isdigit() else 0
            return replace(state, rejections=state.rejections.discard(seq))
        case _:
            assert_never(content)


def _reject(state: State, record: Record, reason: str) -> State:
    rejection = Rejection(record.seq, record.subject, reason)
    return replace(state, rejections=state.rejections.insert(record.seq, rejection))


def _put(state: State, model: Model) -> State:
    return replace(state, models=state.models.insert(model.id, model))


def _rename(state: State, old: Model | None, new: Model | None) -> State:
    """Bring the index of public names in line with a model's new name and adapters."""
    names = state.names
    before, after = _names(old), _names(new)
    for name in before:
        if name not in after:
            names = names.discard(name)
    for name, named in after.items():
        if before.get(name) != named:
            names = names.insert(name, named)
    return replace(state, names=names)


def _names(model: Model | None) -> dict[str, Named]:
    if model is None:
        return {}
    return {model.name: Named(model.id), **{name: Named(model.id, name) for name in model.adapters}}


def _load(state: State, record: Record, event: ModelLoadRequested) -> State:
    old = state.models.get(record.id)
    adapters = {adapter.name: adapter.source for adapter in event.adapters}
    name = event.name or record.id
    if old is None:
        new = Model(
            record.id,
            name,
            event,
            adapters,
            intent=record.seq,
            changed=record.seq,
            created=record.time,
        )
    else:
        new = replace(
            old,
            name=name,
            spec=event,
            adapters=adapters,
            intent=record.seq,
            unloading=False,
            changed=record.seq,
        )
        state = _forgive(state, old, adapters)
    return _rename(_put(state, new), old, new)


def _forgive(state: State, model: Model, names: Iterable[str]) -> State:
    """Forget that adapters failed, so that a repeated request tries them again."""
    replicas = state.replicas
    for replica in state.replicas_of(model):
        failed = [name for name, status in replica.adapters.items() if not status.loaded]
        if failed and not set(failed).isdisjoint(names):
            kept = {
                name: status
                for name, status in replica.adapters.items()
                if status.loaded or name not in names
            }
            replicas = replicas.insert(replica.id, replace(replica, adapters=kept))
    return replace(state, replicas=replicas)


def _model(
    state: State,
    record: Record,
    event: ModelScaleRequested
    | ModelUnloadRequested
    | AdapterLoadRequested
    | AdapterUnloadRequested
    | ModelAssigned
    | ModelUnschedulable
    | ModelUnloaded,
) -> State:
    model = state.models.get(record.id)
    if model is None:
        return state
    seq = record.seq
    match event:
        case ModelScaleRequested(replicas=wanted):
            spec = replace(model.spec, replicas=wanted)
            return _put(state, replace(model, spec=spec, intent=seq, changed=seq))
        case ModelUnloadRequested():
            model = replace(model, unloading=True, assignments=(), intent=seq, changed=seq)
            return _retire(_put(state, model), model, record)
        case AdapterLoadRequested(name=name, source=source):
            state = _forgive(state, model, (name,))
            new = replace(model, adapters={**model.adapters, name: source}, changed=seq)
            return _rename(_put(state, new), model, new)
        case AdapterUnloadRequested(name=name):
            rest = {key: value for key, value in model.adapters.items() if key != name}
            new = replace(model, adapters=rest, changed=seq)
            return _rename(_put(state, new), model, new)
        case ModelAssigned():
            return _assign(state, model, record, event)
        case ModelUnschedulable(reason=reason, missing=missing):
            return _put(
                state,
                replace(
                    model,
                    unschedulable=reason,
                    missing=missing,
                    answered=model.intent,
                    changed=seq,
                ),
            )
        case ModelUnloaded():
            replicas = state.replicas
            for identity in model.replicas:
                replicas = replicas.discard(identity)
            state = _rename(state, model, None)
            return replace(
                state,
                models=state.models.discard(model.id),
                replicas=replicas,
                capacity_seq=seq,
            )
        case _:
            assert_never(event)


def _assign(state: State, model: Model, record: Record, event: ModelAssigned) -> State:
    placed: dict[str, Replica] = {}
    for place in event.replicas:
        known = state.replicas.get(place.replica)
        if known is None:
            replica = Replica(
                place.replica,
                model.id,
                place.node,
                place.devices,
                place.memory,
                place.version,
                changed=record.seq,
                since=record.time,
            )
        else:
            fresh = known.engine is None and known.version != place.version
            replica = replace(
                known,
                node=place.node,
                devices=place.devices,
                memory=place.memory,
                version=place.version,
                retired=False,
                phase="assigned" if fresh else known.phase,
                attempt=0 if fresh else known.attempt,
                changed=record.seq,
                since=record.time,
            )
        placed[replica.id] = replica
    planned = tuple([place.replica for place in event.replicas])
    retiring = tuple([identity for identity in model.replicas if identity not in planned])
    model = replace(
        model,
        version=event.version,
        launch=launch_of(model),
        assignments=event.replicas,
        replicas=planned + retiring,
        answered=model.intent,
        unschedulable="",
        missing=0,
        changed=record.seq,
    )
    state = replace(
        state,
        replicas=state.replicas.update(placed),
        models=state.models.insert(model.id, model),
    )
    return _retire(state, model, record) if retiring else state


def _retire(state: State, model: Model, record: Record) -> State:
    """Mark the replicas that no plan holds; those without an engine are gone at once."""
    planned = {place.replica for place in model.assignments}
    for replica in list(state.replicas_of(model)):
        if replica.id in planned or replica.retired:
            continue
        if replica.engine is None:
            state = _remove(state, replica, record.seq)
        else:
            retired = replace(replica, retired=True, changed=record.seq, since=record.time)
            state = replace(state, replicas=state.replicas.insert(replica.id, retired))
    return state


def _remove(state: State, replica: Replica, seq: int) -> State:
    model = state.models.get(replica.model)
    if model is not None:
        rest = tuple(identity for identity in model.replicas if identity != replica.id)
        state = _put(state, replace(model, replicas=rest, changed=seq))
    return replace(state, replicas=state.replicas.discard(replica.id), capacity_seq=seq)


def _report(state: State, record: Record, event: ReplicaEvent) -> State:
    """Most of a log are reports, and nothing can be said against one: they are folded first."""
    seq, time = record.seq, record.time
    known = state.replicas.get(record.id)
    replica = _replica(known, record, event) if known is not None else None
    if replica is None:
        return replace(state, seq=seq, time=time)
    if replica.retired and replica.engine is None:
        return _remove(replace(state, seq=seq, time=time), replica, seq)
    replicas = state.replicas.insert(replica.id, replica)
    return replace(state, seq=seq, time=time, replicas=replicas)


def _replica(replica: Replica, record: Record, event: ReplicaEvent) -> Replica | None:
    """Give a replica after a report on it; None where the report makes no sense."""
    seq, time = record.seq, record.time
    match event:
        case AdapterLoaded(name=name, source=source):
            adapters = {**replica.adapters, name: AdapterStatus(source, loaded=True)}
            return replace(replica, adapters=adapters, changed=seq, since=time)
        case AdapterLoadFailed(name=name, source=source, reason=reason):
            status = AdapterStatus(source, loaded=False, reason=reason)
            adapters = {**replica.adapters, name: status}
            return replace(replica, adapters=adapters, changed=seq, since=time)
        case AdapterUnloaded(name=name):
            rest = {key: value for key, value in replica.adapters.items() if key != name}
            return replace(replica, adapters=rest, changed=seq, since=time)
        case EngineStarted():
            engine = Engine(
                event.pid, event.created, event.port, event.log_file, event.plan, started=time
            )
            return replace(
                replica,
                phase="starting",
                engine=engine,
                attempt=event.attempt,
                retry_in=None,
                adapters={},
                changed=seq,
                since=time,
            )
        case EngineReady(engine_version=version):
            if replica.engine is None:
                return None
            return replace(
                replica,
                phase="ready",
                engine=replace(replica.engine, engine_version=version),
                reason="",
                exit_code=None,
                log_tail=(),
                changed=seq,
                since=time,
            )
        case EngineFailed():
            return replace(
                replica,
                phase="failed",
                engine=None,
                adapters={},
                attempt=event.attempt,
                reason=event.reason,
                exit_code=event.exit_code,
                log_tail=event.log_tail,
                retry_in=event.retry_in,
                changed=seq,
                since=time,
            )
        case EngineStopped(reason=reason):
            return replace(
                replica,
                phase="stopped",
                engine=None,
                adapters={},
                reason=reason,
                attempt=0,
                changed=seq,
                since=time,
            )
        case _:
            assert_never(event)


def _node(
    state: State,
    record: Record,
    event: NodeRegistered | NodeDrainRequested | NodeLost | NodeDeregistered,
) -> State:
    node = state.nodes.get(record.id)
    match event:
        case NodeRegistered():
            node = Node(
                record.id,
                event.devices,
                event.host,
                event.labels,
                event.nebula_version,
                draining=node.draining if node is not None else False,
            )
        case NodeDrainRequested():
            node = replace(node, draining=True) if node is not None else None
        case NodeLost():
            node = replace(node, lost=True) if node is not None else None
        case NodeDeregistered():
            return _leave(state, record)
        case _:
            assert_never(event)
    if node is None:
        return state
    node = replace(node, changed=record.seq, since=record.time)
    return replace(state, nodes=state.nodes.insert(node.id, node), capacity_seq=record.seq)


def _leave(state: State, record: Record) -> State:
    """Forget a node, and with it the engines that nobody is there to report on any more."""
    state = replace(state, nodes=state.nodes.discard(record.id), capacity_seq=record.seq)
    for replica in list(state.replicas.values()):
        if replica.node != record.id:
            continue
        if replica.retired:
            state = _remove(state, replica, record.seq)
            continue
        gone = replace(
            replica,
            phase="stopped",
            engine=None,
            adapters={},
            reason="its node has left",
            attempt=0,
            changed=record.seq,
            since=record.time,
        )
        state = replace(state, replicas=state.replicas.insert(replica.id, gone))
    return state
