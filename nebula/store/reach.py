"""Whether the log could take an event now, found out without writing one.

Actors on a NATS cluster that Nebula does not run know nothing of its disks. They ask for the log's
stream: in a cluster its leader answers, and says which other copies it still hears.
"""

import logging

from msgspec import Struct
from nats.errors import Error as NatsError
from nats.js.api import StreamInfo
from nats.js.errors import APIError, NotFoundError

from nebula.events import memory, subjects
from nebula.events.heartbeats import StoreHeartbeat
from nebula.events.reading import decoded
from nebula.store import streams
from nebula.store.connection import Connection
from nebula.store.server import NAME

log = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds to wait for the stream's leader."""

UNHEARD = 4.0
"""Seconds of silence after which a copy does not count: its server sends something every second."""

NEARLY = 0.9
"""The part of a stream's own limit above which there is a warning."""

WORD_LASTS = 10.0
"""Seconds for which a store's last heartbeat counts; they are sent every two seconds."""


class Reach(Struct, frozen=True):
    """The state of the log's stream: its last sequence, and what prevents events now or soon."""

    last_seq: int = 0
    refused: str = ""
    warning: str = ""


async def reach(connection: Connection) -> Reach:
    """Return the state of the log's stream. Never raises: a missing answer is a state, too."""
    if not connection.connected:
        return Reach(refused="NATS can't be reached")
    if lacking := connection.lacking:
        return Reach(refused=lacking)
    try:
        jetstream = connection.client.jetstream(timeout=PATIENCE)
        return told_by(await jetstream.stream_info(streams.EVENTS))
    except NotFoundError:
        return Reach(refused=f"the log, stream {streams.EVENTS}, does not exist")
    except APIError as error:
        return Reach(refused=connection.refusal(error))
    except (NatsError, TimeoutError):
        return Reach(
            refused=f"the log, stream {streams.EVENTS}, does not answer: "
            "its NATS servers are gone or cut off, or too few of them are left"
        )


def told_by(info: StreamInfo) -> Reach:
    """Return the state that a stream's leader reports: its copies and its limit."""
    refused = warning = ""
    cluster, config, state = info.cluster, info.config, info.state
    copies = config.num_replicas or 1
    if copies > 1 and cluster is not None:
        others = cluster.replicas or []
        heard = [
            each for each in others if not each.offline and (each.active or 0) / 1e9 <= UNHEARD
        ]
        missing = ", ".join(sorted(each.name or "?" for each in others if each not in heard))
        if not cluster.leader:
            refused = f"the log has no leader among its {copies} copies"
        elif len(heard) + 1 <= copies // 2:
            refused = f"only {len(heard) + 1} of the log's {copies} copies can be reached"
        elif missing:
            warning = f"a copy of the log can't be reached: {missing}"
    limit = config.max_bytes or 0
    if not refused and 0 < NEARLY * limit <= state.bytes:
        warning = (
            f"the log nears the limit of its stream {streams.EVENTS}, max_bytes: "
            f"{memory.text(state.bytes)} of {memory.text(limit)} are used"
        )
    return Reach(state.last_seq, refused, warning)


def read_store_status(body: bytes) -> StoreHeartbeat | None:
    """Read a store's heartbeat; None if it is not valid."""
    return decoded(body, StoreHeartbeat)


async def last_word(connection: Connection) -> StoreHeartbeat | None:
    """Return the embedded server's last heartbeat within a minute; None if there is none."""
    if not connection.connected:
        return None
    try:
        jetstream = connection.client.jetstream(timeout=PATIENCE)
        found = await jetstream.get_last_msg(streams.STATUS, subjects.store_status(NAME))
    except (NatsError, TimeoutError):
        return None
    return read_store_status(found.data or b"")


async def trouble(connection: Connection) -> tuple[str, str]:
    """Return why the log takes no events now, and what will soon prevent it; "" if nothing."""
    word = await last_word(connection)
    if word is not None and word.refused:
        return word.refused, ""
    found = await reach(connection)
    return found.refused, (word.warning if word is not None else "") or found.warning
