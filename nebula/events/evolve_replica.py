"""The fold of reports on engines: they are most of a log, so it must be fast."""

from typing import TypeAlias, assert_never

from msgspec.structs import replace

from nebula.events import evolve_adapter
from nebula.events.brief import brief
from nebula.events.evolve_model import learned, let_go, proved, remove
from nebula.events.index import resettle, settle
from nebula.events.record import Record
from nebula.events.state import Engine, Replica, State
from nebula.events.vocabulary import (
    AdapterLoaded,
    AdapterLoadFailed,
    AdapterUnloaded,
    EngineFailed,
    EngineReady,
    EngineResumed,
    EngineStalled,
    EngineStarted,
    EngineStopped,
    ReplicaEvent,
)

_EngineReport: TypeAlias = (
    EngineStarted | EngineReady | EngineFailed | EngineStopped | EngineStalled | EngineResumed
)
_OF_ADAPTERS = (AdapterLoaded, AdapterUnloaded, AdapterLoadFailed)


def fold_report(state: State, record: Record, event: ReplicaEvent) -> State:
    """Fold a report of a node, which is always valid.

    A replica that was given up stays so until a plan includes it again, since others may use its
    memory.
    """
    seq, time = record.seq, record.time
    known = state.replicas.get(record.id)
    if known is None or (event.node and event.node != known.node) or known.given_up:
        return replace(state, seq=seq, time=time)
    if isinstance(event, _OF_ADAPTERS):
        return evolve_adapter.fold_adapter(state, known, record, event)
    replica = _replica(state, known, record, event)
    if replica is None:
        return replace(state, seq=seq, time=time)
    if replica.given_up:
        state, replica = let_go(state, replica)
    if replica.retired and replica.engine is None:
        return settle(remove(replace(state, seq=seq, time=time), replica, seq), (replica.model,))
    replicas = state.replicas.insert(replica.id, replica)
    state = replace(state, seq=seq, time=time, replicas=replicas)
    model = state.models.get(replica.model)
    if model is not None:
        if isinstance(event, EngineReady):
            state, model = learned(state, model, replica, event)
            state, model = proved(state, model)
        state = evolve_adapter.settled(state, model)
    # A report alone makes no decision due that was not due before.
    return resettle(state, replica.model)


def fold_kill(state: State, record: Record) -> State:
    """Note that a replica's engine is to be killed: the next engine does not have that note.

    So a node that reads the log again kills only the engine that was meant, if it still runs.
    """
    replica = state.replicas[record.id]
    if replica.engine is None:
        return state
    engine = replace(replica.engine, killed=record.seq)
    replica = replace(replica, engine=engine, changed=record.seq)
    return replace(state, replicas=state.replicas.insert(replica.id, replica))


def _replica(
    state: State, replica: Replica, record: Record, event: _EngineReport
) -> Replica | None:
    """Return a replica after a report on its engine; None if the report does not fit."""
    seq, time = record.seq, record.time
    match event:
        case EngineStarted():
            node = state.nodes.get(replica.node)
            engine = Engine(
                pid=event.pid,
                created=event.created,
                port=event.port,
                log_file=event.log_file,
                version=event.plan,
                started=time,
                installed=node.engine_version if node is not None else "",
                birth=event.birth,
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
                served=True,
            )
        case EngineStalled(seconds=seconds, ends_in=ends_in):
            if replica.engine is None or replica.phase != "ready":
                return None
            engine = replace(
                replica.engine,
                stalled=max(1, time - int(seconds * 1e9)),
                stuck=event.requests,
                ends=0 if ends_in is None else time + int(ends_in * 1e9),
            )
            return replace(replica, engine=engine, changed=seq, since=time)
        case EngineResumed():
            if replica.engine is None or not replica.engine.stalled:
                return None
            engine = replace(replica.engine, stalled=0, stuck=0, ends=0)
            return replace(replica, engine=engine, changed=seq, since=time)
        case EngineFailed():
            return replace(
                replica,
                phase="failed",
                engine=None,
                adapters={},
                attempt=event.attempt,
                reason=brief(event.reason),
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
                reason=brief(reason),
                attempt=0,
                changed=seq,
                since=time,
            )
        case _:
            assert_never(event)
