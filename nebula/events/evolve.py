"""The fold: what each event of the log does to the state.

`evolve` is total. It never raises, never blocks and reads no clock: an entry that is not valid
becomes a pending rejection, an entry about something unknown changes nothing, and an entry that was
folded before is ignored.
"""

from collections.abc import Callable
from typing import Any, get_args

from msgspec.structs import replace

from nebula.events.brief import brief
from nebula.events.capture import Capture
from nebula.events.evolve_alias import fold_alias
from nebula.events.evolve_batch import fold_batch
from nebula.events.evolve_cluster import cluster_objection, fold_cluster
from nebula.events.evolve_key import fold_key
from nebula.events.evolve_model import fold_model
from nebula.events.evolve_node import fold_node
from nebula.events.evolve_replica import fold_kill, fold_report
from nebula.events.index import models_on, settle
from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    EngineKillRequested,
)
from nebula.events.record import Malformed, Record
from nebula.events.sources import is_folder
from nebula.events.state import Rejection, State
from nebula.events.usage_limits import limits_of
from nebula.events.validation import rejection_reason
from nebula.events.version import too_new, unnamed
from nebula.events.vocabulary import (
    AliasEvent,
    BatchEvent,
    CaptureEvent,
    CaptureStarted,
    ClusterEvent,
    EventRejected,
    KeyEvent,
    LimitsEvent,
    ModelEvent,
    NodeEvent,
    NodeHeard,
    NodeSuspected,
    ReplicaEvent,
    UsageEvent,
    WeightsEvent,
)


def evolve(state: State, record: Record) -> State:
    """Return the state after one more entry of the log."""
    if record.seq <= state.seq:
        return state
    return FOLDS[type(record.content)](state, record, record.content)


def _of_model(state: State, record: Record, event: ModelEvent) -> State:
    seq = record.seq
    state = replace(state, seq=seq, time=record.time, models_seq=seq)
    reason = rejection_reason(state, record.id, event) or unnamed(state, record)
    if reason is not None:
        return _reject(state, record, reason)
    state = fold_model(state, record, event)
    # Reports on adapters never change which decisions are due.
    return state if isinstance(event, _OF_ADAPTERS) else settle(state, (record.id,))


def _of_replica(state: State, record: Record, event: ReplicaEvent) -> State:
    if (reason := unnamed(state, record)) is not None:
        return _reject(replace(state, seq=record.seq, time=record.time), record, reason)
    return fold_report(state, record, event)


def _of_kill(state: State, record: Record, event: EngineKillRequested) -> State:
    state = replace(state, seq=record.seq, time=record.time)
    reason = rejection_reason(state, record.id, event)
    return fold_kill(state, record) if reason is None else _reject(state, record, reason)


def _of_node(state: State, record: Record, event: NodeEvent) -> State:
    seq = record.seq
    state = replace(state, seq=seq, time=record.time, nodes_seq=seq)
    reason = rejection_reason(state, record.id, event)
    if reason is not None:
        return _reject(state, record, reason)
    if isinstance(event, _WITHOUT_ROOM):
        after = fold_node(state, record, event)
        if not isinstance(event, WeightsEvent) or not is_folder(event.source):
            return after
        # Whether a folder exists decides which models may be placed here.
        after = replace(after, capacity_seq=seq)
        return settle(after, models_on(after, record.id))
    there = models_on(state, record.id)
    return settle(fold_node(state, record, event), there)


def _of_alias(state: State, record: Record, event: AliasEvent) -> State:
    state = replace(state, seq=record.seq, time=record.time)
    reason = rejection_reason(state, record.id, event)
    return fold_alias(state, record, event) if reason is None else _reject(state, record, reason)


def _of_batch(state: State, record: Record, event: BatchEvent) -> State:
    seq = record.seq
    state = replace(state, seq=seq, time=record.time, batches_seq=seq)
    reason = rejection_reason(state, record.id, event)
    return fold_batch(state, record, event) if reason is None else _reject(state, record, reason)


def _of_key(state: State, record: Record, event: KeyEvent) -> State:
    seq = record.seq
    state = replace(state, seq=seq, time=record.time, keys_seq=seq)
    reason = rejection_reason(state, record.id, event)
    return fold_key(state, record, event) if reason is None else _reject(state, record, reason)


def _of_limits(state: State, record: Record, event: LimitsEvent) -> State:
    state = replace(state, seq=record.seq, time=record.time)
    reason = rejection_reason(state, record.id, event)
    if reason is not None:
        return _reject(state, record, reason)
    place = limits_of(event.kind, record.id)
    known = state.limits.discard(place)
    return replace(state, limits=known if event.limits.empty else known.insert(place, event.limits))


def _of_capture(state: State, record: Record, event: CaptureEvent) -> State:
    state = replace(state, seq=record.seq, time=record.time)
    reason = rejection_reason(state, record.id, event)
    if reason is not None:
        return _reject(state, record, reason)
    known = state.captures.discard(record.id)
    for over in [each.id for each in known.values() if each.until_ns <= record.time]:
        known = known.discard(over)
    if isinstance(event, CaptureStarted):
        until = record.time + int(event.seconds * 10**9)
        capture = Capture(record.id, event, record.time, until, record.by)
        known = known.insert(record.id, capture)
    return replace(state, captures=known)


def _of_usage(state: State, record: Record, _: UsageEvent) -> State:
    """Nothing is decided by what was used: readers sum the events themselves."""
    return replace(state, seq=record.seq, time=record.time)


def _of_cluster(state: State, record: Record, event: ClusterEvent) -> State:
    state = replace(state, seq=record.seq, time=record.time)
    reason = cluster_objection(state, record.id, event)
    return fold_cluster(state, record, event) if reason is None else _reject(state, record, reason)


def _answer(state: State, record: Record, _: EventRejected) -> State:
    seq = int(record.id) if record.id.isascii() and record.id.isdigit() else 0
    rejections = state.rejections.discard(seq)
    return replace(state, seq=record.seq, time=record.time, rejections=rejections)


def _malformed(state: State, record: Record, content: Malformed) -> State:
    """Malformed entries on subjects of models, nodes, batches and keys advance their guards."""
    seq, subject = record.seq, record.subject
    state = replace(
        state,
        seq=seq,
        time=record.time,
        models_seq=seq if subject.startswith("nebula.events.model.") else state.models_seq,
        nodes_seq=seq if subject.startswith("nebula.events.node.") else state.nodes_seq,
        batches_seq=seq if subject.startswith("nebula.events.batch.") else state.batches_seq,
        keys_seq=seq if subject.startswith("nebula.events.key.") else state.keys_seq,
    )
    if too_new(state) is not None:
        return state  # a Nebula that knows its version may understand it
    return _reject(state, record, content.reason)


def _reject(state: State, record: Record, reason: str) -> State:
    rejection = Rejection(record.seq, record.subject, brief(reason))
    return replace(state, rejections=state.rejections.insert(record.seq, rejection))


_OF_ADAPTERS = (AdapterLoadRequested, AdapterUnloadRequested)
_WITHOUT_ROOM = WeightsEvent | NodeSuspected | NodeHeard

FOLDS: dict[type, Callable[[State, Record, Any], State]] = {
    **dict.fromkeys(get_args(ModelEvent), _of_model),
    **dict.fromkeys(get_args(ReplicaEvent), _of_replica),
    EngineKillRequested: _of_kill,
    **dict.fromkeys(get_args(NodeEvent), _of_node),
    **dict.fromkeys(get_args(AliasEvent), _of_alias),
    **dict.fromkeys(get_args(BatchEvent), _of_batch),
    **dict.fromkeys(get_args(KeyEvent), _of_key),
    LimitsEvent: _of_limits,
    **dict.fromkeys(get_args(CaptureEvent), _of_capture),
    UsageEvent: _of_usage,
    **dict.fromkeys(get_args(ClusterEvent), _of_cluster),
    EventRejected: _answer,
    Malformed: _malformed,
}
"""The fold of each type of content; trying one after the other would take longer than the fold."""
