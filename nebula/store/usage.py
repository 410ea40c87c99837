"""The stream of usage records: each is stored once, whatever is lost, and kept for a while."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeAlias

import msgspec
from msgspec import Struct
from nats.errors import Error as NatsError
from nats.js.api import StreamConfig
from nats.js.errors import NotFoundError

from nebula.events import subjects
from nebula.events.memory import MIB
from nebula.events.reading import decoded
from nebula.events.usage import UsageRecord, UsageRecords
from nebula.store import durable, inference_log
from nebula.store.connection import Connection, Unavailable
from nebula.store.refusals import unanswered

STREAM = "NEBULA_USAGE"

KEPT = 31 * 24 * 3600
"""Seconds for which records are kept after they were summed."""

ROOM = 256 * MIB

MESSAGE = "Nats-Msg-Id"

Pace: TypeAlias = Callable[[float], Awaitable[None]]
"""Waits after so many seconds of work, so that other tasks can run."""


async def unhurried(_: float) -> None:
    """Wait for nothing."""


class Kept(Struct, frozen=True):
    """What the stream has: its id, which another stream of this name has not, and sequences.

    `first`, `last`: sequences of the oldest message and of the newest that there ever was.
    """

    id: str
    first: int
    last: int
    size: int


class Stored(Struct, frozen=True):
    """A message with records, as it is stored."""

    seq: int
    records: tuple[UsageRecord, ...]
    dropped: int


def definition(replicas: int) -> StreamConfig:
    """Return the stream."""
    about = "Nebula's usage records: the tokens of each request"
    return durable.records(STREAM, about, subjects.USAGE, replicas, age=KEPT, room=ROOM)


class UsageStore:
    """The usage records of a cluster, over one connection."""

    def __init__(self, connection: Connection, replicas: int = 1) -> None:
        self.connection = connection
        self._streams = durable.Streams(connection, (definition(replicas),))

    async def open(self) -> None:
        """Create the stream if it is missing. Raise NoRoom, Unavailable."""
        await self._streams.open()

    async def store(self, writer: str, message: str, records: UsageRecords, after: int) -> int:
        """Store a message of a writer after its last one, once; return its sequence.

        No other uses the name `writer`. `message`: the id of this message at every try, which
        no other message of the stream has. Raise
        NoRoom, Unavailable: then it may be stored, which the next try will find.
        """
        subject, body = subjects.usage_of_requests(writer), msgspec.json.encode(records)
        while True:
            headers = {MESSAGE: message, "Nats-Expected-Last-Subject-Sequence": str(after)}
            stored = await durable.store(self.connection, subject, body, headers)
            if stored is not None:
                return stored
            last = await durable.last(self.connection, STREAM, subject)
            if last is not None and (last.headers or {}).get(MESSAGE) == message:
                return int(last.seq or 0)
            after = 0 if last is None else int(last.seq or 0)

    async def store_once(self, record: UsageRecord) -> None:
        """Store a record unless there is one with its id. Raise NoRoom, Unavailable."""
        body = msgspec.json.encode(UsageRecords((record,)))
        await durable.store(self.connection, subjects.usage_once(record.id), body, durable.FIRST)

    async def kept(self) -> Kept | None:
        """Return what the stream has; None if there is none. Raise Unavailable."""
        try:
            info = await durable.jetstream(self.connection).stream_info(STREAM)
        except NotFoundError:
            return None
        except (NatsError, TimeoutError) as error:
            raise Unavailable(f"JetStream does not answer: {unanswered(error)}") from error
        created, state = info.created, info.state
        assert created is not None
        identity = created.strftime("%Y%m%dT%H%M%S%f")
        return Kept(identity, int(state.first_seq), int(state.last_seq), int(state.bytes))

    async def read(
        self, after: int, until: int, pace: Pace = unhurried
    ) -> AsyncGenerator[Stored, None]:
        """Yield the messages after a sequence up to and including another. Raise Unavailable.

        `pace` is awaited after each, with what it took to read and to use it.
        """
        if until <= after:
            return
        messages = inference_log.read(self.connection, [subjects.USAGE], stream=STREAM, after=after)
        async for said in messages:
            if said.seq > until:
                return
            began = time.monotonic()
            found = decoded(said.body, UsageRecords) or UsageRecords()
            yield Stored(said.seq, found.records, found.dropped)
            await pace(time.monotonic() - began)
            if said.seq == until:
                return
