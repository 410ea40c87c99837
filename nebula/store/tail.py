"""Follows the log after one sequence, in order and without gaps, whatever goes wrong."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Generic, TypeAlias, TypeVar

from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from nebula.events.record import parse_headers
from nebula.store import streams
from nebula.store.connection import Connection

log = logging.getLogger(__name__)
T = TypeVar("T")

_Message: TypeAlias = tuple[bytes, bytes, bytes, bytes]
"""A message that arrived: its subject, its reply subject, its header block, its body."""

Read: TypeAlias = Callable[[int, int, str, bytes, bytes], T]
"""Returns what a reader wants of a message: of its sequence, its time in nanoseconds, its subject,
its header block and its body."""

HEARTBEAT = 2.0
"""Seconds of silence after which the server-side consumer sends a sign of life."""

_TRY = 2.0  # seconds to wait for the server
_PAUSE = 0.25  # seconds until it is asked again


class LogReplaced(Exception):
    """The log is not the log that was read before: it ends earlier, or was created again."""


class Tail(Generic[T]):
    """One reader's position in the log, and the ephemeral consumer that feeds it."""

    def __init__(self, connection: Connection, after: int, read: Read[T]) -> None:
        self._connection = connection
        self._seq = after
        self._read = read
        self._created: datetime | None = None
        self._delivered = 0
        self._inbox: deque[_Message] = deque()
        self._arrived = asyncio.Event()
        self._stale = True
        self._subscription: Subscription | None = None
        connection.on_reconnect(self._mark_stale)

    async def close(self) -> None:
        """End the consumer's subscription."""
        self._connection.forget(self._mark_stale)
        await self._unsubscribe()

    async def next(self) -> list[T]:
        """Return what has arrived, perhaps nothing, after at most one heartbeat interval.

        Raise LogReplaced.
        """
        if self._stale:
            await self._restart()
        if not self._inbox:
            self._arrived.clear()
            try:
                async with asyncio.timeout(2.5 * HEARTBEAT):
                    await self._arrived.wait()
            except TimeoutError:
                self._stale = True
                return []
        batch: list[T] = []
        while self._inbox and not self._stale:
            message = self._inbox.popleft()
            if message[1].startswith(b"$JS.ACK."):
                entry = self._take(message)
                if entry is not None:
                    batch.append(entry)
            else:
                await self._control(message)
        return batch

    def _take(self, message: _Message) -> T | None:
        # $JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<deliveries>.<stream sequence>.
        # <consumer sequence>.<time>.<pending>[.<random>], as of NATS's ADR-15.
        subject, reply, headers, body = message
        tokens = reply.split(b".")
        at = 7 if len(tokens) > 9 else 5
        seq, delivered, time = int(tokens[at]), int(tokens[at + 1]), int(tokens[at + 2])
        if delivered != self._delivered + 1:
            self._stale = True
            return None
        self._delivered = delivered
        if seq <= self._seq:
            return None
        self._seq = seq
        return self._read(seq, time, subject.decode("utf-8", "replace"), headers, body)

    async def _control(self, message: _Message) -> None:
        _, reply, block, _ = message
        if reply:
            # Flow control: answering only here, after everything before it was taken, bounds how
            # much the server sends ahead.
            await self._connection.client.publish(reply.decode("utf-8", "replace"))
            return
        headers = parse_headers(block)
        stalled = headers.get("Nats-Consumer-Stalled")
        if stalled:
            await self._connection.client.publish(stalled)
        if int(headers.get("Nats-Last-Consumer", "0")) > self._delivered:
            self._stale = True

    def _arrive(self, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> None:
        if not self._inbox:  # the reader waits only while it is empty
            self._arrived.set()
        self._inbox.append((subject, reply, headers, body))

    async def _mark_stale(self) -> None:
        self._stale = True
        self._arrived.set()

    async def _unsubscribe(self) -> None:
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            try:
                await subscription.unsubscribe()
            except NatsError:
                log.debug("the old consumer's subscription was gone already")

    async def _restart(self) -> None:
        """Ask the server for everything after the last taken entry, until it succeeds."""
        while True:
            await self._unsubscribe()
            self._inbox.clear()
            self._delivered = 0
            self._stale = False
            client = self._connection.client
            try:
                inbox = client.new_inbox()
                self._subscription = await client.listen_for_deliveries(inbox, self._arrive)
                jetstream = client.jetstream(timeout=_TRY)
                info = await jetstream.stream_info(streams.EVENTS)
                newest = int(info.state.last_seq)
                if newest < self._seq:
                    raise LogReplaced(f"the log ends at {newest}, but {self._seq} was read from it")
                if self._created not in (None, info.created):
                    raise LogReplaced(
                        f"the log was created again, after {self._seq} was read from it"
                    )
                self._created = info.created
                await jetstream.add_consumer(
                    streams.EVENTS,
                    ConsumerConfig(
                        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                        opt_start_seq=self._seq + 1,
                        ack_policy=AckPolicy.NONE,
                        max_deliver=1,
                        deliver_subject=inbox,
                        flow_control=True,
                        idle_heartbeat=HEARTBEAT,
                        inactive_threshold=60,
                        mem_storage=True,
                        num_replicas=1,
                    ),
                )
                return
            except NotFoundError as error:
                if self._seq:
                    raise LogReplaced("the log's stream is gone") from error
                await asyncio.sleep(_PAUSE)
            except (NatsError, TimeoutError, OSError) as error:
                log.debug("can't follow the log yet: %r", error)
                await asyncio.sleep(_PAUSE)
