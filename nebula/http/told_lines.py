"""How many requests wait for each model, as the routers' last heartbeats tell it."""

from collections.abc import Mapping

from nats.errors import Error as NatsError

from nebula.actors.attribution import attributed
from nebula.events import subjects
from nebula.events.heartbeats import QueueLength, RouterHeartbeat, joined_lines
from nebula.store import streams
from nebula.store.connection import Connection

PATIENCE = 2.0
"""Seconds to wait for the stream of heartbeats."""


async def told_lines(connection: Connection) -> Mapping[str, QueueLength]:
    """Return the lines of models by their ids; none where NATS does not answer.

    NATS keeps heartbeats for a minute, so that the lines of a router that has just died are told
    for so long.
    """
    if not connection.connected:
        return {}
    jetstream = connection.client.jetstream(timeout=PATIENCE)
    try:
        filtered = subjects.ROUTER_STATUS
        info = await jetstream.stream_info(streams.STATUS, subjects_filter=filtered)
        heard = []
        for subject in sorted(info.state.subjects or {}):
            found = await jetstream.get_last_msg(streams.STATUS, subject)
            said = attributed(subject.encode(), found.data or b"", RouterHeartbeat)
            if said is not None:
                heard.append(said.queues)
    except (NatsError, TimeoutError):
        return {}
    return joined_lines(heard)
