"""The fold of a node's events: its devices, whether it takes replicas, the files on its disk."""

from typing import assert_never

from msgspec.structs import replace

from nebula.events.brief import brief
from nebula.events.evolve_adapter import settled
from nebula.events.evolve_model import remove
from nebula.events.intents import (
    NodeDrainRequested,
    NodeUndrainRequested,
    WeightsPinRequested,
    WeightsRemoveRequested,
)
from nebula.events.record import Record
from nebula.events.state import CachedSource, Node, Occupancy, State
from nebula.events.vocabulary import (
    DownloadFailed,
    DownloadFinished,
    DownloadProgressed,
    DownloadStarted,
    DownloadWaits,
    NodeDeregistered,
    NodeEvent,
    NodeHeard,
    NodeLost,
    NodeRegistered,
    NodeStopped,
    NodeSuspected,
    WeightsEvent,
    WeightsRemoved,
)

CALM = 600 * 10**9
"""Nanoseconds between two losses, or false suspicions, after which the count starts again."""


def fold_node(state: State, record: Record, event: NodeEvent) -> State:
    """Fold an event of a node."""
    node = state.nodes.get(record.id)
    match event:
        case NodeRegistered():
            node = Node(
                id=record.id,
                devices=event.devices,
                host=event.host,
                labels=event.labels,
                nebula_version=event.nebula_version,
                draining=node.draining if node is not None else False,
                engine_version=event.engine_version,
                measures=event.measures,
                weights=_held(node, event),
                registered=record.seq,
                doubts=node.doubts if node is not None else 0,
                doubted=node.doubted if node is not None else 0,
                reads=event.reads,
                rehearsal=event.rehearsal,
            )
        case NodeDrainRequested():
            node = replace(node, draining=True) if node is not None else None
        case NodeUndrainRequested():
            node = replace(node, draining=False) if node is not None else None
        case NodeLost():
            node = replace(_doubted(node, record.time), lost=True) if node is not None else None
        case NodeStopped():
            return _stop(state, record, event)
        case NodeDeregistered():
            return _leave(state, record)
        case NodeSuspected() | NodeHeard():
            return _suspect(state, record, event)
        case _:
            if node is None:
                return state
            node = replace(
                node, weights=_weights(node.weights, event, record.time), changed=record.seq
            )
            return replace(state, nodes=state.nodes.insert(node.id, node))
    if node is None:
        return state
    node = replace(node, changed=record.seq, since=record.time)
    return replace(state, nodes=state.nodes.insert(node.id, node), capacity_seq=record.seq)


def _suspect(state: State, record: Record, event: NodeSuspected | NodeHeard) -> State:
    """Note that a node is suspected, or that it is alive; neither makes any room."""
    node = state.nodes.get(record.id)
    if node is None or node.away:
        return state
    if isinstance(event, NodeSuspected):
        node = replace(node, suspected=record.seq)
    elif node.suspected:
        node = _doubted(node, record.time)
    return replace(state, nodes=state.nodes.insert(node.id, node))


def _doubted(node: Node, now: int) -> Node:
    """Count a loss, or a false suspicion; `now` is the event's time in nanoseconds."""
    in_a_row = node.doubts if now - node.doubted < CALM else 0
    return replace(node, suspected=0, doubts=in_a_row + 1, doubted=now)


def _stop(state: State, record: Record, event: NodeStopped) -> State:
    """Note that a node has ended with its engines, unless another process of it has come since."""
    node = state.nodes.get(record.id)
    if node is None or (event.registration and event.registration != node.registered):
        return state
    node = replace(node, stopped=True, suspected=0, changed=record.seq, since=record.time)
    state = replace(state, nodes=state.nodes.insert(node.id, node), capacity_seq=record.seq)
    return _ended(state, record, "its node was stopped")


def _leave(state: State, record: Record) -> State:
    """Forget a node, and its engines, on which no process reports any more."""
    state = replace(state, nodes=state.nodes.discard(record.id), capacity_seq=record.seq)
    return _ended(state, record, "its node has left")


def _ended(state: State, record: Record, reason: str) -> State:
    """Note that no engine of a node runs any more, for a reason that is told."""
    held = state.occupancy.get(record.id, Occupancy())
    for identity in sorted(held.replicas):
        replica = state.replicas[identity]
        if replica.retired:
            state = remove(state, replica, record.seq)
            continue
        if replica.given_up:
            continue
        gone = replace(
            replica,
            phase="stopped",
            engine=None,
            adapters={},
            reason=reason,
            attempt=0,
            changed=record.seq,
            since=record.time,
        )
        state = replace(state, replicas=state.replicas.insert(replica.id, gone))
        model = state.models.get(replica.model)
        state = settled(state, model) if model is not None else state
    return state


def _held(node: Node | None, event: NodeRegistered) -> dict[str, CachedSource]:
    """Take over which files a node reports as complete; pins and unfinished downloads stay."""
    known = node.weights if node is not None else {}
    there = {
        each.source: replace(
            known.get(each.source, CachedSource()),
            done=each.bytes,
            total=each.bytes,
            whole=True,
            reason="",
            retry_in=None,
            waits="",
            since=0,
        )
        for each in event.weights
    }
    rest = {
        source: replace(held, done=0, total=0, whole=False, fetched=False)
        if held.whole
        else replace(held, waits="", since=0)
        for source, held in known.items()
        if source not in there and (held.pinned or (held.fetched and not held.whole))
    }
    return {**there, **rest}


def _weights(
    weights: dict[str, CachedSource], event: WeightsEvent, time: int
) -> dict[str, CachedSource]:
    held = weights.get(event.source, CachedSource())
    match event:
        case WeightsPinRequested(pinned=pinned):
            held = replace(held, pinned=pinned)
            if held == CachedSource():  # pinned before the files were there, and they never arrived
                return _without(weights, event.source)
        case WeightsRemoveRequested():
            held = replace(held, removing=True)
        case DownloadWaits(reason=reason):
            held = replace(held, waits=brief(reason), since=time)
        case DownloadStarted(done=done, total=total) | DownloadProgressed(done=done, total=total):
            held = CachedSource(done, total, pinned=held.pinned, fetched=True)
        case DownloadFinished(bytes=size):
            held = CachedSource(size, size, whole=True, pinned=held.pinned, fetched=held.fetched)
        case DownloadFailed(reason=reason, retry_in=retry_in):
            held = replace(
                held, whole=False, reason=brief(reason), retry_in=retry_in, waits="", since=time
            )
        case WeightsRemoved():
            if held.pinned:
                return {**weights, event.source: CachedSource(pinned=True)}
            return _without(weights, event.source)
        case _:
            assert_never(event)
    return {**weights, event.source: held}


def _without(weights: dict[str, CachedSource], source: str) -> dict[str, CachedSource]:
    return {each: held for each, held in weights.items() if each != source}
