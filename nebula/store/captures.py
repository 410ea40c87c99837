"""The stream of captured requests: bounded, and read by no actor."""

from collections.abc import AsyncGenerator

import msgspec
from nats.js.api import StreamConfig

from nebula.events import subjects
from nebula.events.captured import CapturedRequest
from nebula.events.memory import MIB
from nebula.events.reading import decoded
from nebula.store import durable, inference_log
from nebula.store.connection import Connection

STREAM = "NEBULA_CAPTURE"

KEPT = 24 * 3600
"""Seconds for which a captured request is kept."""

ROOM = 64 * MIB
"""Bytes of the stream: beyond them the oldest requests go."""


def definition(replicas: int) -> StreamConfig:
    """Return the stream."""
    about = "Nebula's captured requests: for admins only"
    return durable.records(STREAM, about, subjects.CAPTURED, replicas, age=KEPT, room=ROOM)


class CaptureStore:
    """The captured requests of a cluster, over one connection."""

    def __init__(self, connection: Connection, replicas: int = 1) -> None:
        self._connection = connection
        self._streams = durable.Streams(connection, (definition(replicas),))

    async def put(self, captured: CapturedRequest) -> None:
        """Store a request. Raise NoRoom, Unavailable."""
        await self._streams.open()
        body = msgspec.json.encode(captured)
        await durable.store(self._connection, subjects.captured(captured.id), body)

    async def find(self, request: str) -> CapturedRequest | None:
        """Return a request that was captured, if it is still kept. Raise Unavailable."""
        if not subjects.is_token(request):
            return None
        found = await durable.last(self._connection, STREAM, subjects.captured(request))
        return decoded(found.data or b"", CapturedRequest) if found is not None else None

    async def all(self) -> AsyncGenerator[CapturedRequest, None]:
        """Yield all that is kept, the oldest first. Raise Unavailable."""
        if not await durable.exists(self._connection, STREAM):
            return
        messages = inference_log.read(self._connection, [subjects.CAPTURED], stream=STREAM)
        async for said in messages:
            captured = decoded(said.body, CapturedRequest)
            if captured is not None:
                yield captured
