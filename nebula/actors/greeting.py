"""The log line of an actor that has joined the cluster, so that its log shows which one. Pure."""

from collections.abc import Iterable, Mapping

from nebula.events import memory
from nebula.events.state import Node, State


def greeting(actor: str, state: State, address: str) -> str:
    """Return the line of an actor that has folded the log; `address`: NATS's, without secrets."""
    known = state.cluster
    name = f"{known.name!r} ({known.id})" if known.name else repr(known.id)
    nodes = sum(not node.away for node in state.nodes.values())
    return (
        f"{actor} is in cluster {name}, version {known.version}, at {address}, "
        f"with {_count(nodes, 'node')} and {_count(len(state.models), 'model')}"
    )


def offer(node: Node, replicas: int) -> str:
    """Return what a node offers: its devices, and how many replicas are assigned to it."""
    devices = ", ".join(
        f"{device.kind}{device.index} ({device.name}, {memory.text(device.memory)})"
        for device in node.devices
    )
    return f"it offers {devices or 'no device'}; {_count(replicas, 'replica')} assigned to it"


def shared(node: str, same: Mapping[tuple[str, int], Iterable[tuple[str, int]]]) -> str:
    """Return which nodes offer the same devices (`twins`); empty if none does."""
    mine = [there for place, there in same.items() if place[0] == node]
    names = ", ".join(sorted({other for there in mine for other, _ in there}))
    if not names:
        return ""
    return f"what it offers is on the same machine as node {names}: plans count each device once"


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
