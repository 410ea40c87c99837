"""An engine process: it starts, gets ready, answers, and ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from nebula.actors.engine.attempts import Attempts
from nebula.actors.engine.bridge import ANNOUNCE_AFTER, HEARTBEAT
from nebula.events import envelope, piece_envelope, subjects
from nebula.events.failures import Failure
from nebula.events.inference import (
    ALL_ATTEMPTS,
    Finished,
    Piece,
    Request,
    StillWanted,
    UnderWay,
)
from nebula.events.state import Launch, Replica
from tests.simulation.answers import answer
from tests.simulation.clock import Signal

if TYPE_CHECKING:
    from tests.simulation.machine import Machine


class Engine:
    """One engine process: it starts, gets ready, answers, and ends; then its memory is free.

    `told`: the least attempts of requests that may still be wanted, by what has reached it.
    """

    def __init__(
        self, machine: Machine, pid: int, replica: Replica, version: int, launch: Launch
    ) -> None:
        self.machine = machine
        self.pid = pid
        self.created = machine.clock.now
        self.replica = replica.id
        self.model = replica.model
        self.version = version
        self.devices = replica.devices
        self.memory = replica.memory
        self.launch = launch
        self.changed = Signal(machine.clock)
        self.answers = False
        self.exited = False
        self.gone = False
        self.code: int | None = None
        self.requests: dict[str, int] = {}
        self.told: dict[str, float] = {}
        self._attempts = Attempts()
        self._asked: dict[str, Request] = {}
        self._said: dict[str, int] = {}
        self.adapters: set[tuple[str, str]] = set()

    def get_ready(self) -> None:
        """It has loaded its weights."""
        if not self.exited:
            self.answers = True
            self.changed.fire()
            self._beat()

    def exit(self, code: int | None) -> None:
        """Its leader ends, with all that was under way; its memory is free a little later."""
        if self.exited:
            return
        self.exited, self.answers, self.code = True, False, code
        if code == 0:
            for identity, attempt in self.requests.items():
                last = Piece(self._said[identity], end=True, failure=Failure.ENGINE_STOPPED)
                self._say(self._asked[identity], replace(last, attempt=attempt))
        self.requests.clear()
        self.changed.fire()
        rng = self.machine.rng
        self.machine.clock.after(
            rng.random() * 0.5 if rng.random() < 0.9 else 4.0 * rng.random(), self._vanish
        )

    def terminate(self, grace: float) -> None:
        """It is told to end: it takes no more requests, and ends those it has, in time or not."""
        self.answers = False
        self.machine.clock.after(min(grace, self.machine.rng.random() * 3), self.exit, 0)

    def _vanish(self) -> None:
        self.gone = True
        self.machine.engines.pop(self.pid, None)
        self.changed.fire()

    def _beat(self) -> None:
        if not self.answers:
            return
        status = b'{"replica":"%b","pid":%d,"running":%d,"version":%d,"slack":%d}' % (
            self.replica.encode(),
            self.pid,
            len(self.requests),
            self.version,
            self._slack(),
        )
        self.machine.say(subjects.replica_status(self.model, self.replica), b"", status)
        self._ask()
        self.machine.clock.after(HEARTBEAT, self._beat)

    def _slack(self) -> int:
        """Return how many of its requests take spare capacity only."""
        return sum(self._asked[identity].slack for identity in self.requests)

    def on_request(self, header: bytes, body: bytes) -> None:
        """Take a request that a router sent here."""
        request = envelope.receive_request(self.model, header, body)
        if request is None or not self.answers:
            return
        if not self._attempts.wanted(request.id, request.attempt, self.requests.get(request.id, 0)):
            return
        plan = envelope.read_plan(header)
        if plan is not None and plan != self.version:
            if plan < self.version:
                self._refuse(request)
            return
        if request.version and (request.adapter, request.version) not in self.adapters:
            self._refuse(request, Failure.OTHER_VERSION)
            return
        self.drop(request.id, request.attempt)
        self.machine.on_take(self, request)
        self.requests[request.id] = request.attempt
        self._asked[request.id] = request
        self._said[request.id] = 0
        clock = self.machine.clock
        if request.attempt > 1:
            self._announce(request)
        else:
            clock.after(ANNOUNCE_AFTER, self._announce, request)
        if request.timeout is not None:
            clock.after(request.timeout, self._time_out, request)
        self._say_next(request, answer(request, self.replica, self.machine.seed))

    def _say_next(self, request: Request, pieces: Iterator[tuple[float, Piece]]) -> None:
        seconds, piece = next(pieces)
        self.machine.clock.after(seconds, self._go_on, request, piece, pieces)

    def _has(self, request: Request) -> bool:
        return not self.exited and self.requests.get(request.id) == request.attempt

    def _announce(self, request: Request) -> None:
        """Confirm that it has a request, unless its answer has begun."""
        if self._has(request) and not self._said[request.id]:
            self._say(request, Piece(-1, replica=self.replica, attempt=request.attempt))

    def _time_out(self, request: Request) -> None:
        """End an answer that takes longer than it may."""
        if self._has(request):
            failure = Failure.ENGINE_TIMED_OUT
            last = Piece(self._said[request.id], end=True, failure=failure)
            self._say(request, replace(last, attempt=request.attempt))
            self._done(request, unproven=True)

    def _say(self, request: Request, piece: Piece) -> None:
        subject = subjects.responses(request.gateway, request.id)
        header = envelope.block(piece_envelope.headers_of(piece))
        self.machine.say(subject, header, piece.body)

    def _refuse(self, request: Request, failure: str = Failure.OTHER_PLAN) -> None:
        """Serve for no other plan than the own one, nor with another version of an adapter."""
        self._say(request, Piece(0, end=True, failure=failure, attempt=request.attempt))
        ended = (request.id,)
        self._tell_finished(request, Finished(self.replica, ended, ended, len(self.requests)))

    def _tell_finished(self, request: Request, finished: Finished) -> None:
        slack = finished.requests if request.slack else ()
        finished = replace(finished, slack=slack, active_slack=self._slack())
        self.machine.tell_finished(self.model, finished)

    def _go_on(self, request: Request, piece: Piece, pieces: Iterator[tuple[float, Piece]]) -> None:
        """Publish the next piece of an answer, unless the request has ended."""
        if not self._has(request):
            return
        self._said[request.id] += 1
        self._say(request, piece)
        if piece.end:
            self._done(request)
        else:
            self._say_next(request, pieces)

    def _done(self, request: Request, *, unproven: bool = False) -> None:
        del self.requests[request.id]
        self._attempts.forgo(request.id, request.attempt + 1)
        ended = (request.id,)
        finished = Finished(self.replica, ended, (), len(self.requests), ended if unproven else ())
        self._tell_finished(request, finished)

    def on_cancel(self, identity: str, below: float) -> None:
        """Hear that attempts with numbers under `below` are wanted no more."""
        self.told[identity] = max(below, self.told.get(identity, 0))
        self._attempts.forgo(identity, below)
        self.drop(identity, below)

    def drop(self, identity: str, below: float) -> None:
        """End a request's attempts with numbers under `below`."""
        if not self.exited and self.requests.get(identity, below) < below:
            self._done(self._asked[identity], unproven=True)

    def drop_all_of(self, gateway: str) -> None:
        """End what a gateway asked for that is no more, unless it is to be resumable."""
        for identity in list(self.requests):
            request = self._asked[identity]
            if request.gateway == gateway and not request.keep:
                self.drop(identity, ALL_ATTEMPTS)

    def _ask(self) -> None:
        """Ask every gateway which of its requests are still wanted."""
        asked: dict[str, dict[str, UnderWay]] = {}
        for identity, attempt in self.requests.items():
            gateway = self._asked[identity].gateway
            asked.setdefault(gateway, {})[identity] = UnderWay(attempt, self._said[identity])
        for gateway, requests in asked.items():
            body = msgspec.json.encode(StillWanted(self.replica, requests))
            self.machine.say(subjects.waiting(gateway), b"", body)
