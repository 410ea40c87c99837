"""The router: it appends the cluster's decisions and sends every request to a ready replica.

Any number of routers run side by side: requests are shared out by NATS, and of two that decide at
once the log lets one win.
"""

import asyncio
import logging

import msgspec
from msgspec import Struct
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from nebula.actors import routing
from nebula.actors.actor import Actor
from nebula.actors.placement import Decision, decide
from nebula.events import inference, subjects
from nebula.events.inference import (
    Finished,
    Piece,
    ReplicaStatus,
    Request,
    Routed,
    RoutedCandidate,
)
from nebula.events.state import State
from nebula.events.vocabulary import EventRejected
from nebula.store.connection import Connection, Unavailable
from nebula.store.log import Conflict, Guard

log = logging.getLogger(__name__)

SILENCE = 8.0
"""Seconds without a heartbeat after which a replica counts as silent: four are missing then."""


class _Load(Struct):
    """What this router knows of one replica's load beyond the log."""

    pid: int = 0
    heard: float = 0.0
    sent: dict[str, float] = {}


class Router(Actor):
    """See the module."""

    def __init__(self, connection: Connection, *, stream_replicas: int = 1) -> None:
        super().__init__(connection, stream_replicas=stream_replicas)
        self._loads: dict[str, _Load] = {}
        self._turn = 0

    async def begin(self) -> None:
        """Listen for requests, their ends, and heartbeats."""
        client = self.connection.client
        await client.subscribe(subjects.REQUESTS, queue="routers", cb=self._on_request)
        await client.subscribe(subjects.FINISHED, cb=self._on_finished)
        await client.subscribe(subjects.REPLICA_STATUS, cb=self._on_status)

    async def work(self) -> None:
        """Append what the state calls for, whenever it has changed."""
        while True:
            state = self.projection.state
            due = decide(state)
            for decision in due:
                await self._append(state, decision)
            if not due:
                self._forget_gone()
                await self.projection.changed()

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

    async def _on_request(self, message: Msg) -> None:
        model_id = message.subject.rpartition(".")[2]
        request = inference.read_request(model_id, message.headers, message.data)
        if request is None:
            return
        candidates = self._candidates(request)
        self._turn += 1
        replica = routing.choose(candidates, self._turn)
        client = self.connection.client
        try:
            if replica is None:
                refusal = Piece(0, status=503, end=True, failure=inference.NO_REPLICA)
                await client.publish(
                    subjects.responses(request.gateway, request.id),
                    headers=inference.piece_headers(refusal),
                )
                return
            await client.publish(
                subjects.replica_requests(model_id, replica),
                message.data,
                headers={**(message.headers or {}), inference.ROUTED: self._reason(candidates)},
            )
        except (NatsError, ValueError) as error:
            log.warning("request %s could not be sent on: %r", request.id, error)
            return
        load = self._loads.setdefault(replica, _Load())
        load.sent[request.id] = asyncio.get_running_loop().time()

    def _candidates(self, request: Request) -> list[routing.Candidate]:
        state = self.projection.state
        model = state.models.get(request.model)
        if model is None:
            return []
        now = asyncio.get_running_loop().time()
        candidates = []
        for replica in routing.able(state, model, request.adapter):
            load = self._loads.setdefault(replica.id, _Load(heard=now))
            if replica.engine is not None and load.pid != replica.engine.pid:
                # Another engine than the one we sent to: what that one had is no load of this.
                load.pid, load.heard = replica.engine.pid, now
                load.sent.clear()
            candidates.append(
                routing.Candidate(replica.id, len(load.sent), now - load.heard > SILENCE)
            )
        return candidates

    def _reason(self, candidates: list[routing.Candidate]) -> str:
        """Say for `nebula why request` among whom was chosen."""
        seen = tuple(
            RoutedCandidate(each.replica, each.in_flight, each.silent) for each in candidates[:16]
        )
        return inference.routed_header(Routed(self.log.actor, self.projection.state.seq, seen))

    async def _on_finished(self, message: Msg) -> None:
        try:
            finished = msgspec.json.decode(message.data, type=Finished)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        load = self._loads.get(finished.replica)
        if load is not None:
            load.sent.pop(finished.request, None)

    async def _on_status(self, message: Msg) -> None:
        try:
            status = msgspec.json.decode(message.data, type=ReplicaStatus)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        load = self._loads.get(status.replica)
        if load is None:
            return
        load.heard = now = asyncio.get_running_loop().time()
        if status.running == 0:
            # Ends of requests that were lost on the way must not weigh on a replica for ever.
            load.sent = {key: sent for key, sent in load.sent.items() if now - sent < 2}

    def _forget_gone(self) -> None:
        for replica in [
            known for known in self._loads if known not in self.projection.state.replicas
        ]:
            del self._loads[replica]
