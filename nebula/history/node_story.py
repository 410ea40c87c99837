"""What a node's story is made of: how it stands, what it runs, what it refused, and why. Pure."""

from collections.abc import Iterator

from nebula.events.advised import command
from nebula.events.record import Record
from nebula.events.state import Node, Replica, State
from nebula.events.vocabulary import (
    AdapterLoadFailed,
    DownloadProgressed,
    EngineFailed,
    EngineReady,
    EngineResumed,
    EngineStalled,
    EngineStopped,
)
from nebula.history.subject import Subject, Verdict, replica_status, verdict

_OF_ENGINES = (
    EngineReady,
    EngineFailed,
    EngineStopped,
    EngineStalled,
    EngineResumed,
    AdapterLoadFailed,
)
"""Events of a node's replicas that belong to its own story."""


def about_node(record: Record, node: str, before: State, after: State) -> bool:
    """Return whether a record belongs to a node's story, given the states around it."""
    if record.aggregate == "node":
        return record.id == node and not isinstance(record.content, DownloadProgressed)
    if record.aggregate != "replica" or not isinstance(record.content, _OF_ENGINES):
        return False
    known = before.replicas.get(record.id) or after.replicas.get(record.id)
    return known is not None and known.node == node


def node_verdict(state: State, identity: str, now: int | None = None) -> Verdict:
    """Return how a node stands, with a line for each replica and for all that it refused."""
    node = state.nodes.get(identity)
    if node is None:
        start = command("node", "--name", identity)
        return Verdict(f"{identity} is not a node any more", f"{start} adds it again.")
    here = [replica for replica in state.replicas.values() if replica.node == identity]
    here.sort(key=lambda replica: replica.id)
    serving = sum(replica.serving for replica in here)
    runs = f"{serving} of its {len(here)} replicas serve" if here else "it has no replicas"
    doubt = f", and is suspected to be lost (event {node.suspected})" if node.suspected else ""
    stands = node.closed or "ready"
    if node.away and here:
        runs = f"{len(here)} replicas were there, and what they do is unknown"
    return Verdict(
        f"{identity} is {stands}{doubt}: {runs}",
        _todo(state, node, here, now),
        tuple(_lines(state, node, here, now)),
    )


def _lines(state: State, node: Node, here: list[Replica], now: int | None) -> Iterator[str]:
    for replica in here:
        yield replica_status(state, replica, now)
    for risk in state.cluster.risks.nodes:
        if risk.node == node.id and not node.away:
            more = ", …" if len(risk.models) < risk.missing else ""
            replicas = "1 replica" if risk.missing == 1 else f"{risk.missing} replicas"
            yield (
                f"its loss would leave {replicas} without a place, of "
                f"{', '.join(risk.models)}{more} (event {state.cluster.risks.changed})"
            )
    for source, held in sorted(node.weights.items()):
        if held.reason:
            named = "" if source in held.reason else f" {source}"
            yield f"refused{named}: {held.reason}"
    for replica in here:
        for name, status in sorted(replica.adapters.items()):
            if status.reason:
                yield f"refused adapter {name} on {replica.id}: {status.reason}"


def _todo(state: State, node: Node, here: list[Replica], now: int | None) -> str:
    if node.away:
        return (
            f"Start {command('node', '--name', node.id)} on its machine again, or let it go for "
            f"good: {command('remove-node', node.id)}."
        )
    if node.draining and not here:
        return (
            "It is empty, so its process can be ended. Let it take replicas again after that: "
            f"{command('drain', node.id, '--undo')}. If it does not come back, remove it: "
            f"{command('remove-node', node.id)}."
        )
    for replica in here:
        if not replica.serving and not replica.retired:
            todo = verdict(state, Subject("model", replica.model), now).todo
            if todo:
                return f"{todo} (That is about {replica.model}.)"
    return ""
