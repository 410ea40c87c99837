"""The last heartbeats of nodes that NATS has stored: they come by another way than those heard.

A heartbeat is told over one hop between NATS servers; the stream that keeps it may be reached by
both sides where they do not reach each other. One that has another sequence than before was sent
meanwhile; its time is the server's, and is not looked at.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from nats.errors import Error as NatsError

from nebula.events import subjects
from nebula.store import streams
from nebula.store.connection import Connection

EVERY = 2.0
"""Seconds between two looks: as long as from one heartbeat of a node to the next."""

AT_ONCE = 32
"""Nodes that are asked about in one look; of more, each has its turn."""

PATIENCE = 1.5
"""Seconds that the stream has to answer."""


class Found(NamedTuple):
    """The nodes that were asked about, and the sequences of those that have a heartbeat."""

    asked: tuple[str, ...]
    seqs: dict[str, int]


async def last_heartbeats(connection: Connection, nodes: Sequence[str], first: int) -> Found:
    """Return the sequences of the stored heartbeats of some nodes, beginning with number `first`.

    What can't be told, because the stream does not answer or has none, is left out.
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
