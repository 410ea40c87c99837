"""The gateway's shell: hands events to its requests in flight, and carries out the effects.

The effects are decided in `core`. The gateway does not know HTTP: `nebula.http` decides what a
client is told about a failure.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable

from msgspec.structs import replace
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError

from nebula.actors import ear
from nebula.actors.actor import Actor
from nebula.actors.ear import Ear
from nebula.actors.gateway.admission import Admission
from nebula.actors.gateway.allowance import settle
from nebula.actors.gateway.arrivals import Arrivals
from nebula.actors.gateway.budget import ANSWERS, REQUESTS, UNCOUNTED, Budget, Hold, Unread
from nebula.actors.gateway.capturing import Capturing
from nebula.actors.gateway.core import IDLE, RequestsInFlight
from nebula.actors.gateway.delivery import NOT_RECORDED, Delivery, GivenAgain, new_id
from nebula.actors.gateway.engine_questions import EngineQuestions
from nebula.actors.gateway.figures import GatewayFigures
from nebula.actors.gateway.heartbeats import Heartbeats, Link
from nebula.actors.gateway.in_flight import (
    Cancel,
    ClientLeft,
    ClientTooSlow,
    Deliver,
    Effect,
    Event,
    Forget,
    GatewayStops,
    InFlightRequest,
    LetGo,
    LookedUp,
    LookUp,
    NotSent,
    PieceArrived,
    Reconnected,
    Send,
    Stuck,
    Surroundings,
    Ticked,
)
from nebula.actors.gateway.large_bodies import LargeBodies
from nebula.actors.gateway.lease_reporting import LeaseReporting
from nebula.actors.gateway.limiting import Limiting
from nebula.actors.gateway.log_watch import LogWatch
from nebula.actors.gateway.look_ups import LookUps
from nebula.actors.gateway.not_served import AlreadyInFlight, NotServed
from nebula.actors.gateway.overseeing import Overseeing
from nebula.actors.gateway.probing import Probed
from nebula.actors.gateway.reacting import elsewhere
from nebula.actors.gateway.sending import Sending
from nebula.actors.gateway.shares import Shares
from nebula.actors.gateway.timeouts import TICK
from nebula.actors.gateway.usage_recording import UsageRecorder
from nebula.actors.gateway.usage_roll_up import UsageRollUp
from nebula.actors.telling_metrics import MetricsTeller
from nebula.events import piece_envelope, subjects
from nebula.events.failures import Failure, words
from nebula.events.inference import ALL_ATTEMPTS, Piece, Request, StillWanted
from nebula.events.log_fields import request_fields
from nebula.events.state import NameBinding
from nebula.store.connection import Connection
from nebula.store.ledger import LedgerStore

log = logging.getLogger(__name__)

SHORT_LOSS = 1.0
"""Seconds after a loss of NATS for which a new request waits, before it is refused."""


class Gateway(Actor):
    """One gateway: its requests in flight, the clients that wait for them, and what it hears."""

    def __init__(
        self,
        connection: Connection,
        identity: str,
        *,
        stream_replicas: int = 1,
        request_memory: int = REQUESTS,
        answer_memory: int = ANSWERS,
    ) -> None:
        """`request_memory`: bytes of requests' bodies; `answer_memory`: of answers not read yet."""
        super().__init__(connection, stream_replicas=stream_replicas)
        self.id = identity
        self.started = False
        self.begun = asyncio.Event()
        self.given_again: set[GivenAgain] = set()
        self.leaving = asyncio.Event()
        self._now: Callable[[], float] = lambda: asyncio.get_running_loop().time()
        self.heartbeats = Heartbeats(lambda: self._now())
        self._admission = Admission()
        around = Surroundings(self.projection.state, self.heartbeats, self._admission)
        self.core = RequestsInFlight(around, new_id)
        self._deliveries: dict[str, Delivery] = {}
        self.large_bodies = LargeBodies(connection, identity, self.core.gives)
        self._questions = EngineQuestions(connection, identity, self._unwanted)
        self._overseeing = Overseeing(connection, identity, self.core, self._happens)
        self.sending = Sending(connection, identity, self.heartbeats, self.large_bodies)
        self.leasing = LeaseReporting(identity, around, lambda: self._now(), self.sending.post)
        self.claims_stream = Probed()
        self.claim_shares = Shares()
        self._ear = Ear(connection, lambda: self.projection.state, ear.serving, each_router=True)
        self.log_watch = LogWatch(
            connection, self.projection, lambda: self.heartbeats.router_at, self._ear.told
        )
        self.bodies = Budget(request_memory)
        self.unread = Unread(answer_memory)
        self.limiting = Limiting(connection, LedgerStore(connection, stream_replicas))
        self.usage = UsageRecorder(connection, identity, stream_replicas, self.projection)
        self.figures = GatewayFigures(self, self.heartbeats.routers_alive)
        self.capturing = Capturing(connection, stream_replicas, self.projection)
        self._arrivals = Arrivals(self._take)
        self._look_ups = LookUps(connection, identity, lambda: self._now())
        self._connected_at = 0.0
        self._lost_at: float | None = None
        self._back = asyncio.Event()

    async def begin(self) -> None:
        """Listen for answers and heartbeats."""
        self._now = asyncio.get_running_loop().time  # finding the loop costs a system call
        client = self.connection.client
        await self._arrivals.listen(client, self.id)
        await self._questions.listen()
        await self._overseeing.listen()
        await self.large_bodies.listen()
        await MetricsTeller(self.connection, self.figures).listen(subjects.gateway_metrics())
        for beats, arrival in (
            (subjects.REPLICA_STATUS, self.heartbeats.on_replica),
            (subjects.ROUTER_STATUS, self.heartbeats.on_router),
        ):
            await client.listen(beats, self._ear.noting(beats, arrival))
        await client.listen(subjects.STORE_STATUS, self.log_watch.on_store)
        await self.leasing.listen(client)
        self.connection.on_disconnect(self._on_disconnect)
        self.connection.on_reconnect(self._on_reconnect)
        self.spawn(self.limiting.run(), "report what is used of limits")
        self.spawn(self.usage.run(), "record usage")
        self.spawn(UsageRollUp(self.log, self.projection, self.usage.store).run(), "sum usage")
        self.spawn(self.capturing.run(), "capture requests")
        self.spawn(self._tick(), "watch requests")
        self.spawn(self.log_watch.run(), "watch the log")
        self.spawn(self._ear.run(), "listen for living actors")
        self.started = True
        self.begun.set()

    async def end(self) -> None:
        """Return what this gateway holds of limits, so that others need not wait for it."""
        await self.limiting.give_back()

    async def work(self) -> None:
        """Act upon lost engines as soon as the log reports them."""
        while True:
            self._watch()
            await self.projection.changed()

    @property
    def able(self) -> bool:
        """Whether requests can be served: NATS is there and the log has been folded."""
        return self.started and self.connection.connected

    async def reconnected(self) -> None:
        """Wait until NATS is back, if it was lost a moment ago: most losses are that short."""
        until = (self._now() if self._lost_at is None else self._lost_at) + SHORT_LOSS
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                while not self.connection.connected:
                    self._back.clear()
                    await self._back.wait()

    def admit(self) -> None:
        """Admit one more request. Raise NotServed while the cluster is overloaded.

        Call it before a client's request is claimed or sent.
        """
        if self._admission.refuses(self._now()):
            raise NotServed("requests come faster than they can be taken on", 1)

    def ask(
        self, request: Request, binding: NameBinding, *, idle: float = IDLE, usage: str = ""
    ) -> Delivery:
        """Send a request; `usage` as in Delivery. Raise NotServed if it can't be served."""
        self._look_around()
        try:
            send = self.core.begin(request, binding, self._now(), idle=idle)
            flight = self.core.flights[request.id]
            try:
                self.sending.send(send.request, send.router, send.direct)
            except NatsError as error:
                self._happens(flight, NotSent(str(error)))
                raise NotServed(f"NATS refused the request: {error}", 1) from error
        except AlreadyInFlight:
            raise
        except NotServed:
            if request.keep:  # it was claimed: a repeated request need not wait for its answer
                self.sending.drop(request, ALL_ATTEMPTS, Failure.NOT_TAKEN.encode())
            raise
        delivery = self._deliveries[request.id] = Delivery(flight, self.unread, usage)
        return delivery

    def leave(self, delivery: Delivery, hold: Hold | None = None) -> None:
        """End a request whose client is gone, unless it is resumable.

        The bytes that a resumable request holds of the budget (`hold`) stay held.
        """
        delivery.leave()
        flight = delivery.flight
        if flight.done:
            return
        if flight.request.keep and hold is not None:
            delivery.hold = hold.handed_on()
        self._happens(flight, ClientLeft())

    def let_all_go(self) -> None:
        """Tell every waiting client that this gateway ends.

        Resumable requests continue: another gateway can deliver the rest.
        """
        for flight in tuple(self.core.flights.values()):
            self._happens(flight, GatewayStops())
        for resumption in tuple(self.given_again):
            resumption.let_go(elsewhere(resumption.id))

    # What happens, and what is done about it

    def _look_around(self) -> None:
        around = self.core.around
        around.state = self.projection.state
        if around.link.connected != self.connection.connected:
            self._link()

    def _link(self) -> None:
        self.core.around.link = Link(self.connection.connected, self._connected_at, self._lost_at)

    def _happens(self, flight: InFlightRequest, event: Event, now: float | None = None) -> None:
        self._look_around()
        now = self._now() if now is None else now
        self._perform(self.core.happened(flight, event, now))

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Deliver(id=identity, piece=piece):
                    self._deliveries[identity].tell(piece)
                case Forget(id=identity):
                    self.large_bodies.forget(identity)
                    if (delivery := self._deliveries.pop(identity, None)) is not None:
                        self._release(delivery)
                case Send():
                    self._send(effect)
                case Cancel(request=request, below=below, note=note):
                    self.sending.drop(request, below, note)
                case LookUp(id=identity, seconds=seconds):
                    work = self._look_up(self.core.flights[identity], seconds)
                    self.spawn(work, f"look for pieces of {identity}")
                case LetGo(id=identity, piece=piece):
                    self._deliveries[identity].let_go(piece)

    def _release(self, delivery: Delivery) -> None:
        if delivery.hold is not None:
            delivery.hold.release()
        answer, recorded = delivery.flight.answer, delivery.usage != NOT_RECORDED
        record = self.usage.ended(answer, delivery.usage) if recorded else None
        if delivery.reserved:
            used = record if recorded else answer.tokens
            settle(delivery.reserved, 0 if used is None else used.prompt + used.completion)
        self.figures.ended(delivery, record)

    def _send(self, send: Send) -> None:
        flight = self.core.flights[send.id]
        if send.after:
            number, why = send.request.attempt, words(send.after).client
            level = logging.INFO if send.after == Failure.TAKEN_BACK else logging.WARNING
            about = request_fields(send.request)
            log.log(level, "request %s: attempt %d, as %s", send.id, number, why, extra=about)
            self.figures.again(send)
        try:
            self.sending.send(send.request, send.router, send.direct)
        except NatsError as error:
            self._happens(flight, NotSent(str(error), too_large=isinstance(error, MaxPayloadError)))

    async def _look_up(self, flight: InFlightRequest, seconds: float) -> None:
        for said in await self._look_ups.find(flight, seconds):
            self._arrivals.on_piece(said.subject.encode(), said.header, said.body)
        self._happens(flight, LookedUp())

    def _cut(self, delivery: Delivery) -> None:
        """Disconnect a client that reads too slowly; its answer may be complete already."""
        if delivery.flight.done:
            delivery.let_go(Piece(0, end=True, failure=Failure.TOO_SLOW))
        else:
            self._happens(delivery.flight, ClientTooSlow())

    # What comes

    def _take(self, identity: str, head: int | Piece, body: bytes) -> None:
        """Take a piece; `head`: what it is without its body."""
        delivery = self._deliveries.get(identity)
        if delivery is None:
            self._on_other_piece(self.core.flights.get(identity), head, body)
            return
        flight = delivery.flight
        given = piece = None
        now = self._now()
        if isinstance(head, int):
            given = flight.pass_on(head, 1, body, now)
        else:
            piece = replace(head, body=body)
            if piece.end and self.core.take_whole(flight, piece, now):
                self._end_whole(delivery, piece)
                return
            if not (piece.end or piece.failure):
                given = flight.pass_on(piece.chunk, piece.attempt, body, now)
        if given is not None and flight.attached:
            delivery.give(given)
        if given is None or flight.answer.broken is not None:
            around = self.core.around
            if around.link.connected:  # as NATS still says something
                around.state = self.projection.state
            else:
                self._look_around()
            arrived = PieceArrived(piece or piece_envelope.with_body(head, body))
            self._perform(self.core.happened(flight, arrived, now))
        if delivery.size > UNCOUNTED:
            self._cut_slow(delivery, now)

    def _end_whole(self, delivery: Delivery, piece: Piece) -> None:
        """Hand on an answer that has come as one piece."""
        delivery.told = piece.status, ""
        self.large_bodies.forget(delivery.id)
        del self._deliveries[delivery.id]
        self._release(delivery)  # before its client is told what is left of limits
        delivery.give(piece)
        if delivery.size > UNCOUNTED:
            self._cut_slow(delivery, self._now())

    def _cut_slow(self, delivery: Delivery, now: float) -> None:
        """Let clients go where more waits for this one, or for all, than may."""
        if delivery.too_slow(now) and not delivery.flight.done:
            self._cut(delivery)
        while isinstance(slowest := self.unread.slowest(), Delivery):
            self._cut(slowest)

    def _on_other_piece(
        self, flight: InFlightRequest | None, head: int | Piece, body: bytes
    ) -> None:
        """Handle a piece of one of this gateway's requests that has no client."""
        if flight is not None:
            self._happens(flight, PieceArrived(piece_envelope.with_body(head, body)))

    def _unwanted(self, asking: StillWanted) -> dict[str, int]:
        """Return which of an engine's requests are no longer wanted."""
        self._look_around()
        unwanted, effects = self.core.still_wanted(asking, self._now())
        self._perform(effects)
        return unwanted

    async def _on_disconnect(self) -> None:
        if self._lost_at is None:
            self._lost_at = self._now()
        self._link()

    async def _on_reconnect(self) -> None:
        self._lost_at, self._connected_at = None, self._now()
        self._back.set()
        self._link()
        self.heartbeats.restart()
        self.log_watch.restart()
        for flight in tuple(self.core.flights.values()):
            self._happens(flight, Reconnected())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self._watch()
            self.leasing.report()

    def _watch(self) -> None:
        self._look_around()
        now = self._now()
        for flight in tuple(self.core.flights.values()):
            try:
                self._perform(self.core.happened(flight, Ticked(), now))
            except Exception:
                about = request_fields(flight.request)
                log.exception("request %s can't be watched", flight.id, extra=about)
                self._happens(flight, Stuck())
        self.heartbeats.forget(self.projection.state)
