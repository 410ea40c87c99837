"""Whether the log could take an event now, as far as that shows without writing one.

Actors on a NATS cluster that is not Nebula's own hear nothing of its disks. They ask for the log's
stream: in a cluster its leader answers, and tells whom of the other copies it still hears.
"""

import logging

import msgspec
from msgspec import Struct
from nats.errors import Error as NatsError
from nats.js.api import StreamInfo
from nats.js.errors import APIError, NotFoundError

from nebula.events import subjects
from nebula.events.memory import fine
from nebula.events.status import StoreStatus
from nebula.store import streams
from nebula.store.connection import Connection
from nebula.store.server import NAME

log = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds for the stream's leader to answer."""

UNHEARD = 4.0
"""Seconds without a word after which a copy no longer counts: its server says one every second."""

NEARLY = 0.9
"""The part of a stream's own limit above which it is told."""

WORD_LASTS = 10.0
"""Seconds for which a store's last heartbeat counts; one comes every two."""


class Reach(Struct, frozen=True):
    """What the log's stream told: its last sequence, and why it can't or soon won't take events."""

    last_seq: int = 0
    refused: str = ""
    warning: str = ""


async def reach(connection: Connection) -> Reach:
    """Ask for the log's stream. Never raises: no answer is one, too."""
    if not connection.connected:
        return Reach(refused="NATS can't be reached")
    try:
        jetstream = connection.client.jetstream(timeout=PATIENCE)
        return told_by(await jetstream.stream_info(streams.EVENTS))
    except NotFoundError:
        return Reach(refused=f"the log, stream {streams.EVENTS}, is not there")
    except APIError as error:
        return Reach(refused=f"JetStream refuses the log: {error.description}")
    except (NatsError, TimeoutError):
        return Reach(
            refused=f"the log, stream {streams.EVENTS}, does not answer: "
            "its NATS servers are gone or cut off, or too few of them are left"
        )


def told_by(info: StreamInfo) -> Reach:
    """Return what a stream's leader says: whether enough copies are heard, and of its limit."""
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
            f"{fine(state.bytes)} of {fine(limit)} are used"
        )
    return Reach(state.last_seq, refused, warning)


def read_store_status(body: bytes) -> StoreStatus | None:
    """Read a store's heartbeat; None where it is not one."""
    try:
        return msgspec.json.decode(body, type=StoreStatus)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


async def last_word(connection: Connection) -> StoreStatus | None:
    """Return what the embedded server's store said within the last minute; None for silence."""
    if not connection.connected:
        return None
    try:
        jetstream = connection.client.jetstream(timeout=PATIENCE)
        found = await jetstream.get_last_msg(streams.STATUS, subjects.store_status(NAME))
    except (NatsError, TimeoutError):
        return None
    return read_store_status(found.data or b"")


async def trouble(connection: Connection) -> tuple[str, str]:
    """Return why the log takes no events now, and what will soon keep them out; "" for nothing."""
    word = await last_word(connection)
    if word is not None and word.refused:
        return word.refused, ""
    found = await reach(connection)
    return found.refused, (word.warning if word is not None else "") or found.warning
