"""Decides what follows when an attempt breaks off: another attempt, a question, or the end. Pure.

`in_flight` has the theory; `reacting` handles the events that lead here.
"""

from msgspec.structs import replace

from nebula.actors.gateway import timeouts
from nebula.actors.gateway.answer import Broken
from nebula.actors.gateway.fatal import MAX_FATAL, Process, failed, failed_since, speaking
from nebula.actors.gateway.in_flight import (
    AskText,
    Cancel,
    Deliver,
    Effect,
    Event,
    Forget,
    InFlightRequest,
    Phase,
    Search,
    Send,
    Surroundings,
)
from nebula.actors.router import routing
from nebula.events.failures import Failure, note
from nebula.events.inference import ALL_ATTEMPTS, Form, Piece, Request
from nebula.openai.continuation import CantContinue, Continuation, Detokenize, Finish

MAX_ATTEMPTS = 4
"""Attempts after which a request is given up if engines fail after they have begun to answer."""


class Recovery:
    """Decides about a request that has gone wrong, because of one event.

    `effects` collects what is to be done.
    """

    def __init__(
        self, flight: InFlightRequest, event: type[Event], now: float, around: Surroundings
    ) -> None:
        self.flight = flight
        self.now = now
        self.around = around
        self.effects: list[Effect] = []
        self._event = event

    def _move(self, phase: Phase) -> None:
        flight = self.flight
        if phase is not flight.phase and Phase.QUEUED in (phase, flight.phase):
            leases = self.around.leases
            (leases.waits if phase is Phase.QUEUED else leases.waits_no_more)(flight.request)
        flight.move(phase, self._event)

    def _deliver(self, piece: Piece) -> None:
        if self.flight.attached:
            self.effects.append(Deliver(self.flight.id, piece))

    def _settle(self) -> None:
        """Stop counting this attempt at its router, or at the replica that was lent."""
        if self.flight.untaken:
            self.flight.untaken = False
            self.around.heartbeats.settle(self.flight.router)
        release(self.flight, self.around)

    def _try_again(self) -> None:
        """Send a request that was lost on its way to a replica again, through another router."""
        flight, state = self.flight, self.around.state
        queued = flight.answer.queued
        router = queued or flight.router
        if self.around.heartbeats.doubt(router, flight.sent_at):
            flight.tried = (*flight.tried, router)
        if not queued:
            flight.lost += 1
            self._count(failed_since(flight.state, state, flight.request.model))
        if flight.fatal >= MAX_FATAL:
            self._end(Failure.FATAL, b"%d" % flight.fatal)
        else:
            self._again(flight.request)

    def _count(self, processes: frozenset[Process]) -> None:
        """Count an engine that failed without an answer, unless it is known that it has failed.

        The attempt was at one of `processes`.
        """
        flight = self.flight
        if not processes <= flight.failed:
            flight.failed |= processes
            flight.fatal += 1

    def _failed(self, broken: Broken) -> frozenset[Process]:
        """Return the process that has failed with a broken attempt without an answer, if any."""
        flight, state = self.flight, self.around.state
        answer = flight.answer
        if broken.reason != Failure.ENGINE_FAILED or broken.silent or broken.piece is not None:
            return frozenset()
        if answer.pieces:
            return frozenset()
        if broken.gone:
            return failed(flight.state, state, answer.replica)
        return frozenset({speaking(flight.state, state, answer.replica)})

    def _recover(self, broken: Broken) -> None:
        """Continue a request whose attempt is broken elsewhere, or say why that is impossible."""
        flight, answer = self.flight, self.flight.answer
        if broken.reason == Failure.TAKEN_BACK:
            self._again(flight.request, broken)
            return
        own = broken.piece is not None
        failures = flight.resent >= MAX_ATTEMPTS - 1
        if flight.counted < answer.attempt:
            flight.counted = answer.attempt
            processes = self._failed(broken)
            if processes and processes <= flight.failed and not broken.gone and not failures:
                self._wait()
                return
            if processes:
                self._count(processes)
            elif not broken.silent:
                flight.fatal = 0
        if broken.reason == Failure.ENGINE_TIMED_OUT:
            self._end(Failure.OVERDUE)
        # What an engine itself answered with is not a sign of its death: once more is enough, and
        # only of another one.
        elif failures or (own and (answer.attempt > 1 or not self._elsewhere())):
            self._give_up(broken)
        elif flight.fatal >= MAX_FATAL:
            self._end(Failure.FATAL, b"%d" % flight.fatal)
        elif not answer.begun:
            original = answer.request
            self._again(replace(flight.request, path=original.path, body=original.body), broken)
        else:
            self._go_on(broken)

    def _wait(self) -> None:
        """Wait for the end of an engine that says once more that it has failed.

        It has no core any more, and its server refuses what it still gets. With time, the attempt
        counts as lost, and is sent again.
        """
        flight = self.flight
        flight.answer.broken = None
        flight.sent_at = self.now
        flight.resent += 1
        self._move(Phase.SENT)

    def _go_on(self, broken: Broken) -> None:
        """Continue an answer that the client has a part of."""
        flight, answer = self.flight, self.flight.answer
        match way := answer.way_on(self._context()):
            case Continuation(path=path, body=body, form=form):
                version = answer.version if form == Form.CONTINUED else ""
                ways = {"path": path, "body": body, "continues": form, "version": version}
                self._again(replace(flight.request, **ways), broken)
            case Detokenize():
                flight.early.drop()  # the attempt is over: what came early of it is of no use
                self._move(Phase.DETOKENIZING)
                self.effects.append(AskText(flight.id, self._question(way), flight.binding))
            case CantContinue(reason=reason):
                self._end(Failure.CANT_CONTINUE, f"{broken.reason}: {reason}".encode())
            case Finish(body=body):
                self._end("", body)

    def _question(self, way: Detokenize) -> Request:
        """Return the request for the text of token ids, for any engine of the model."""
        flight = self.flight
        request = flight.request
        return Request(
            "",
            request.gateway,
            request.model,
            way.path,
            way.body,
            adapter=request.adapter,
            avoid=flight.answer.replica,
            priority=request.priority,
            timeout=timeouts.within(timeouts.DETOKENIZE, timeouts.left(flight, self.now)),
        )

    def _context(self) -> int:
        """Return the context length of a replica that may continue; 0 if none is known."""
        model = self.around.state.models.get(self.flight.request.model)
        return self.around.heartbeats.context(model.replicas if model is not None else ())

    def _elsewhere(self) -> bool:
        """Return whether another replica can serve a request that its own replica failed."""
        flight, state = self.flight, self.around.state
        model = state.models.get(flight.request.model)
        if model is None:
            return False
        able = routing.able(state, model, flight.request.adapter)
        return any(replica.id != flight.answer.replica for replica in able)

    def _again(self, request: Request, broken: Broken | None = None) -> None:
        """Send a request's next attempt. `broken`: how the last attempt ended."""
        flight, answer, now = self.flight, self.flight.answer, self.now
        if broken is not None:
            flight.waits_since, flight.lost = now, 0
            flight.resent += not _gave_way(request, broken)
        if answer.queued or (broken is not None and broken.silent):
            flight.orphaned_at = timeouts.orphaned_at(flight, now, self.around.heartbeats)
        elif broken is not None:
            flight.orphaned_at = now
        reason = broken.reason if broken is not None else Failure.NOT_TAKEN
        had = answer.replica
        if flight.direct is not None:
            had = flight.direct.replica
            self.around.leases.doubt(flight.direct)
        request = replace(
            request,
            attempt=answer.attempt + 1,
            avoid=had if reason != Failure.TAKEN_BACK else "",
            gone=broken is not None and (broken.gone or broken.reason == Failure.ENGINE_STOPPED),
            patience=max(0.0, answer.request.patience - (now - flight.waits_since)),
            timeout=None if flight.deadline is None else max(0.0, flight.deadline - now),
        )
        answer.turn_to(request.attempt, request.continues)
        self._settle()
        flight.request = request
        flight.asked_at = 0.0
        flight.pid = flight.unlined_at = None
        flight.early.drop()
        if flight.search is Search.SURELY:
            flight.search = Search.PERHAPS
        self._move(Phase.SENT)
        self.effects.append(Cancel(flight.id, request, request.attempt))
        self.effects.append(sent(flight, now, self.around, reason))

    # How it ends

    def _seen(self) -> bytes:
        return timeouts.seen(self.flight, self.now, self.around).encode()

    def _give_up(self, broken: Broken) -> None:
        flight = self.flight
        if broken.piece is None or flight.answer.begun:
            self._end(broken.reason, self._seen())
            return
        flight.answer.complete = True
        self._deliver(broken.piece)
        self._finish()

    def _end(self, failure: str, body: bytes = b"") -> None:
        """End an answer here: with a failure, or without one and with its last bytes."""
        flight = self.flight
        self._deliver(flight.answer.end(Piece(0, body, failure=failure)))
        self.effects.append(Cancel(flight.id, flight.request, ALL_ATTEMPTS, note(failure, body)))
        self._finish()

    def _finish(self) -> None:
        flight = self.flight
        self._move(Phase.DONE)
        if not flight.accepted:
            flight.accepted = True
            self.around.admission.waiting -= 1
        self._settle()
        flight.early.drop()
        self.effects.append(Forget(flight.id))


def _gave_way(request: Request, broken: Broken) -> bool:
    """Return whether an attempt ended since slack makes room, which says nothing against it."""
    return request.slack and broken.reason in (Failure.TAKEN_BACK, Failure.ENGINE_STOPPED)


def sent(flight: InFlightRequest, now: float, around: Surroundings, after: str = "") -> Send:
    """Send the present attempt: to a replica that is lent, else to a living router."""
    flight.sent_at = flight.heard_at = now
    flight.state = around.state
    flight.direct = around.leases.take(flight.request, around.state, now)
    if flight.direct is not None:
        flight.router, flight.untaken = "", False
        return Send(flight.id, flight.request, "", after, flight.direct)
    flight.router = around.heartbeats.assign(now, flight.tried)
    flight.untaken = bool(flight.router)
    return Send(flight.id, flight.request, flight.router, after)


def release(flight: InFlightRequest, around: Surroundings) -> None:
    """Return the credit that an attempt has taken of a lease, if it has."""
    if flight.direct is not None:
        around.leases.release(flight.direct)
        flight.direct = None
