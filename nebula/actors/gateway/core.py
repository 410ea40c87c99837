"""The requests that one gateway has in flight, and what they do to each other. Pure.

`in_flight` explains a single request. Two things concern several: an engine asks at once about all
its requests of a gateway, and a request may need a text from an engine (`AskText`), which becomes a
second request in flight whose answer is for the first.
"""

from collections.abc import Callable, Iterable

from msgspec.structs import replace

from nebula.actors.attribution import is_inbox, is_inbox_of_engine
from nebula.actors.gateway import reacting
from nebula.actors.gateway.in_flight import (
    AskText,
    Deliver,
    Effect,
    EngineAsks,
    Event,
    InFlightRequest,
    Phase,
    Send,
    Surroundings,
    TextTold,
)
from nebula.actors.gateway.not_served import AlreadyInFlight, NotServed
from nebula.actors.router import routing
from nebula.events.inference import ALL_ATTEMPTS, Piece, Request, StillWanted
from nebula.events.state import NameBinding, State

IDLE = 600.0
"""Default seconds that an engine may be silent within an answer."""

_DONE = Phase.DONE


class RequestsInFlight:
    """The requests by id.

    `new_id` returns ids for the requests that they send themselves. The shell keeps `around` up to
    date, and carries out the effects that each method returns, in order; `AskText` is handled here.
    Times are seconds of one monotonic clock.
    """

    def __init__(self, around: Surroundings, new_id: Callable[[], str]) -> None:
        self.around = around
        self.flights: dict[str, InFlightRequest] = {}
        self._new_id = new_id
        self._told: dict[str, bytes] = {}
        self._served_in: State | None = None
        self._served: set[tuple[str, str]] = set()

    def begin(
        self,
        request: Request,
        binding: NameBinding,
        now: float,
        *,
        idle: float = IDLE,
        asked_by: str = "",
    ) -> Send:
        """Put a request in flight; return how it is sent. Raise NotServed if it can't be served."""
        if not self.around.link.connected:
            raise NotServed("NATS can't be reached", 1)
        state = self.around.state
        if state is not self._served_in:
            self._served_in, self._served = state, set()
        wanted = binding.model, binding.adapter
        if wanted not in self._served:
            model = state.models.get(binding.model)
            if model is not None and routing.served(state, model, binding.adapter):
                self._served.add(wanted)
            elif (reason := routing.hopeless(state, binding)) is not None:
                raise NotServed(reason, None)
        if request.id in self.flights:
            raise AlreadyInFlight
        flight, send = reacting.begin(request, binding, idle, now, self.around, asked_by=asked_by)
        self.flights[request.id] = flight
        return send

    def happened(self, flight: InFlightRequest, event: Event, now: float) -> list[Effect]:
        """Hand an event to a request; return the effects, those on other requests included."""
        effects = reacting.step(flight, event, now, self.around)
        if flight.asked_by:
            effects = self._kept_back(flight, effects)
        if flight.phase is _DONE and effects:
            del self.flights[flight.id]
            if flight.asked_by:
                effects += self._answer(flight, now)
        elif effects and isinstance(effects[-1], AskText):
            effects += self._ask(flight, effects.pop(), now)
        return effects

    def take_whole(self, flight: InFlightRequest, piece: Piece, now: float) -> bool:
        """Fold an answer that comes as one piece, and so ends its request, which is forgotten.

        Return False if `happened` must have the piece.
        """
        whole = reacting.take_whole(flight, piece, now, self.around)
        if whole:
            del self.flights[flight.id]
        return whole

    def still_wanted(self, asking: StillWanted, now: float) -> tuple[dict[str, int], list[Effect]]:
        """Return which of an engine's requests are unwanted (`Unwanted`), and the effects."""
        unwanted: dict[str, int] = {}
        effects: list[Effect] = []
        for identity, under_way in asking.requests.items():
            flight = self.flights.get(identity)
            if flight is None:
                unwanted[identity] = ALL_ATTEMPTS
            elif under_way.attempt < flight.answer.attempt:
                unwanted[identity] = flight.answer.attempt
            else:
                asks = EngineAsks(asking.replica, under_way.attempt, under_way.chunks)
                effects += self.happened(flight, asks, now)
        return unwanted, effects

    def gives(self, identity: str, reply: str) -> bool:
        """Return whether a request's body may go to this inbox: of an engine that it went to."""
        flight = self.flights.get(identity)
        if flight is None:
            return is_inbox(reply)
        return is_inbox_of_engine(reply, flight.answer.request.model, flight.answer.replica)

    def _kept_back(self, asking: InFlightRequest, effects: Iterable[Effect]) -> list[Effect]:
        """Keep the pieces that are for another request; return the other effects."""
        rest: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Deliver):
                self._told[asking.id] = self._told.get(asking.id, b"") + effect.piece.body
            else:
                rest.append(effect)
        return rest

    def _ask(self, flight: InFlightRequest, asks: Effect, now: float) -> list[Effect]:
        """Put the request for a text in flight."""
        assert isinstance(asks, AskText)
        asking = replace(asks.request, id=self._new_id())
        try:
            return [self.begin(asking, asks.binding, now, asked_by=flight.id)]
        except NotServed:
            return self.happened(flight, TextTold(b""), now)

    def _answer(self, asking: InFlightRequest, now: float) -> list[Effect]:
        """Deliver the text to the request that asked for it, unless that request has ended."""
        told = self._told.pop(asking.id, b"")
        flight = self.flights.get(asking.asked_by)
        return [] if flight is None else self.happened(flight, TextTold(told), now)
