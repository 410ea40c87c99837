"""The fold of a node's events: what it offers, whether it takes replicas, what lies on its disk."""

from typing import assert_never

from msgspec.structs import replace

from nebula.events.brief import brief
from nebula.events.evolve_model import remove
from nebula.events.intents import (
    NodeDrainRequested,
    NodeUndrainRequested,
    WeightsPinRequested,
    WeightsRemoveRequested,
)
from nebula.events.record import Record
from nebula.events.state import Held, Node, Occupancy, State
from nebula.events.vocabulary import (
    DownloadFailed,
    DownloadFinished,
    DownloadProgressed,
    DownloadStarted,
    NodeDeregistered,
    NodeEvent,
    NodeHeard,
    NodeLost,
    NodeRegistered,
    NodeSuspected,
    WeightsEvent,
    WeightsRemoved,
)

CALM = 600 * 10**9
"""Nanoseconds between two losses, or suspicions in vain, after which they are not in a row."""


def fold_node(state: State, record: Record, event: NodeEvent) -> State:
    """Fold an event of a node."""
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
                engine_version=event.engine_version,
                measures=event.measures,
                weights=_held(node, event),
                registered=record.seq,
                doubts=node.doubts if node is not None else 0,
                doubted=node.doubted if node is not None else 0,
                reads=event.reads,
            )
        case NodeDrainRequested():
            node = replace(node, draining=True) if node is not None else None
        case NodeUndrainRequested():
            node = replace(node, draining=False) if node is not None else None
        case NodeLost():
            node = replace(_doubted(node, record.time), lost=True) if node is not None else None
        case NodeDeregistered():
            return _leave(state, record)
        case NodeSuspected() | NodeHeard():
            return _suspect(state, record, event)
        case _:
            if node is None:
                return state
            node = replace(node, weights=_weights(node.weights, event), changed=record.seq)
            return replace(state, nodes=state.nodes.insert(node.id, node))
    if node is None:
        return state
    node = replace(node, changed=record.seq, since=record.time)
    return replace(state, nodes=state.nodes.insert(node.id, node), capacity_seq=record.seq)


def _suspect(state: State, record: Record, event: NodeSuspected | NodeHeard) -> State:
    """Note that a node is asked whether it lives, or that it does; neither makes any room."""
    node = state.nodes.get(record.id)
    if node is None or node.lost:
        return state
    if isinstance(event, NodeSuspected):
        node = replace(node, suspected=record.seq)
    elif node.suspected:
        node = _doubted(node, record.time)
    return replace(state, nodes=state.nodes.insert(node.id, node))


def _doubted(node: Node, now: int) -> Node:
    """Count a loss, or a suspicion in vain; `now` in nanoseconds, as the log has it."""
    in_a_row = node.doubts if now - node.doubted < CALM else 0
    return replace(node, suspected=0, doubts=in_a_row + 1, doubted=now)


def _leave(state: State, record: Record) -> State:
    """Forget a node, and with it the engines that nobody is there to report on any more."""
    state = replace(state, nodes=state.nodes.discard(record.id), capacity_seq=record.seq)
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
            reason="its node has left",
            attempt=0,
            changed=record.seq,
            since=record.time,
        )
        state = replace(state, replicas=state.replicas.insert(replica.id, gone))
    return state


def _held(node: Node | None, event: NodeRegistered) -> dict[str, Held]:
    """Take a node's own word for what it has whole; wishes and halves of downloads stay."""
    known = node.weights if node is not None else {}
    there = {
        each.source: replace(
            known.get(each.source, Held()),
            done=each.bytes,
            total=each.bytes,
            whole=True,
            reason="",
            retry_in=None,
        )
        for each in event.weights
    }
    rest = {
        source: replace(held, done=0, total=0, whole=False, fetched=False) if held.whole else held
        for source, held in known.items()
        if source not in there and (held.pinned or (held.fetched and not held.whole))
    }
    return {**there, **rest}


def _weights(weights: dict[str, Held], event: WeightsEvent) -> dict[str, Held]:
    held = weights.get(event.source, Held())
    match event:
        case WeightsPinRequested(pinned=pinned):
            held = replace(held, pinned=pinned)
            if held == Held():  # pinned before it was there, and it never came
                return _without(weights, event.source)
        case WeightsRemoveRequested():
            held = replace(held, removing=True)
        case DownloadStarted(done=done, total=total) | DownloadProgressed(done=done, total=total):
            held = Held(done, total, pinned=held.pinned, fetched=True)
        case DownloadFinished(bytes=size):
            held = Held(size, size, whole=True, pinned=held.pinned, fetched=held.fetched)
        case DownloadFailed(reason=reason, retry_in=retry_in):
            held = replace(held, whole=False, reason=brief(reason), retry_in=retry_in)
        case WeightsRemoved():
            if held.pinned:
                return {**weights, event.source: Held(pinned=True)}
            return _without(weights, event.source)
        case _:
            assert_never(event)
    return {**weights, event.source: held}


def _without(weights: dict[str, Held], source: str) -> dict[str, Held]:
    return {each: held for each, held in weights.items() if each != source}
