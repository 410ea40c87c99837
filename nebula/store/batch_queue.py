"""The lines of batches as a queue of work, their results, and which gateway keeps each batch.

A line is removed once its result is stored, and only the first result of a line is stored. So each
line has exactly one result, however often it is sent. Both streams are made when they are first
needed: a server without room for them keeps nothing else from working.
"""

import uuid
from collections.abc import AsyncGenerator
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct
from nats.errors import Error as NatsError
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from nebula.events import subjects
from nebula.events.memory import GIB, MIB
from nebula.events.reading import last_token
from nebula.store import durable, inference_log
from nebula.store.connection import Connection, Unavailable
from nebula.store.refusals import unanswered

LINES = "NEBULA_BATCH_LINES"
RESULTS = "NEBULA_BATCH_RESULTS"
WORKERS = "gateways"
"""The consumer of lines, which all gateways share."""

LONGEST = 8 * 24 * 3600
"""Seconds after which NATS itself drops lines and results: a day more than a batch may take."""

LINES_ROOM = 256 * MIB
RESULTS_ROOM = 2 * GIB

OUTCOME = "Nebula-Outcome"
FILE = "Nebula-File"
USAGE = "Nebula-Usage"

Outcome: TypeAlias = Literal["completed", "failed", "none"]
"""What came of a line: `none` if it was given up without an answer."""


class QueuedLine(Struct, frozen=True):
    """A line that waits to be sent: where it is in the input."""

    custom_id: Annotated[str, Meta(description="The line's `custom_id`.")]
    chunk: Annotated[
        int, Meta(description="Sequence in the object store of the part in which it begins.")
    ]
    offset: Annotated[int, Meta(description="Bytes of that part before the line.")]
    length: Annotated[int, Meta(description="Bytes of the line.")]
    after: Annotated[
        int, Meta(description="Last event that the gateway had folded which queued it.")
    ]


class LineResult(Struct, frozen=True):
    """What came of a line. `text`: its line of the output or the errors; `file`: has it instead.

    `usage`: the record of what it used, as JSON; empty for nothing.
    """

    outcome: Outcome
    text: bytes = b""
    file: str = ""
    usage: str = ""


def new_id() -> str:
    """Return a new id of a batch that can not be guessed."""
    return f"batch_{uuid.uuid4().hex}"


def definitions(replicas: int) -> tuple[StreamConfig, ...]:
    """Return the two streams."""
    return (
        StreamConfig(
            name=LINES,
            description="Nebula's batches: lines that wait to be sent",
            subjects=[subjects.BATCH_LINES],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            max_age=LONGEST,
            max_bytes=LINES_ROOM,
            num_replicas=replicas,
            duplicate_window=120,
            allow_direct=True,
        ),
        StreamConfig(
            name=RESULTS,
            description="Nebula's batches: results of lines until all are there",
            subjects=[subjects.BATCH_RESULTS, subjects.BATCH_LEASES],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            max_age=LONGEST,
            max_bytes=RESULTS_ROOM,
            max_msgs_per_subject=1,
            num_replicas=replicas,
            duplicate_window=120,
            allow_direct=True,
        ),
    )


class BatchQueue:
    """The lines and results of a cluster's batches, over one connection."""

    def __init__(self, connection: Connection, replicas: int = 1) -> None:
        self.connection = connection
        self._streams = durable.Streams(connection, definitions(replicas))

    async def open(self) -> None:
        """Create the streams if they are missing. Raise NoRoom, Unavailable."""
        await self._streams.open()

    async def put_line(self, batch: str, number: int, line: QueuedLine) -> None:
        """Queue a line unless it is queued already. Raise NoRoom, Unavailable."""
        subject = subjects.batch_line(batch, str(number))
        body = msgspec.json.encode(line)
        await durable.store(self.connection, subject, body, durable.FIRST)

    async def waits(self, batch: str) -> bool:
        """Return whether a line of a batch is queued or under way. Raise Unavailable."""
        wanted = subjects.batch_line(batch, "*")
        return await durable.next_on(self.connection, LINES, wanted, 1) is not None

    async def put_result(self, batch: str, number: int, result: LineResult) -> None:
        """Store a line's result unless it has one. Raise NoRoom, Unavailable, MaxPayloadError."""
        headers = {**durable.FIRST, OUTCOME: result.outcome}
        if result.file:
            headers[FILE] = result.file
        if result.usage:
            headers[USAGE] = result.usage
        subject = subjects.batch_result(batch, str(number))
        await durable.store(self.connection, subject, result.text, headers)

    async def result(self, batch: str, number: int) -> LineResult | None:
        """Return a line's result. Raise Unavailable."""
        subject = subjects.batch_result(batch, str(number))
        found = await durable.last(self.connection, RESULTS, subject)
        if found is None:
            return None
        headers = found.headers or {}
        return LineResult(
            _outcome(headers.get(OUTCOME)),
            found.data or b"",
            headers.get(FILE, ""),
            headers.get(USAGE, ""),
        )

    async def outcomes(self, batch: str) -> AsyncGenerator[tuple[int, Outcome] | None, None]:
        """Yield what came of each line that has a result, then None, then the new ones, for ever.

        Raise Unavailable.
        """
        wanted = [subjects.batch_result(batch, "*")]
        async for said in inference_log.follow(
            self.connection, wanted, bodies=False, stream=RESULTS
        ):
            if said is None:
                yield None
                continue
            number = last_token(said.subject.encode())
            if number.isdigit():
                yield int(number), _outcome(said.headers.get(OUTCOME))

    async def drop_lines(self, batch: str) -> None:
        """Remove the lines of a batch that were not sent. Raise Unavailable."""
        await durable.purge(self.connection, LINES, subjects.batch_line(batch, "*"))

    async def clear(self, batch: str) -> None:
        """Remove all that there is of a batch. Raise Unavailable."""
        await self.drop_lines(batch)
        await durable.purge(self.connection, RESULTS, subjects.batch_result(batch, "*"))
        await durable.purge(self.connection, RESULTS, subjects.batch_lease(batch))

    async def lease(self, batch: str) -> tuple[int, str] | None:
        """Return the sequence and the holder of a batch's lease. Raise Unavailable."""
        subject = subjects.batch_lease(batch)
        found = await durable.last(self.connection, RESULTS, subject)
        if found is None:
            return None
        return int(found.seq or 0), (found.data or b"").decode("utf-8", "replace")

    async def take_lease(self, batch: str, holder: str, after: int) -> int | None:
        """Take or renew a lease whose last message is `after`; return None if another was first.

        Raise NoRoom, Unavailable.
        """
        headers = {"Nats-Expected-Last-Subject-Sequence": str(after)}
        subject = subjects.batch_lease(batch)
        taken = await durable.store(
            self.connection, subject, holder.encode(), headers, patience=0.0
        )
        if taken is not None:
            return taken
        found = await self.lease(batch)  # its own, if only an acknowledgement was lost
        return found[0] if found is not None and found[1] == holder else None

    async def give_lease_back(self, batch: str) -> None:
        """Let another gateway take a lease at once. Raise Unavailable."""
        await durable.purge(self.connection, RESULTS, subjects.batch_lease(batch))

    async def leased(self) -> list[str]:
        """Return the batches that have a lease. Raise Unavailable."""
        try:
            info = await durable.jetstream(self.connection).stream_info(
                RESULTS, subjects_filter=subjects.BATCH_LEASES
            )
        except NotFoundError:
            return []
        except (NatsError, TimeoutError) as error:
            said = unanswered(error)
            raise Unavailable(f"stream {RESULTS} does not answer: {said}") from error
        return [subject.rpartition(".")[2] for subject in info.state.subjects or {}]


def _outcome(text: str | None) -> Outcome:
    return "completed" if text == "completed" else "none" if text == "none" else "failed"
