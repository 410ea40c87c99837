"""The router: it appends the cluster's decisions and sends every request to a ready replica.

Any number of routers run side by side: gateways spread requests among the routers that they hear,
NATS does so if they hear none, and if two decide at once, the log lets one win.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable

import msgspec
from msgspec.structs import replace
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import FlushTimeoutError

from nebula.actors import ear
from nebula.actors.actor import Actor
from nebula.actors.attribution import is_inbox
from nebula.actors.ear import Ear
from nebula.actors.placement.decision import Decision
from nebula.actors.router.backlog import Backlog
from nebula.actors.router.demand_recording import DemandRecorder
from nebula.actors.router.dispatch import Dispatch, Post
from nebula.actors.router.figures import RouterFigures
from nebula.actors.router.guards import Guards
from nebula.actors.router.last_heartbeats import EVERY, last_heartbeats
from nebula.actors.router.lines import WAITING_MEMORY, positions
from nebula.actors.router.loss import LOST_AFTER
from nebula.actors.router.loss_watch import LossWatch
from nebula.actors.router.observer import Observer
from nebula.actors.router.pending_decisions import PendingDecisions
from nebula.actors.telling_metrics import MetricsTeller
from nebula.events import subjects
from nebula.events.log_fields import event_fields
from nebula.events.reading import decoded
from nebula.events.record import Record
from nebula.events.requests_in_flight import InFlightQuestion, InFlightReply
from nebula.events.state import State
from nebula.events.version import VERSION, unnamed
from nebula.store.connection import Connection, Unavailable
from nebula.store.log import Conflict, TooLarge

log = logging.getLogger(__name__)

HEARTBEAT = 1.0
TICK = 0.1
OBSERVE = 1.0
"""Seconds between two looks at what was seen beside the log."""

PATIENCE = 4.0
"""Seconds that the log gets to take a decision before decisions on other aggregates go first."""

FAREWELL = 0.25
"""Seconds for which an ending router still takes requests of gateways that do not know it yet."""


class Router(Actor):
    """The actor of a router: subscribes, sends requests on, and appends decisions."""

    makes_snapshots = True

    def __init__(
        self,
        connection: Connection,
        *,
        stream_replicas: int = 1,
        lost_after: float = LOST_AFTER,
        waiting_memory: int = WAITING_MEMORY,
        posting: Callable[[Post, Actor], Post] = lambda post, _: post,
    ) -> None:
        """`lost_after`: seconds of silence after which a node is lost; 0: never.

        `waiting_memory`: bytes of requests that may wait here. `posting`: returns what publishes
        the messages about requests.
        """
        super().__init__(connection, stream_replicas=stream_replicas)
        self.id = f"router-{uuid.uuid4().hex[:8]}"
        self._observer = Observer(self.id, time.monotonic)
        self._dispatch = Dispatch(
            self.id,
            posting(self._post, self),
            lambda: self.projection.state,
            time.monotonic,
            time.time_ns,
            waiting_memory,
            self._observer.others,
        )
        self._deciding = PendingDecisions(self._observer, self._dispatch.loads, lost_after)
        self._backlog = Backlog(time.monotonic)
        self.figures = RouterFigures(self, self._dispatch)
        self._ear = Ear(
            connection,
            lambda: self.projection.state,
            lambda state: [*ear.living(state), *ear.serving(state)],
            each_router=True,
            any_router=False,
            own=subjects.router_status(self.id),
        )
        demand = self._dispatch.counts.demand
        self._demand = DemandRecorder(connection, self.id, stream_replicas, demand)
        self._look = asyncio.Event()
        self._requests: tuple[Subscription, ...] = ()

    @property
    def title(self) -> str:
        """The name that its log lines begin with."""
        return f"router {self.id}"

    async def begin(self) -> None:
        """Subscribe to requests, their ends, and heartbeats."""
        client, dispatch = self.connection.client, self._dispatch
        await client.listen(subjects.FINISHED, dispatch.on_finished)
        await client.listen(subjects.CANCELS, dispatch.on_cancel)
        await client.listen(subjects.leases_asked("*", self.id), dispatch.on_leases_asked)
        await client.listen(subjects.LEASES_RECALLED, dispatch.on_leases_recalled)
        await client.listen(subjects.CACHES, dispatch.on_cache)
        for beats, arrival in (
            (subjects.REPLICA_STATUS, dispatch.on_status),
            (subjects.NODE_STATUS, self._observer.on_node),
            (subjects.ROUTER_STATUS, self._observer.on_router),
        ):
            await client.listen(beats, self._ear.noting(beats, arrival))
        await client.subscribe(subjects.IN_FLIGHT, cb=self._on_question)
        self.connection.on_reconnect(self._on_reconnect)
        self.projection.listen(self._on_record)
        self._observer.restart()
        own = subjects.router_requests("*", self.id)
        self._requests = (
            await client.listen(subjects.REQUESTS, dispatch.on_request, "routers"),
            await client.listen(own, dispatch.on_request),
        )
        dispatch.addressed = True
        teller = MetricsTeller(self.connection, self.figures)
        await teller.listen(subjects.router_metrics(self.id))
        self.spawn(self._tick(), "send what waits")
        self.spawn(self._look_at_stored(), "look at stored heartbeats")
        self.spawn(self._ear.run(), "listen for living actors")
        self.spawn(self._demand.run(), "record what was refused and waited")
        watch = LossWatch(lambda: self.projection.state, self._looks_at_losses, self._append_all)
        self.spawn(watch.run(), "look which nodes could not be lost")

    def _looks_at_losses(self, state: State) -> bool:
        chosen = self.connection.connected and self._observer.first
        return chosen and self._deciding.quiet(state)

    async def _on_question(self, message: Msg) -> None:
        """Tell the places of the requests that wait here."""
        question = decoded(message.data, InFlightQuestion)
        if question is not None and is_inbox(message.reply):
            told = positions(self._dispatch.lines, question.model, question.limit)
            reply = InFlightReply(router=self.id, positions=told)
            self._post(message.reply, b"", msgspec.json.encode(reply))

    def _on_record(self, record: Record) -> None:
        # Most reports name their node, and need no state to be made for this.
        if record.node or unnamed(self.projection.state, record) is None:
            self._observer.on_record(record)

    async def work(self) -> None:
        """Append the decisions that are due whenever the state or what was seen has changed."""
        while True:
            self._look.clear()
            state = self.projection.state
            self._dispatch.react()
            due = self._deciding.due(state, connected=self.connection.connected)
            due = self._backlog.next(due)
            if due:
                await self._append_all(state, due)
            else:
                await self._change()

    async def _change(self) -> None:
        """Wait until another event is folded, or until the next look is due."""
        changed = asyncio.ensure_future(self.projection.changed())
        looking = asyncio.ensure_future(self._look.wait())
        try:
            await asyncio.wait((changed, looking), return_when=asyncio.FIRST_COMPLETED)
            if changed.done():
                changed.result()
        finally:
            changed.cancel()
            looking.cancel()

    async def end(self) -> None:
        """Stop taking requests, and pass the queued ones on to the other routers."""
        if not self._requests or not self.connection.connected:
            return
        shared, own = self._requests
        try:
            await shared.unsubscribe()
            self._dispatch.addressed = False
            self._beat()
            await asyncio.sleep(FAREWELL)
            await own.unsubscribe()
            with contextlib.suppress(FlushTimeoutError):
                await self.connection.client.flush(
                    2
                )  # by then, requests that were on their way have arrived
            self._dispatch.hand_over()
            await self._demand.end()
        except NatsError as error:
            log.warning("requests that waited could not be handed over: %r", error)

    async def _on_reconnect(self) -> None:
        self._observer.restart()

    async def _tick(self) -> None:
        beats = looks = 0.0
        while True:
            self._dispatch.react()
            now = time.monotonic()
            if self._dispatch.called() or now >= looks:
                looks = now + OBSERVE
                self._deciding.look()
                self._look.set()
            if now >= beats and self.connection.connected:
                beats = now + HEARTBEAT
                self._beat()
            await asyncio.sleep(TICK)

    def _beat(self) -> None:
        told = self._observer.tell(self.projection.state)
        status = replace(self._dispatch.status(), silent=told, reads=VERSION)
        self._post(subjects.router_status(self.id), b"", msgspec.json.encode(status))

    async def _look_at_stored(self) -> None:
        """Look up stored heartbeats of nodes that this router does not hear itself."""
        first = 0
        while True:
            await asyncio.sleep(EVERY)
            nodes = self._observer.doubtful(self.projection.state)
            if nodes and self.connection.connected:
                first %= len(nodes)
                found = await last_heartbeats(self.connection, nodes, first)
                first += len(found.asked)
                for node, seq in found.seqs.items():
                    self._observer.on_stored(node, seq)

    def _post(self, subject: str, header: bytes, body: bytes) -> None:
        try:
            self.connection.client.post(subject, header, body)
        except (NatsError, UnicodeEncodeError) as error:
            log.warning("could not publish to %s: %r", subject, error)

    async def _append_all(self, state: State, due: tuple[Decision, ...]) -> None:
        """Append decisions that were made together, until another router decides in between."""
        guards = Guards(state)
        newest = state.seq
        for decision in due:
            name = type(decision.event).__name__
            if not guards.hold(decision):
                continue  # another router was first: the next decision starts from what it wrote
            try:
                newest = await self._append(state, decision, guards)
            except Conflict:
                guards.lost(decision)
                newest = max(newest, state.seq + 1)
            except TooLarge as error:
                log.error("%s of %s is given up: %s", name, decision.id, error)
                self._backlog.drop(decision)
            except Unavailable as error:
                log.warning("can't append %s of %s: %s", name, decision.id, error)
                self._backlog.stand_back(decision)
                if not self.connection.connected:
                    break
        if newest > state.seq:
            await self.projection.reached(newest, timeout=1)

    async def _append(self, state: State, decision: Decision, guards: Guards) -> int:
        """Append one decision and return its sequence. Raise Conflict, TooLarge, Unavailable."""
        held = guards.of(decision)
        seq = await self.log.append(
            decision.id,
            decision.event,
            guard=held.guard,
            cause=decision.cause,
            basis=state.seq,
            message_id=held.message_id,
            patience=PATIENCE,
        )
        guards.appended(held, seq)
        self.figures.decided(decision)
        about = event_fields(seq, decision.cause)
        log.info("%s %s", type(decision.event).__name__, decision.id, extra=about)
        return max(seq, state.seq + 1)
