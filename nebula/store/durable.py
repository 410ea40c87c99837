"""Messages of file streams: stored although NATS is restarted meanwhile, and looked up."""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError, NoRespondersError
from nats.js import JetStreamContext
from nats.js.api import (
    DiscardPolicy,
    RawStreamMsg,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import APIError, NotFoundError

from nebula.store import batch, streams
from nebula.store.connection import Connection, Unavailable
from nebula.store.refusals import is_full, unanswered

PATIENCE = 20.0
"""Seconds for a message to be stored, over all tries: NATS may restart meanwhile."""

_TRY = 3.0

_REFUSED_FOR = 30.0
"""Seconds until a server that had no room for a stream is asked again."""

FIRST: Mapping[str, str] = {"Nats-Expected-Last-Subject-Sequence": "0"}
"""Headers with which only the first message on a subject is stored."""


class NoRoom(Unavailable):
    """A stream is full, or its server has no room for it."""


def records(
    name: str, description: str, subject: str, replicas: int, *, age: float, room: int
) -> StreamConfig:
    """Return a stream of records on one subject, of which the oldest go.

    `age`: seconds for which one is kept. `room`: bytes of all.
    """
    return StreamConfig(
        name=name,
        description=description,
        subjects=[subject],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.OLD,
        max_age=age,
        max_bytes=room,
        num_replicas=replicas,
        duplicate_window=120,
        allow_direct=True,
    )


def jetstream(connection: Connection) -> JetStreamContext:
    """Return a connection's JetStream, with the time limit of one try."""
    return connection.client.jetstream(timeout=_TRY)


async def make(connection: Connection, wanted: StreamConfig) -> None:
    """Create a stream unless it exists. Raise NoRoom, Unavailable."""
    try:
        await streams.find_or_create(jetstream(connection), wanted)
    except streams.StreamMismatch as error:
        raise NoRoom(str(error)) from error
    except (NatsError, TimeoutError) as error:
        raise Unavailable(f"JetStream does not answer: {unanswered(error)}") from error


class Streams:
    """Streams that are made when they are first needed.

    That a server has no room for them is remembered for a while: it is found out slowly.
    """

    def __init__(self, connection: Connection, wanted: Sequence[StreamConfig]) -> None:
        self._connection = connection
        self._wanted = wanted
        self._refusal = ""
        self._until = 0.0

    async def open(self) -> None:
        """Create the streams that are missing. Raise NoRoom, Unavailable."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._until:
            raise NoRoom(self._refusal)
        for wanted in self._wanted:
            try:
                await make(self._connection, wanted)
            except NoRoom as error:
                self._refusal, self._until = str(error), loop.time() + _REFUSED_FOR
                raise


async def store(
    connection: Connection,
    subject: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    *,
    patience: float = PATIENCE,
) -> int | None:
    """Store a message once, and return its sequence; None if a condition in `headers` fails.

    A try whose acknowledgement is lost is repeated under the same message id, so a condition may
    fail because of this message's own first try. Raise NoRoom, Unavailable, MaxPayloadError.
    """
    sent = {"Nats-Msg-Id": uuid.uuid4().hex, **(headers or {})}
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    problem: Exception | None = None
    while True:
        if connection.connected:  # else the client would keep it, and send it much later
            try:
                ack = await jetstream(connection).publish(subject, body, headers=sent)
                return int(ack.seq)
            except MaxPayloadError:
                raise
            except (NatsError, TimeoutError) as error:
                problem = error
            if isinstance(problem, APIError):
                if problem.err_code in batch.CONFLICTS:
                    return None
                if is_full(problem):
                    raise NoRoom(f"JetStream has no room: {problem.description}") from problem
        if loop.time() >= deadline:
            said = "NATS can't be reached" if problem is None else unanswered(problem)
            raise Unavailable(f"JetStream does not store: {said}") from problem
        await asyncio.sleep(0.2)


async def last(connection: Connection, stream: str, subject: str) -> RawStreamMsg | None:
    """Return the last message on a subject; None if there is none. Raise Unavailable."""
    return await _found(connection, stream, subject=subject)


async def next_on(
    connection: Connection, stream: str, subject: str, seq: int
) -> RawStreamMsg | None:
    """Return the first message on a subject from a sequence on. Raise Unavailable."""
    return await _found(connection, stream, subject=subject, seq=seq, next=True)


async def _found(connection: Connection, stream: str, **which: Any) -> RawStreamMsg | None:
    try:
        return await jetstream(connection).get_msg(stream, direct=True, **which)
    except NotFoundError:
        return None
    except NoRespondersError as error:
        if await exists(connection, stream):
            raise Unavailable(f"stream {stream} has no leader now") from error
        return None
    except (NatsError, TimeoutError) as error:
        raise Unavailable(f"stream {stream} does not answer: {unanswered(error)}") from error


async def exists(connection: Connection, stream: str) -> bool:
    """Return whether a stream exists. Raise Unavailable."""
    try:
        await jetstream(connection).stream_info(stream)
        return True
    except NotFoundError:
        return False
    except (NatsError, TimeoutError) as error:
        raise Unavailable(f"JetStream does not answer: {unanswered(error)}") from error


async def purge(connection: Connection, stream: str, subject: str) -> None:
    """Remove the messages on a subject. Raise Unavailable."""
    try:
        await jetstream(connection).purge_stream(stream, subject=subject)
    except NotFoundError:
        return
    except (NatsError, TimeoutError) as error:
        raise Unavailable(f"stream {stream} does not answer: {unanswered(error)}") from error
