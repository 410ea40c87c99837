"""A router's part in serving: a request goes to a replica, waits in line for one, or is refused.

It sends through what it is given, and reads no clock but that.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from nebula.actors.router import routing
from nebula.actors.router.loads import Loads
from nebula.actors.router.observing import Load
from nebula.actors.router.queueing import Line, Waiting
from nebula.events import envelope, inference, memory, subjects
from nebula.events.inference import Finished, Piece, Request, Routed
from nebula.events.memory import MIB
from nebula.events.state import Model, Named, State
from nebula.events.status import QueueStatus, ReplicaStatus, RouterStatus

Post: TypeAlias = Callable[[str, bytes, bytes], None]
"""Publishes: subject, header block, body."""

UNKNOWN_MODEL = 2.0
"""Seconds that a request for a model waits which this router has not heard of yet."""

UNKNOWN_WAITING = 256
"""Requests that may wait for such a model."""

WAITING_MEMORY = 512 * MIB
"""Bytes of requests that may wait in a router, unless it is told another number."""

ONE_MODELS_PART = 0.5
"""The part of them that requests for one model may take: others find room beside them."""


class _Held(Struct, frozen=True):
    """A request in line, with its header block."""

    request: Request
    header: bytes
    since: float

    @property
    def size(self) -> int:
        """The bytes that are kept of it."""
        return len(self.header) + len(self.request.body)


class Dispatch:
    """See the module.

    `state` gives the newest state, `now` seconds of a monotonic clock, `wall` ns since the epoch.
    `waiting_memory`: bytes of requests that may wait here. `addressed`: gateways may send requests
    to this router's own subject, and its heartbeat says so.
    """

    def __init__(
        self,
        router: str,
        post: Post,
        state: Callable[[], State],
        now: Callable[[], float],
        wall: Callable[[], int],
        waiting_memory: int = WAITING_MEMORY,
    ) -> None:
        self.router = router
        self._memory = waiting_memory
        self.addressed = False
        self._post = post
        self._state = state
        self._now = now
        self._wall = wall
        self._loads = Loads(state, now)
        self._lines: dict[str, Line] = {}
        self._held: dict[str, _Held] = {}
        self._called = False

    def on_request(self, subject: bytes, header: bytes, body: bytes) -> None:
        """Send a request to a replica, or let it wait."""
        model_id = subject.split(b".", 4)[3].decode()
        request = envelope.receive_request(model_id, header, body)
        if request is None:
            return
        held = _Held(request, header, self._now())
        if request.gone:
            self._loads.gone(request.avoid, request.id)
        earlier = self._held.get(request.id)
        if earlier is not None:
            if earlier.request.attempt > request.attempt:
                return  # a router that ended handed it over too late
            self._take_out(request.id)  # a further attempt takes the place of the one before
        if not self._lines.get(model_id) and self._send(held):
            return
        self._enqueue(held)
        self._advance(model_id)

    def on_cancel(self, subject: bytes, _: bytes, body: bytes) -> None:
        """Let a request wait no more: all of its attempts, or those before the number given."""
        held = self._held.get(subject.rpartition(b".")[2].decode())
        if held is not None and (not body.isdigit() or held.request.attempt < int(body)):
            self._take_out(held.request.id)

    def on_finished(self, subject: bytes, _: bytes, body: bytes) -> None:
        """Count what an engine is done with; whoever waits may take its place."""
        try:
            finished = msgspec.json.decode(body, type=Finished)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        if self._loads.finished(finished):
            self._advance(subject.rpartition(b".")[2].decode())

    def on_status(self, subject: bytes, _: bytes, body: bytes) -> None:
        """Take a replica's heartbeat."""
        try:
            status = msgspec.json.decode(body, type=ReplicaStatus)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        if self._loads.beats(status):
            self._advance(subject.split(b".")[3].decode())

    def react(self) -> None:
        """Do what a changed state or the time that has passed calls for."""
        now = self._now()
        for model_id, line in tuple(self._lines.items()):
            for waiting in line.expired(now):
                self._expire(self._held.pop(waiting.id), now)
            self._advance(model_id)
            if not line:
                del self._lines[model_id]
        self._loads.forget()

    def status(self) -> RouterStatus:
        """Give this router's lines."""
        now = self._now()
        return RouterStatus(
            self.router,
            {
                model: QueueStatus(len(line), round(now - (line.oldest() or now), 3))
                for model, line in self._lines.items()
                if line
            },
            addressed=self.addressed,
        )

    def loads(self) -> dict[str, Load]:
        """Give what is known of each model's requests: those in engines, and those in line here."""
        now, loads = self._now(), self._loads.of_models()
        for model, line in self._lines.items():
            load = loads.setdefault(model, Load())
            load.waiting, load.longest = len(line), now - (line.oldest() or now)
        return loads

    def called(self) -> bool:
        """Say whether somebody has begun to wait for a model without a replica since last asked."""
        called, self._called = self._called, False
        return called

    def hand_over(self) -> None:
        """Give everything that waits to the other routers: this one ends."""
        for held in self._held.values():
            request = held.request
            self._post(subjects.requests(request.model), self._header(held), request.body)
        self._held.clear()
        self._lines.clear()

    def _enqueue(self, held: _Held) -> None:
        request, now = held.request, held.since
        state = self._state()
        model = state.models.get(request.model)
        line = self._lines.setdefault(request.model, Line())
        patience = request.patience
        if model is None:
            patience = min(patience, UNKNOWN_MODEL)
        else:
            reason = routing.hopeless(state, Named(model.id, request.adapter))
            if reason is not None:
                self._refuse(request, 503, reason, None)
                return
        full = self._full(request.model, model, line, held)
        if full is not None:
            # All who wait may wait for an adapter, and this one for nothing.
            if not self._send(held):
                self._refuse(request, 429, full, _retry_after(line, now))
            if not line:
                del self._lines[request.model]
            return
        if request.timeout is not None:
            patience = min(patience, request.timeout)
        self._held[request.id] = held
        if model is not None and not line and not model.assignments:
            self._called = True
        line.add(
            Waiting(
                request.id,
                request.user,
                request.priority,
                request.adapter,
                now,
                now + patience,
                held.size,
            )
        )
        self._answer(request, Piece(-1, queued=self.router, attempt=request.attempt), b"")

    def _advance(self, model_id: str) -> None:
        """Send on as many of those in line as there is room for; refuse those in vain."""
        line = self._lines.get(model_id)
        if not line:
            return
        state = self._state()
        model = state.models.get(model_id)
        if model is None:
            return

        def can_go(adapter: str) -> bool:
            candidates = self._loads.candidates(state, model, adapter)
            if not candidates:
                return routing.hopeless(state, Named(model.id, adapter)) is not None
            return routing.choose(candidates, "", model.spec.max_in_flight) is not None

        while (waiting := line.next(can_go)) is not None:
            held = self._held.pop(waiting.id)
            if not self._send(held):
                reason = routing.hopeless(state, Named(model.id, waiting.adapter))
                self._refuse(held.request, 503, reason or "no replica is ready", None)

    def _send(self, held: _Held) -> bool:
        """Send a request to a replica; False where none can take it now."""
        request = held.request
        state = self._state()
        model = state.models.get(request.model)
        if model is None:
            return False
        candidates = self._loads.candidates(
            state, model, request.adapter, request.prefix, request.avoid
        )
        if not candidates:
            return False
        replica = routing.choose(candidates, _key(request), model.spec.max_in_flight)
        if replica is None:
            return False
        now = self._now()
        routed = Routed(self.router, state.seq, tuple(candidates[:16]), round(now - held.since, 3))
        version = state.replicas[replica].version
        header = envelope.routed_block(self._header(held), version, routed)
        self._post(subjects.replica_requests(model.id, replica), header, request.body)
        self._loads.sent(replica, request)
        return True

    def _header(self, held: _Held) -> bytes:
        """Give a request's header block; what it has waited is no longer left of its time."""
        request = held.request
        waited = self._now() - held.since
        if waited < 0.1:
            return held.header
        left = None if request.timeout is None else max(0.0, request.timeout - waited)
        request = replace(request, timeout=left, patience=max(0.0, request.patience - waited))
        return envelope.request_block(request)

    def _take_out(self, identity: str) -> None:
        held = self._held.pop(identity)
        line = self._lines.get(held.request.model)
        if line is not None:
            line.remove(identity)

    def _expire(self, held: _Held, now: float) -> None:
        """Say to one that has waited long enough that its own time is over, or why it waited."""
        request = held.request
        if request.timeout is None or now < held.since + request.timeout:
            self._refuse(request, *self._why_late(request))
            return
        late = Piece(
            0,
            end=True,
            failure=inference.ENGINE_TIMED_OUT,
            attempt=request.attempt,
            continues=request.continues,
        )
        self._answer(request, late, b"")

    def _why_late(self, request: Request) -> tuple[int, str, int | None]:
        """Say why a request waited so long: status, words, retry after (s)."""
        state = self._state()
        model = state.models.get(request.model)
        if model is None:
            return 503, f"model {request.model!r} is not known to the router yet", 1
        if able := routing.able(state, model, request.adapter):
            still = self._loads.standing_still([each.id for each in able])
            if still is not None:
                return 503, f"model {model.name!r} is served, but {still}", 5
            return 429, f"model {model.name!r} is busy: the time to wait for a turn is over", 5
        return 503, routing.progress(state, Named(model.id, request.adapter), self._wall()), 5

    def _full(self, identity: str, model: Model | None, line: Line, held: _Held) -> str | None:
        """Return which bound keeps a request out of the line, if one does."""
        name = identity if model is None else model.name
        most = UNKNOWN_WAITING if model is None else model.spec.max_waiting
        if len(line) >= most:
            return f"model {name!r} is busy: {len(line)} requests wait already"
        own = int(self._memory * ONE_MODELS_PART)
        if line.size + held.size > own:
            return (
                f"model {name!r} is busy: requests of {memory.fine(line.size)} wait already, and "
                f"{memory.fine(own)} may, half of the router's --waiting-memory"
            )
        waiting = sum(each.size for each in self._lines.values())
        if waiting + held.size > self._memory:
            return (
                f"the router is busy: requests of {memory.fine(waiting)} wait in it already, and "
                f"{memory.fine(self._memory)} may (--waiting-memory)"
            )
        return None

    def _refuse(self, request: Request, status: int, reason: str, retry_after: int | None) -> None:
        refusal = Piece(
            0,
            status=status,
            content_type="text/plain",
            end=True,
            failure=inference.REFUSED,
            attempt=request.attempt,
            retry_after=retry_after,
            continues=request.continues,
        )
        self._answer(request, refusal, reason.encode())

    def _answer(self, request: Request, piece: Piece, body: bytes) -> None:
        header = envelope.piece_block(piece)
        self._post(subjects.responses(request.gateway, request.id), header, body)


def _retry_after(line: Line, now: float) -> int:
    """Return when to come back: in as long as the first in line has waited, at least."""
    return min(60, max(1, math.ceil(now - (line.oldest() or now))))


def _key(request: Request) -> str:
    """Give what draws a request's replica among equal ones: all but the end of its prompt."""
    if request.prefix:
        return request.prefix[max(0, len(request.prefix) - 2)]
    return request.adapter or request.id
