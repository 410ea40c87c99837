"""The stream of what routers could not serve at once, minute by minute: bounded, oldest first."""

from collections.abc import AsyncGenerator

import msgspec
from nats.js.api import StreamConfig

from nebula.events import subjects
from nebula.events.demand import DemandRecord
from nebula.events.memory import MIB
from nebula.events.reading import decoded
from nebula.store import durable, inference_log
from nebula.store.connection import Connection

STREAM = "NEBULA_DEMAND"

KEPT = 31 * 24 * 3600
"""Seconds for which a record is kept."""

ROOM = 128 * MIB
"""Bytes of the stream: beyond them the oldest records go."""


def definition(replicas: int) -> StreamConfig:
    """Return the stream."""
    about = "Nebula's refused requests, and those that waited for engines, by minute"
    return durable.records(STREAM, about, subjects.DEMAND, replicas, age=KEPT, room=ROOM)


class DemandStore:
    """The records of a cluster, over one connection."""

    def __init__(self, connection: Connection, replicas: int = 1) -> None:
        self._connection = connection
        self._streams = durable.Streams(connection, (definition(replicas),))

    async def put(self, router: str, record: DemandRecord) -> None:
        """Store a router's record. Raise NoRoom, Unavailable."""
        await self._streams.open()
        await durable.store(self._connection, subjects.demand(router), msgspec.json.encode(record))

    async def all(self) -> AsyncGenerator[DemandRecord, None]:
        """Yield all that is kept, the oldest first. Raise Unavailable."""
        if not await durable.exists(self._connection, STREAM):
            return
        messages = inference_log.read(self._connection, [subjects.DEMAND], stream=STREAM)
        async for said in messages:
            record = decoded(said.body, DemandRecord)
            if record is not None:
                yield record
