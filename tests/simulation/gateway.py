"""The gateway's process: what becomes of its requests is Nebula's own code, `RequestsInFlight`.

How its effects are carried out is that of nebula/actors/gateway/actor.py: what changes there is to
be changed here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable
from random import Random
from typing import Any, Protocol

import msgspec

from nebula.actors.gateway.admission import Admission
from nebula.actors.gateway.core import RequestsInFlight
from nebula.actors.gateway.heartbeats import Heartbeats, Link
from nebula.actors.gateway.in_flight import (
    Cancel,
    ClientLeft,
    Deliver,
    Effect,
    Event,
    Forget,
    InFlightRequest,
    LetGo,
    LookedUp,
    LookUp,
    NotSent,
    PieceArrived,
    Reconnected,
    Send,
    Surroundings,
    Ticked,
)
from nebula.actors.gateway.lease_reporting import LeaseReporting
from nebula.actors.gateway.leasing import Direct
from nebula.actors.gateway.timeouts import TICK
from nebula.events import envelope, piece_envelope, subjects
from nebula.events.inference import ALL_ATTEMPTS, Piece, Request, StillWanted, Unwanted
from nebula.events.reading import last_token
from nebula.events.state import EMPTY, NameBinding
from tests.simulation import network
from tests.simulation.clock import Process, Signal
from tests.simulation.journal import Follower, Journal
from tests.simulation.machine import Send as Publish


class Client(Protocol):
    """A client that waits for an answer."""

    def take(self, piece: Piece) -> None:
        """Take the next piece of it."""


Kept = Callable[[str, str], Iterable[tuple[bytes, bytes]]]
"""What the data plane's stream holds of the answer to a gateway's request: headers and bodies."""


class Gateway(Process):
    """One life of a gateway, under an id of its own."""

    def __init__(
        self,
        identity: str,
        journal: Journal,
        link: network.Link,
        rng: Random,
        publish: Publish,
        kept: Kept,
        on_direct: Callable[[Gateway, Request, Direct], None],
    ) -> None:
        super().__init__(link.clock)
        self.id = identity
        self.link = link
        self.journal = journal
        self._rng = rng
        self._publish = publish
        self._kept = kept
        self._on_direct = on_direct
        self.heartbeats = Heartbeats(lambda: self.clock.now)
        self.admission = Admission()
        self._asked = 0
        around = Surroundings(EMPTY, self.heartbeats, self.admission)
        self.core = RequestsInFlight(around, self._new_id)
        self.clients: dict[str, Client] = {}
        self.attempts: Counter[str] = Counter()
        self.follower: Follower | None = None
        self.reporting = LeaseReporting(identity, around, lambda: self.clock.now, self._post)
        self.reporting.leases.asks = True
        self.leases = around.leases
        self._connected_at = 0.0
        self._lost_at: float | None = None
        self._wake = Signal(self.clock)
        self.spawn(self._run())

    def _new_id(self) -> str:
        self._asked += 1
        return f"{self.id}-asks-{self._asked}"

    @property
    def serves(self) -> bool:
        """Whether clients reach it, and it knows what there is."""
        return self.alive and self.follower is not None

    def crash(self) -> None:
        """End in the middle of it."""
        super().crash()
        if self.follower is not None:
            self.follower.close()

    def _run(self) -> Generator[Any, Any, None]:
        while not self.link.up:
            yield 0.25
        self.follower = Follower(self.journal, self.link, self._rng)
        self.spawn(self._act(self.follower))
        while True:
            if not self.core.flights and self.leases.idle:
                yield self._wake
            yield TICK
            self._watch()
            self._look_around()
            self.reporting.report()

    def _act(self, follower: Follower) -> Generator[Any, Any, None]:
        """Act upon engines that are gone as soon as the log says so."""
        while True:
            yield follower.changed
            self._watch()

    def ask(self, request: Request, client: Client) -> None:
        """Send a client's request on its way. Raise NotServed."""
        self._look_around()
        send = self.core.begin(request, NameBinding(request.model, request.adapter), self.clock.now)
        self.clients[request.id] = client
        self._perform([send])
        self._wake.fire()

    def leave(self, identity: str) -> None:
        """A client goes away."""
        flight = self.core.flights.get(identity)
        if flight is not None and self.alive:
            self._happens(flight, ClientLeft())

    def _look_around(self) -> None:
        around = self.core.around
        if self.follower is not None:
            around.state = self.follower.state
        around.link = Link(self.link.up, self._connected_at, self._lost_at)

    def _happens(self, flight: InFlightRequest, event: Event) -> None:
        self._look_around()
        self._perform(self.core.happened(flight, event, self.clock.now))

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Deliver(id=identity, piece=piece) | LetGo(id=identity, piece=piece):
                    self.clients[identity].take(piece)
                case Send():
                    self._send(effect)
                case Cancel(request=request, below=below, note=note):
                    body = note if below == ALL_ATTEMPTS else b"%d" % below
                    self._post(subjects.cancel(request.model, request.id), b"", body)
                case LookUp(id=identity, seconds=seconds):
                    self.spawn(self._look_up(self.core.flights[identity], seconds))
                case Forget(id=identity):
                    self.clients.pop(identity, None)

    def _send(self, send: Send) -> None:
        request = send.request
        kind = request.continues or ("again" if request.attempt > 1 else "first")
        self.attempts[kind] += 1
        if not self.link.up:
            self._happens(self.core.flights[send.id], NotSent("NATS is away"))
            return
        direct = send.direct
        if direct is not None:
            self.attempts["direct"] += 1
            self._on_direct(self, request, direct)
            header = envelope.routed_block(
                envelope.request_block(request), direct.plan, direct.routed, direct.version
            )
            subject = subjects.replica_requests(request.model, direct.replica)
            self._post(subject, header, request.body)
            return
        subject = (
            subjects.router_requests(request.model, send.router)
            if send.router
            else subjects.requests(request.model)
        )
        self._post(subject, envelope.request_block(request), request.body)

    def _post(self, subject: str, header: bytes, body: bytes) -> None:
        self._publish(self.link, subject, header, body)

    def _look_up(self, flight: InFlightRequest, seconds: float) -> Generator[Any, Any, None]:
        yield 0.01 + 0.3 * self._rng.random()
        if self.link.up:
            for header, body in self._kept(self.id, flight.id):
                self._take(flight.id, header, body)
        else:
            yield seconds
        self._happens(flight, LookedUp())

    def on_piece(self, subject: bytes, header: bytes, body: bytes) -> None:
        """Hear a piece of an answer."""
        self._take(last_token(subject), header, body)

    def _take(self, identity: str, header: bytes, body: bytes) -> None:
        flight = self.core.flights.get(identity)
        if flight is None:
            return
        piece = piece_envelope.read_answer(header, body)
        if piece is None:
            return
        given = None
        if not (piece.end or piece.failure):
            given = flight.pass_on(piece.chunk, piece.attempt, body, self.clock.now)
        if given is not None and flight.attached:
            self.clients[identity].take(given)
        if given is None or flight.answer.broken is not None:
            self._happens(flight, PieceArrived(piece))

    def on_waiting(self, body: bytes) -> Unwanted:
        """Tell an engine which of its requests are unwanted."""
        self._look_around()
        asking = msgspec.json.decode(body, type=StillWanted)
        unwanted, effects = self.core.still_wanted(asking, self.clock.now)
        self._perform(effects)
        return Unwanted(unwanted)

    def on_disconnect(self) -> None:
        """NATS can't be reached any more."""
        if self._lost_at is None:
            self._lost_at = self.clock.now

    def on_reconnect(self) -> None:
        """NATS is back."""
        self._lost_at, self._connected_at = None, self.clock.now
        self.heartbeats.restart()
        for flight in list(self.core.flights.values()):
            self._happens(flight, Reconnected())

    def _watch(self) -> None:
        for flight in list(self.core.flights.values()):
            self._happens(flight, Ticked())
        if self.follower is not None:
            self.heartbeats.forget(self.follower.state)
