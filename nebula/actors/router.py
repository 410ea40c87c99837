"""The router: it appends the cluster's decisions and sends every request to a ready replica.

Any number of routers run side by side: requests are shared out by NATS, and of two that decide at
once the log lets one win.
"""

import asyncio
import contextlib
import logging
import time
import uuid

import msgspec
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import FlushTimeoutError

from nebula.actors.actor import Actor
from nebula.actors.dispatch import Dispatch
from nebula.actors.placement import Decider, Decision
from nebula.events import subjects
from nebula.events.state import State
from nebula.events.vocabulary import EventRejected
from nebula.store.connection import Connection, Unavailable
from nebula.store.log import Conflict, Guard

log = logging.getLogger(__name__)

HEARTBEAT = 1.0
TICK = 0.1


class Router(Actor):
    """See the module."""

    def __init__(self, connection: Connection, *, stream_replicas: int = 1) -> None:
        super().__init__(connection, stream_replicas=stream_replicas)
        self.id = f"router-{uuid.uuid4().hex[:8]}"
        self._dispatch = Dispatch(
            self.id, self._post, lambda: self.projection.state, time.monotonic, time.time_ns
        )
        self._requests: Subscription | None = None

    async def begin(self) -> None:
        """Listen for requests, their ends, and heartbeats."""
        client, dispatch = self.connection.client, self._dispatch
        await client.listen(subjects.FINISHED, dispatch.on_finished)
        await client.listen(subjects.REPLICA_STATUS, dispatch.on_status)
        await client.listen(subjects.CANCELS, dispatch.on_cancel)
        self._requests = await client.listen(subjects.REQUESTS, dispatch.on_request, "routers")
        self.spawn(self._tick(), "send what waits")

    async def work(self) -> None:
        """Append what the state calls for, whenever it has changed."""
        decider = Decider()
        while True:
            state = self.projection.state
            self._dispatch.react()
            due = decider.decide(state)
            for decision in due:
                await self._append(state, decision)
            if not due:
                await self.projection.changed()

    async def end(self) -> None:
        """Take no more requests, and give those that wait here to the other routers."""
        if self._requests is None or not self.connection.connected:
            return
        try:
            await self._requests.unsubscribe()
            with contextlib.suppress(FlushTimeoutError):
                await self.connection.client.flush(2)  # what was on its way here has come then
            self._dispatch.hand_over()
        except NatsError as error:
            log.warning("requests that waited could not be handed over: %r", error)

    async def _tick(self) -> None:
        beats = 0.0
        while True:
            self._dispatch.react()
            now = time.monotonic()
            if now >= beats and self.connection.connected:
                beats = now + HEARTBEAT
                status = msgspec.json.encode(self._dispatch.status())
                self._post(subjects.router_status(self.id), b"", status)
            await asyncio.sleep(TICK)

    def _post(self, subject: str, header: bytes, body: bytes) -> None:
        try:
            self.connection.client.post(subject, header, body)
        except (NatsError, UnicodeEncodeError) as error:
            log.warning("could not publish to %s: %r", subject, error)

    async def _append(self, state: State, decision: Decision) -> None:
        if isinstance(decision.event, EventRejected):
            # Guarded by its message id: whatever hands may write about the same sequence, the
            # answer of several routers is stored once.
            guard, message_id = None, f"rejected-{decision.id}"
        else:
            guard, message_id = Guard(subjects.MODEL_EVENTS, state.models_seq), None
        try:
            seq = await self.log.append(
                decision.id,
                decision.event,
                guard=guard,
                cause=decision.cause,
                basis=state.seq,
                message_id=message_id,
            )
        except Conflict:
            # Somebody was first. What they wrote is on its way to us, and then we decide again.
            await self.projection.until(lambda now: now.seq > state.seq, timeout=1)
        except Unavailable as error:
            log.warning("can't append %s: %s", type(decision.event).__name__, error)
        else:
            log.info("%s %s", type(decision.event).__name__, decision.id)
            await self.projection.reached(max(seq, state.seq + 1), timeout=1)
