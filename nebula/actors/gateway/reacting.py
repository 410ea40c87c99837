"""Handles each event of a request in flight; `in_flight` has the theory. Pure."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from nebula.actors.gateway import timeouts
from nebula.actors.gateway.answer import Answer, Broken
from nebula.actors.gateway.in_flight import (
    TABLE,
    Cancel,
    CancelRequested,
    ClientLeft,
    ClientTooSlow,
    Effect,
    EngineAsks,
    Event,
    GatewayStops,
    InFlightRequest,
    LetGo,
    LookedUp,
    LookUp,
    NotSent,
    Phase,
    PieceArrived,
    Reconnected,
    Search,
    Send,
    Stuck,
    Surroundings,
    TextTold,
    Ticked,
)
from nebula.actors.gateway.recovery import Recovery, release, sent
from nebula.actors.gateway.timeouts import Verdict
from nebula.events.failures import Failure, note
from nebula.events.inference import ALL_ATTEMPTS, Piece, Request
from nebula.events.state import NameBinding


def begin(
    request: Request,
    binding: NameBinding,
    idle: float,
    now: float,
    around: Surroundings,
    *,
    asked_by: str = "",
) -> tuple[InFlightRequest, Send]:
    """Return a new request in flight, and how it is sent."""
    flight = InFlightRequest(
        request=request,
        binding=binding,
        answer=Answer(request),
        idle=idle,
        began=now,
        orphaned_at=now,
        waits_since=now,
        deadline=None if request.timeout is None else now + request.timeout,
        asked_by=asked_by,
    )
    around.admission.waiting += 1
    return flight, sent(flight, now, around)


def step(flight: InFlightRequest, event: Event, now: float, around: Surroundings) -> list[Effect]:
    """Hand an event to a request; return the effects, in order."""
    if (flight.phase, type(event)) not in TABLE:
        return []
    happening = _Happening(flight, type(event), now, around)
    _HANDLERS[type(event)](happening, event)
    return happening.effects


_NOT_BEGUN = frozenset((Phase.SENT, Phase.QUEUED, Phase.TAKEN))


def take_whole(flight: InFlightRequest, piece: Piece, now: float, around: Surroundings) -> bool:
    """Fold an answer that comes as one piece; return False for all else, which `step` must have.

    A shorter `step` for nearly all answers that are not streams. The request has ended after it,
    and its client gets the piece.
    """
    if (
        piece.chunk
        or not piece.end
        or piece.failure
        or flight.phase not in _NOT_BEGUN
        or flight.early
        or flight.asked_by
        or not flight.answer.take_whole(piece)
    ):
        return False
    flight.heard_at = flight.first_at = now
    _accept(flight, now, around)
    if flight.direct is not None:
        release(flight, around)
    else:
        around.leases.learn(flight.request, piece.replica)
        if flight.phase is Phase.QUEUED:
            around.leases.waits_no_more(flight.request)
    flight.phase = Phase.DONE
    return True


def _accept(flight: InFlightRequest, now: float, around: Surroundings) -> None:
    """Record that a router or replica has this attempt."""
    if flight.untaken:
        flight.untaken = False
        around.heartbeats.settle(flight.router)
        flight.tried = ()
    if not flight.accepted:
        flight.accepted = True
        around.admission.waiting -= 1
        around.admission.taken(now - flight.sent_at, now)


class _Happening(Recovery):
    """Applies the rules to one event of a request."""

    # What comes

    def on_piece(self, event: PieceArrived) -> None:
        """Fold a piece and those that waited for it, or keep it until the missing ones have come.

        Pieces of other attempts are ignored.
        """
        flight, piece = self.flight, event.piece
        answer = flight.answer
        if piece.attempt != answer.attempt:
            return
        if piece.chunk > answer.pieces and not piece.failure:
            self._early(piece)
            return
        flight.heard_at = self.now
        if flight.untaken or not flight.accepted:
            _accept(flight, self.now, self.around)
        following: Piece | None = piece
        while following is not None:
            given = answer.take(following)
            if given is not None:
                self._deliver(given)
            if answer.broken is not None:
                break
            following = flight.early.take(answer.pieces) if flight.early else None
        if answer.begun and not flight.first_at:
            flight.first_at = self.now
            if flight.direct is None:
                self.around.leases.learn(flight.request, answer.replica)
        if answer.complete:
            self._finish()
        elif answer.broken is not None:
            self._recover(answer.broken)
        elif answer.pieces:
            self._move(Phase.ANSWERING)
        elif answer.replica:
            self._move(Phase.TAKEN)
        elif answer.queued:
            self._move(Phase.QUEUED)

    def _early(self, piece: Piece) -> None:
        if self.flight.early.keep(piece):
            self._look_up(Search.SURELY)
        else:
            self.flight.early.drop()
            self._end(Failure.GAP)

    def on_asked(self, event: EngineAsks) -> None:
        """Handle an engine's report that it has this attempt; it may have sent more pieces.

        An engine has one connection, so its question does not overtake its pieces: what it sent
        before and is not here is not on its way.
        """
        flight = self.flight
        answer = flight.answer
        if event.attempt != answer.attempt or answer.replica not in ("", event.replica):
            return
        flight.asked_at = self.now
        if event.pieces > answer.pieces:
            self._look_up(Search.SURELY)

    def on_reconnected(self, _: Reconnected) -> None:
        """Look up what was missed while NATS was away; restart the time limits of the attempt."""
        flight = self.flight
        if not flight.answer.replica:
            flight.sent_at, flight.lost = self.now, 0  # from the shortest try on
        self._look_up(Search.PERHAPS)

    # What is missing

    def _look_up(self, search: Search) -> None:
        flight, answer = self.flight, self.flight.answer
        if flight.search is Search.NOTHING:
            flight.looked_from = (answer.attempt, answer.pieces, flight.heard_at)
            seconds = timeouts.within(timeouts.LOOK_UP, timeouts.left(flight, self.now))
            self.effects.append(LookUp(flight.id, seconds))
            flight.search = search
        elif search is Search.SURELY:
            flight.search = search

    def on_looked_up(self, _: LookedUp) -> None:
        """Handle the end of a look-up: a piece that was sent and is not stored is lost."""
        flight, answer = self.flight, self.flight.answer
        attempt, pieces, heard_at = flight.looked_from
        surely, flight.search = flight.search is Search.SURELY, Search.NOTHING
        if flight.phase is Phase.DETOKENIZING:
            return
        if attempt != answer.attempt:
            if surely:  # of the attempt that has begun meanwhile
                self._look_up(Search.SURELY)
            return
        if answer.pieces == pieces:
            flight.heard_at = heard_at  # what was read again is not a sign of life
        if not self.around.link.connected:
            return
        if flight.early or (surely and answer.pieces == pieces):
            answer.broken = Broken(Failure.GAP)
            self._recover(answer.broken)

    # What goes wrong

    def on_tick(self, _: Ticked) -> None:
        """Act upon time limits, and upon engines and routers that are gone."""
        flight = self.flight
        match timeouts.check(flight, self.now, self.around):
            case Verdict.WAIT:
                pass
            case Verdict.LOOK_UP:
                self._look_up(Search.SURELY)
            case Verdict.TRY_AGAIN:
                self._try_again()
            case (Verdict.ENGINE_GONE | Verdict.ENGINE_SILENT) as verdict:
                silent = verdict is Verdict.ENGINE_SILENT
                broken = Broken(Failure.ENGINE_FAILED, gone=True, silent=silent)
                flight.answer.broken = broken
                self._recover(broken)
            case Failure.NATS_LOST as failure:
                self._end(failure)
            case failure:
                self._end(Failure(failure), self._seen())

    def on_text(self, event: TextTold) -> None:
        """Continue from the tokens that the client certainly has."""
        answer = self.flight.answer
        answer.settle(event.body)
        assert answer.broken is not None
        self._recover(answer.broken)

    def on_not_sent(self, event: NotSent) -> None:
        """Fail a request that NATS did not take; `NotServed` reports this for a first attempt."""
        if self.flight.request.attempt == 1:
            self._finish()
        elif event.too_large:
            why = "its token ids are more than NATS carries at once"
            self._end(Failure.CANT_CONTINUE, f"{Failure.ENGINE_FAILED}: {why}".encode())
        else:
            self._end(Failure.NATS_LOST, event.why.encode())

    def on_left(self, _: ClientLeft) -> None:
        """End the request wherever it is now, unless it is resumable."""
        flight = self.flight
        flight.attached = False
        if not flight.request.keep:
            self.effects.append(Cancel(flight.id, flight.request, ALL_ATTEMPTS))
            self._finish()

    def on_too_slow(self, _: ClientTooSlow) -> None:
        """Disconnect the client; a resumable request continues without it."""
        flight = self.flight
        last = Piece(0, end=True, failure=Failure.TOO_SLOW)
        self.effects.append(LetGo(flight.id, last))
        flight.attached = False
        if not flight.request.keep:
            why = note(Failure.TOO_SLOW, b"")
            self.effects.append(Cancel(flight.id, flight.request, ALL_ATTEMPTS, why))
            self._finish()

    def on_cancelled(self, event: CancelRequested) -> None:
        """End the request wherever it is now, also if it is resumable.

        Its client does not get the operator's name.
        """
        flight = self.flight
        flight.answer.cancelled_by = event.by
        self._deliver(flight.answer.end(Piece(0, failure=Failure.CANCELLED)))
        why = note(Failure.CANCELLED, event.by.encode())
        self.effects.append(Cancel(flight.id, flight.request, ALL_ATTEMPTS, why))
        self._finish()

    def on_stop(self, _: GatewayStops) -> None:
        """Tell the client that this gateway ends.

        A resumable request continues: another gateway has its answer.
        """
        flight = self.flight
        if flight.request.keep:
            self._deliver(elsewhere(flight.id))
            flight.attached = False
        else:
            self._end(Failure.STOPPING)

    def on_stuck(self, _: Stuck) -> None:
        """Fail a request that can't be watched any more."""
        self._end(Failure.ENGINE_FAILED)


def elsewhere(identity: str) -> Piece:
    """Return the piece that ends an answer here which another gateway can deliver."""
    text = f"GET /v1/streams/{identity} of another gateway gives the rest of this answer"
    return Piece(0, text.encode(), end=True, failure=Failure.STOPPING)


_Handler: TypeAlias = Callable[[_Happening, Any], None]

_HANDLERS: Mapping[type[Event], _Handler] = {
    PieceArrived: _Happening.on_piece,
    LookedUp: _Happening.on_looked_up,
    TextTold: _Happening.on_text,
    NotSent: _Happening.on_not_sent,
    EngineAsks: _Happening.on_asked,
    Reconnected: _Happening.on_reconnected,
    Ticked: _Happening.on_tick,
    ClientLeft: _Happening.on_left,
    ClientTooSlow: _Happening.on_too_slow,
    CancelRequested: _Happening.on_cancelled,
    GatewayStops: _Happening.on_stop,
    Stuck: _Happening.on_stuck,
}
