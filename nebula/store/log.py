"""The event log on JetStream: append under a guard, follow without gaps, read from anywhere.

It does not know what events mean: it moves records, and decides nothing.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TypeVar

from msgspec import Struct
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError, NoRespondersError
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from nebula.events import record as records
from nebula.events.record import (
    ACTOR_HEADER,
    BASIS_HEADER,
    BY_HEADER,
    CAUSE_HEADER,
    Entry,
    Record,
)
from nebula.events.vocabulary import Event
from nebula.store import batch, repeats, streams
from nebula.store.connection import Connection, Unavailable
from nebula.store.log_messages import entry_of, record_of
from nebula.store.needs import Unfit
from nebula.store.refusals import (
    MAYBE,
    NOTHING,
    REFUSALS,
    NotAppended,
    in_words,
    is_full,
    unanswered,
)
from nebula.store.tail import Read, Tail

log = logging.getLogger(__name__)
T = TypeVar("T")

_APPEND_TRY = 2.0


class Conflict(Exception):
    """Another writer appended first: fold what was missed, then decide again."""


class Reused(Exception):
    """The message id was already used for another event, so this one is not appended."""


class TooLarge(Exception):
    """The event is too large for NATS, now and at any later try; the text names it."""


class NoLog(Unavailable):
    """NATS can be reached, but no actor has ever created a log on it."""


class Guard(Struct, frozen=True):
    """Append only if `seq` is still the last sequence among the subjects that `subject` covers."""

    subject: str
    seq: int


class Log:
    """Nebula's log, over one connection. `by`: the usual principal of its events."""

    def __init__(
        self, connection: Connection, *, replicas: int = 1, actor: str = "", by: str = ""
    ) -> None:
        self.connection = connection
        self.by = by
        self.actor = actor or connection.name
        self.replicas = replicas
        self._unfit = ""
        self.on_appended: Callable[[int, str, Event, int | None], None] | None = None
        """Called for each event of `append`: its sequence, aggregate's id, event, cause."""

    @property
    def _jetstream(self) -> JetStreamContext:
        return self.connection.client.jetstream(timeout=_APPEND_TRY)

    async def open(self, *, patience: float | None = None) -> "Log":
        """Create or check the streams, waiting up to `patience` seconds for JetStream.

        Raise StreamMismatch for a stream with wrong settings, Unfit for a server that lacks what
        Nebula needs, Unavailable when the time is over.
        """
        loop = asyncio.get_running_loop()
        deadline = None if patience is None else loop.time() + patience
        said = ""
        while True:
            if lacking := self.connection.lacking:
                raise Unfit(lacking)
            try:
                await streams.ensure(self._jetstream, self.replicas)
                self.connection.trouble = ""
                return self
            except (NatsError, TimeoutError) as error:
                words = self.connection.refusal(error)
                if deadline is not None and loop.time() >= deadline:
                    raise Unavailable(words) from error
                if said != words:
                    log.warning("waiting for JetStream: %s", words)
                    self.connection.trouble = said = words
                await asyncio.sleep(0.25)

    async def restore_memory(self) -> None:
        """Create missing in-memory streams again. Raise Unavailable."""
        try:
            await streams.ensure_memory(self._jetstream, self.replicas)
        except (NatsError, TimeoutError) as error:
            raise Unavailable(self.connection.refusal(error)) from error
        except streams.StreamMismatch as error:
            raise Unavailable(str(error)) from error

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
        exact: bool = False,
        by: str = "",
        node: str = "",
    ) -> int:
        """Append one event, and return its sequence once it is on disk.

        If the acknowledgement is lost, the append is repeated under the same message id, so the
        event is stored once. Raise Conflict if `guard` no longer holds, TooLarge at once for an
        event that NATS will never take, NotAppended after `patience` seconds or sooner if JetStream
        has no room: the event may still be stored if only its acknowledgement was lost.

        `by`: its principal. `node`: the node whose report it is, for its subject. With `exact`, an
        earlier event with this message id must be the same event, else raise Reused. JetStream
        remembers ids for two minutes. Raise Unfit if a `check` has found a reason.
        """
        self._refuse_unfit()
        headers = {"Nats-Msg-Id": message_id or uuid.uuid4().hex, ACTOR_HEADER: self.actor}
        headers |= records.headers_for(event)
        headers |= self._by(by)
        if guard is not None:
            headers |= _guard_headers(guard)
        if cause is not None:
            headers[CAUSE_HEADER] = str(cause)
        if basis is not None:
            headers[BASIS_HEADER] = str(basis)
        subject, payload = records.subject_of(identity, event, node), records.encode(event)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        problem: Exception | None = None
        unknown = False
        while True:
            # Without a connection the client would keep the event and send it after reconnecting,
            # long after it was given up here.
            if self.connection.connected:
                try:
                    seq, stored = await self._publish(
                        subject, payload, headers, again=problem is not None
                    )
                    if stored and exact:
                        await self._compare(seq, subject, payload)
                    if self.on_appended is not None and not stored:
                        self.on_appended(seq, identity, event, cause)
                    return seq
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
        self,
        events: Sequence[tuple[str, Event]],
        *,
        guard: Guard,
        actor: str = "",
        by: str = "",
    ) -> int:
        """Append up to 1,000 events, all or none, and return the last sequence.

        `by`: the principal that asks for them, if it is not this process's own.

        Raise Conflict if `guard` no longer holds; TooLarge if one of them is too large for NATS;
        Unavailable if the log does not answer, in which case they may still be stored, or if its
        NATS server is too old for this.
        """
        self._refuse_unfit()
        messages = [
            (
                records.subject_of(identity, event),
                records.encode(event),
                {ACTOR_HEADER: actor or self.actor, **records.headers_for(event), **self._by(by)},
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
            raise Unavailable(f"the log can't take several events together: {error}") from error
        except MaxPayloadError as error:
            raise self._too_large([(subject, body) for subject, body, _ in messages]) from error
        except (NatsError, TimeoutError) as error:
            raise NotAppended(in_words(error), MAYBE) from error

    def _by(self, by: str = "") -> dict[str, str]:
        return {BY_HEADER: by or self.by} if by or self.by else {}

    async def _publish(
        self, subject: str, payload: bytes, headers: dict[str, str], *, again: bool
    ) -> tuple[int, bool]:
        """Return the sequence, and whether an event with that message id already existed."""
        jetstream = self._jetstream
        try:
            ack = await jetstream.publish(subject, payload, timeout=_APPEND_TRY, headers=headers)
            return int(ack.seq), bool(ack.duplicate)
        except APIError as error:
            if error.err_code in batch.TOO_LARGE:
                raise MaxPayloadError from error
            if error.err_code not in batch.CONFLICTS:
                raise
            if again:
                # The server checks the guard before the message id: the conflicting event may be
                # the earlier try, whose acknowledgement was lost.
                with contextlib.suppress(NotFoundError):
                    last = await jetstream.get_last_msg(streams.EVENTS, subject)
                    if (last.headers or {}).get("Nats-Msg-Id") == headers["Nats-Msg-Id"]:
                        return int(last.seq or 0), True
            raise Conflict(str(error.description)) from error

    async def _compare(self, seq: int, subject: str, payload: bytes) -> None:
        found = await self._jetstream.get_msg(streams.EVENTS, seq)
        if (found.subject, found.data or b"") != (subject, payload):
            raise Reused(f"it is the message id of event {seq}, {found.subject}")

    async def under(self, message_id: str, identity: str, event: Event) -> int | None:
        """Return the sequence of this event, if it was already appended under a message id.

        Ids are known for JetStream's time for repeated ids, and for ever for the last event of its
        kind. Raise Reused if another event has that id; raise Unavailable.
        """
        subject, payload = records.subject_of(identity, event), records.encode(event)
        try:
            found = await repeats.find(
                self.connection.client, self._jetstream, subject, message_id, timeout=_APPEND_TRY
            )
        except (NatsError, TimeoutError) as error:
            raise Unavailable(f"the log does not answer: {unanswered(error)}") from error
        if found is None:
            return None
        if (found.data or b"") != payload:
            raise Reused(f"it is the message id of event {found.seq}, {subject}")
        return int(found.seq or 0)

    def _refuse_unfit(self) -> None:
        """Raise Unfit if a check has found that nothing may be added."""
        if self._unfit:
            raise Unfit(self._unfit)

    def _too_large(self, messages: Sequence[tuple[str, bytes]]) -> TooLarge:
        subject, body = max(messages, key=lambda message: len(message[1]))
        return TooLarge(
            f"too large for the log: {subject} takes {len(body):,} bytes without its headers, and "
            f"NATS takes messages of {self.connection.max_body:,} bytes and headers of 64 KiB"
        )

    async def check(self) -> None:
        """Check the log without creating it. Raise StreamMismatch, NoLog, Unavailable.

        A log that has lost events, or whose server lacks what Nebula needs, can be read; `append`
        and `append_all` refuse from then on.
        """
        try:
            lost = await streams.check_log(self._jetstream)
        except NotFoundError as error:
            raise NoLog(
                f"there is no log at {self.connection.shown} yet: "
                "start `nebula up`, or a gateway, router or node"
            ) from error
        except (NatsError, TimeoutError) as error:
            raise Unavailable(f"the log does not answer: {unanswered(error)}") from error
        self._unfit = lost or self.connection.lacking
        if self._unfit:
            log.warning("%s", self._unfit)

    async def last_seq(self) -> int:
        """Return the sequence of the newest entry; 0 for an empty log. Raise Unavailable."""
        try:
            return int((await self._jetstream.stream_info(streams.EVENTS)).state.last_seq)
        except (NatsError, TimeoutError) as error:
            raise Unavailable(f"the log does not answer: {unanswered(error)}") from error

    async def read(self, after: int = 0, until: int | None = None) -> list[Record]:
        """Return the records after one sequence, up to and including another [the newest]."""
        return [
            records.read_entry(entry)
            async for batch in self.entries(after, until)
            for entry in batch
        ]

    async def entries(
        self, after: int = 0, until: int | None = None
    ) -> AsyncGenerator[list[Entry], None]:
        """Yield the entries after one sequence, up to and including another, in batches.

        `until` defaults to the newest one now. Raise Unavailable, LogReplaced.
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
        """Yield every record after a sequence, in order and without gaps, for ever, in batches.

        Raise LogReplaced.
        """
        async with contextlib.aclosing(self._follow(after, record_of)) as batches:
            async for batch in batches:
                yield batch

    async def follow_entries(self, after: int = 0) -> AsyncGenerator[list[Entry], None]:
        """Yield every entry after a sequence as it is stored, for ever, in batches.

        Raise LogReplaced.
        """
        async with contextlib.aclosing(self._follow(after, entry_of)) as batches:
            async for batch in batches:
                yield batch

    async def _follow(self, after: int, read: Read[T]) -> AsyncGenerator[list[T], None]:
        """Lost connections, restarted servers and dropped messages are detected and repaired.

        A gap in the consumer's own count, or silence, shows them; then the server is asked again
        for everything after the last yielded entry.
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
        """Return the entry at a sequence; None if there is none. Raise Unavailable."""
        found = [each async for entries in self.entries(seq - 1, seq) for each in entries]
        return found[0] if found else None


def _guard_headers(guard: Guard) -> dict[str, str]:
    return {
        "Nats-Expected-Last-Subject-Sequence": str(guard.seq),
        "Nats-Expected-Last-Subject-Sequence-Subject": guard.subject,
    }
