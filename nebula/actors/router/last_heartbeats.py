"""Looks up the last stored heartbeats of nodes, which reach a router by another way.

A live heartbeat crosses one hop between NATS servers. Both sides may reach the stream that stores
it although they do not reach each other. A changed sequence shows that a heartbeat was sent
meanwhile; its time is the server's and is ignored.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from nats.errors import Error as NatsError

from nebula.events import subjects
from nebula.store import streams
from nebula.store.connection import Connection

EVERY = 2.0
"""Seconds between two look-ups: the interval of a node's heartbeats."""

AT_ONCE = 32
"""Nodes in one look-up; if there are more, they take turns."""

PATIENCE = 1.5
"""Seconds to wait for the stream."""


class Found(NamedTuple):
    """The nodes of a look-up, and the sequences of those that have a heartbeat."""

    asked: tuple[str, ...]
    seqs: dict[str, int]


async def last_heartbeats(connection: Connection, nodes: Sequence[str], first: int) -> Found:
    """Return the sequences of the stored heartbeats of some nodes, starting with number `first`.

    Nodes without a stored heartbeat, or without an answer of the stream, are left out.
    """
    asked = tuple(dict.fromkeys((*nodes[first:], *nodes[:first])))[:AT_ONCE]
    found = await asyncio.gather(*(_last(connection, node) for node in asked))
    pairs = zip(asked, found, strict=True)
    return Found(asked, {node: seq for node, seq in pairs if seq is not None})


async def _last(connection: Connection, node: str) -> int | None:
    jetstream = connection.client.jetstream(timeout=PATIENCE)
    try:
        message = await jetstream.get_last_msg(
            streams.STATUS, subjects.node_status(node), direct=True
        )
    except (NatsError, TimeoutError):
        return None
    return message.seq
