"""The event log on JetStream: append under a guard, follow without gaps, read from anywhere.

It must not know what events mean: it moves records, and decides nothing.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TypeVar

from msgspec import Struct
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError, NoRespondersError
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from nebula.events import record as records
from nebula.events.original import ORIGINAL_HEADER, original
from nebula.events.record import ACTOR_HEADER, BASIS_HEADER, CAUSE_HEADER, Entry, Record
from nebula.events.vocabulary import Event
from nebula.store import batch, streams
from nebula.store.client import Headers
from nebula.store.connection import Connection, Unavailable
from nebula.store.refusals import MAYBE, NOTHING, REFUSALS, NotAppended, in_words, is_full
from nebula.store.tail import Tail

log = logging.getLogger(__name__)
T = TypeVar("T")

_APPEND_TRY = 2.0


class Conflict(Exception):
    """Somebody appended first: fold what was missed, then decide again."""


class TooLarge(Exception):
    """The event is larger than NATS takes, now and at any later try; the text names it."""


class NoLog(Unavailable):
    """NATS is there, but no actor has ever created a log on it."""


class Guard(Struct, frozen=True):
    """Append only if `seq` is still the last sequence among the subjects that `subject` covers."""

    subject: str
    seq: int


class Log:
    """Nebula's log, over one connection."""

    def __init__(self, connection: Connection, *, replicas: int = 1, actor: str = "") -> None:
        self.connection = connection
        self.actor = actor or connection.name
        self.replicas = replicas

    @property
    def _jetstream(self) -> JetStreamContext:
        return self.connection.client.jetstream(timeout=_APPEND_TRY)

    async def open(self, *, patience: float | None = None) -> "Log":
        """Create or check the streams, waiting up to `patience` seconds for JetStream.

        Raises StreamMismatch for a stream that is not as it must be, Unavailable when time is up.
        """
        loop = asyncio.get_running_loop()
        deadline = None if patience is None else loop.time() + patience
        said = False
        while True:
            try:
                await streams.ensure(self._jetstream, self.replicas)
                return self
            except (NatsError, TimeoutError) as error:
                if deadline is not None and loop.time() >= deadline:
                    raise Unavailable(f"JetStream does not answer: {error}") from error
                if not said:
                    log.warning("waiting for JetStream (%s)", error)
                    said = True
                await asyncio.sleep(0.25)

    async def restore_memory(self) -> None:
        """Create the streams in memory anew where they are gone. Raises Unavailable."""
        try:
            await streams.ensure_memory(self._jetstream, self.replicas)
        except (NatsError, TimeoutError, streams.StreamMismatch) as error:
            raise Unavailable(f"JetStream does not answer: {error}") from error

    async def append(
        self,
        identity: str,
        event: Event,
        *,
        guard: Guard | None = None,
        cause: int | None = None,
        basis: int | None = None,
        message_id: str | None = None,
        patience: float = 20.0,
    ) -> int:
        """Append one event and give its sequence once it is on disk.

        A lost acknowledgement is asked for again under the same message id, so the event is stored
        once. Raises Conflict when `guard` no longer holds, TooLarge at once for an event that NATS
        will never take, NotAppended after `patience` seconds, sooner where JetStream says that it
        has no room: the event may be stored all the same where only its acknowledgement was lost.
        """
        headers = {"Nats-Msg-Id": message_id or uuid.uuid4().hex, ACTOR_HEADER: self.actor}
        headers |= records.headers_for(event)
        if guard is not None:
            headers |= _guard_headers(guard)
        if cause is not None:
            headers[CAUSE_HEADER] = str(cause)
        if basis is not None:
            headers[BASIS_HEADER] = str(basis)
        subject, payload = records.subject_of(identity, event), records.encode(event)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        problem: Exception | None = None
        unknown = False
        while True:
            # Without a connection the client would keep the event and send it on reconnecting,
            # long after it was given up here.
            if self.connection.connected:
                try:
                    return await self._publish(subject, payload, headers, again=problem is not None)
                except MaxPayloadError as error:
                    raise self._too_large([(subject, payload)]) from error
                except (NatsError, TimeoutError) as error:
                    problem = error
                    unknown |= not isinstance(error, APIError | NoRespondersError)
                if is_full(problem):
                    deadline = min(deadline, loop.time() + REFUSALS)
            if loop.time() >= deadline:
                raise NotAppended(in_words(problem), MAYBE if unknown else NOTHING) from problem
            await asyncio.sleep(1.0 if is_full(problem) else 0.1)

    async def append_all(
        self, events: Sequence[tuple[str, Event]], *, guard: Guard, actor: str = ""
    ) -> int:
        """Append up to 1,000 events, all of them or none, and give the last one's sequence.

        Raises Conflict when `guard` no longer holds; TooLarge where one of them is larger than NATS
        takes; Unavailable when the log does not answer, in which case they may be stored all the
        same, or when its NATS server is too old for this.
        """
        messages = [
            (
                records.subject_of(identity, event),
                records.encode(event),
                {ACTOR_HEADER: actor or self.actor, **records.headers_for(event)},
            )
            for identity, event in events
        ]
        try:
            return await batch.publish(
                self.connection.client, messages, guard=_guard_headers(guard)
            )
        except batch.BatchRefused as error:
            if error.conflict:
                raise Conflict(str(error)) from error
            if error.too_large:
                raise self._too_large([(subject, body) for subject, body, _ in messages]) from error
            raise Unavailable(f"the log takes no events together: {error}") from error
        except MaxPayloadError as error:
            raise self._too_large([(subject, body) for subject, body, _ in messages]) from error
        except (NatsError, TimeoutError) as error:
            raise NotAppended(in_words(error), MAYBE) from error

    async def _publish(
        self, subject: str, payload: bytes, headers: dict[str, str], *, again: bool
    ) -> int:
        jetstream = self._jetstream
        try:
            ack = await jetstream.publish(subject, payload, timeout=_APPEND_TRY, headers=headers)
            return int(ack.seq)
        except APIError as error:
            if error.err_code in batch.TOO_LARGE:
                raise MaxPayloadError from error
            if error.err_code not in batch.CONFLICTS:
                raise
            if again:
                # The server looks at the guard before the message id: what was first may be the
                # earlier try, whose acknowledgement was lost.
                with contextlib.suppress(NotFoundError):
                    last = await jetstream.get_last_msg(streams.EVENTS, subject)
                    if (last.headers or {}).get("Nats-Msg-Id") == headers["Nats-Msg-Id"]:
                        return int(last.seq or 0)
            raise Conflict(str(error.description)) from error

    def _too_large(self, messages: Sequence[tuple[str, bytes]]) -> TooLarge:
        subject, body = max(messages, key=lambda message: len(message[1]))
        return TooLarge(
            f"too large for the log: {subject} takes {len(body):,} bytes without its headers, and "
            f"NATS takes messages of {self.connection.max_body:,} bytes and headers of 64 KiB"
        )

    async def check(self) -> None:
        """Check the log without creating it. Raises StreamMismatch, NoLog, Unavailable."""
        try:
            await streams.check_log(self._jetstream)
        except NotFoundError as error:
            raise NoLog(
                f"there is no log at {self.connection.shown} yet: "
                "start `nebula up`, or a gateway, router or node"
            ) from error
        except (NatsError, TimeoutError) as error:
            raise Unavailable(f"the log does not answer: {error}") from error

    async def last_seq(self) -> int:
        """Give the sequence of the newest entry; 0 for an empty log. Raises Unavailable."""
        try:
            return int((await self._jetstream.stream_info(streams.EVENTS)).state.last_seq)
        except (NatsError, TimeoutError) as error:
            raise Unavailable(f"the log does not answer: {error}") from error

    async def read(self, after: int = 0, until: int | None = None) -> list[Record]:
        """Give the records after one sequence, up to and with another (default: the newest)."""
        return [
            records.read_entry(entry)
            async for batch in self.entries(after, until)
            for entry in batch
        ]

    async def entries(
        self, after: int = 0, until: int | None = None
    ) -> AsyncGenerator[list[Entry], None]:
        """Give the entries after one sequence, up to and with another, in batches.

        `until` defaults to what is the newest now. Raises Unavailable, LogReplaced.
        """
        last = await self.last_seq() if until is None else until
        if last <= after:
            return
        async with contextlib.aclosing(self.follow_entries(after)) as batches:
            async for batch in batches:
                if batch[-1].seq >= last:
                    yield [entry for entry in batch if entry.seq <= last]
                    return
                yield batch

    async def follow(self, after: int = 0) -> AsyncGenerator[list[Record], None]:
        """Give every record after a sequence, in order and without gaps, for ever, in batches.

        Raises LogReplaced.
        """
        async with contextlib.aclosing(self._follow(after, _record)) as batches:
            async for batch in batches:
                yield batch

    async def follow_entries(self, after: int = 0) -> AsyncGenerator[list[Entry], None]:
        """Give every entry after a sequence as it is stored, for ever, in batches.

        Raises LogReplaced.
        """
        async with contextlib.aclosing(self._follow(after, _entry)) as batches:
            async for batch in batches:
                yield batch

    async def _follow(
        self, after: int, read: Callable[[int, int, Msg], T]
    ) -> AsyncGenerator[list[T], None]:
        """Lost connections, restarted servers and dropped messages are noticed and mended.

        A hole in the consumer's own count, or silence, tells of them; then the server is asked
        again for what comes after the last entry given.
        """
        tail = Tail(self.connection, after, read)
        try:
            while True:
                batch = await tail.next()
                if batch:
                    yield batch
        finally:
            await tail.close()

    async def entry(self, seq: int) -> Entry | None:
        """Give the entry at a sequence; None where there is none. Raises Unavailable."""
        found = [each async for entries in self.entries(seq - 1, seq) for each in entries]
        return found[0] if found else None


def _guard_headers(guard: Guard) -> dict[str, str]:
    return {
        "Nats-Expected-Last-Subject-Sequence": str(guard.seq),
        "Nats-Expected-Last-Subject-Sequence-Subject": guard.subject,
    }


def _entry(seq: int, time: int, message: Msg) -> Entry:
    headers = message.headers
    block = headers.block if isinstance(headers, Headers) else b""
    return original(Entry(seq, time, message.subject, block, message.data))


def _record(seq: int, time: int, message: Msg) -> Record:
    """Read a message without a second look at its headers, unless it was imported."""
    headers = message.headers
    if headers and ORIGINAL_HEADER in headers:
        return records.read_entry(_entry(seq, time, message))
    return records.read(seq, time, message.subject, message.data, headers)
