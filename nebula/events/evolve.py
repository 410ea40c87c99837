"""The fold: what each event of the log does to the state.

`evolve` is total. It never raises, never blocks, reads no clock: an entry that makes no sense
becomes a pending rejection, an entry about something unknown changes nothing, and an entry that
was folded before is passed over.
"""

from collections.abc import Iterable
from typing import assert_never

from msgspec.structs import replace

from nebula.events.evolve_alias import fold_alias
from nebula.events.evolve_model import fold_model
from nebula.events.evolve_node import fold_node
from nebula.events.evolve_replica import fold_report
from nebula.events.index import models_on, settle
from nebula.events.objections import objection
from nebula.events.record import Malformed, Record
from nebula.events.state import Rejection, State
from nebula.events.vocabulary import (
    AliasEvent,
    EventRejected,
    ModelEvent,
    NodeEvent,
    ReplicaEvent,
    WeightsEvent,
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
    if isinstance(content, ReplicaEvent):
        return fold_report(state, record, content)
    is_model = record.subject.startswith("nebula.events.model.")
    is_node = record.subject.startswith("nebula.events.node.")
    state = replace(
        state,
        seq=record.seq,
        time=record.time,
        models_seq=record.seq if is_model else state.models_seq,
        nodes_seq=record.seq if is_node else state.nodes_seq,
    )
    if isinstance(content, Malformed):
        return _reject(state, record, content.reason)
    reason = objection(state, record.id, content)
    if reason is not None:
        return _reject(state, record, reason)
    if isinstance(content, ModelEvent):
        return settle(fold_model(state, record, content), (record.id,))
    if isinstance(content, EventRejected):
        seq = int(record.id) if record.id.isascii() and record.id.isdigit() else 0
        return replace(state, rejections=state.rejections.discard(seq))
    if isinstance(content, AliasEvent):
        return fold_alias(state, record, content)
    if isinstance(content, NodeEvent):
        if isinstance(content, WeightsEvent):
            return fold_node(state, record, content)
        there = models_on(state, record.id)
        return settle(fold_node(state, record, content), there)
    assert_never(content)


def _reject(state: State, record: Record, reason: str) -> State:
    rejection = Rejection(record.seq, record.subject, reason)
    return replace(state, rejections=state.rejections.insert(record.seq, rejection))
