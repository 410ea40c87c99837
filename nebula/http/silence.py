"""Whether the actors that a command waits for send heartbeats: the log does not show that."""

from collections.abc import Sequence

from nats.errors import Error as NatsError

from nebula.events import subjects
from nebula.events.advised import command
from nebula.history.outcome import Coming
from nebula.store import streams
from nebula.store.connection import Connection

PATIENCE = 2.0
"""Seconds to wait for the stream of heartbeats."""


async def silent(connection: Connection, awaited: Sequence[Coming]) -> str:
    """Return a sentence if all responsible actors are silent, "" if one is heard or it is unknown.

    NATS keeps heartbeats for a minute: an actor without any has been silent for longer.
    """
    heard = await _heard(connection)
    if heard is None:
        return ""
    nodes = sorted({each.node for each in awaited if each.node})
    if nodes:
        if any(subjects.node_status(node) in heard for node in nodes):
            return ""
        names = ", ".join(nodes)
        who = "node" if len(nodes) == 1 else "nodes"
        return (
            f"nothing has been heard from {who} {names} for a minute: see that "
            f"{command('node', '--name', nodes[0])} runs there"
        )
    if any(each.startswith(subjects.router_status("")) for each in heard):
        return ""
    return "no router has been heard from for a minute: start one with `nebula router`"


async def _heard(connection: Connection) -> frozenset[str] | None:
    """Return the subjects of the stored heartbeats; None if NATS does not answer."""
    if not connection.connected:
        return None
    jetstream = connection.client.jetstream(timeout=PATIENCE)
    try:
        info = await jetstream.stream_info(streams.STATUS, subjects_filter="nebula.status.*.*")
    except (NatsError, TimeoutError):
        return None
    return frozenset(info.state.subjects or {})
