"""A router's part in serving: sends a request to a replica, queues it, or refuses it.

It sends and reads the time only through the functions that it is given.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from nebula.actors.attribution import attributed
from nebula.actors.router import refusing, routing, waiting_limits
from nebula.actors.router.fair_queue import QueuedRequest
from nebula.actors.router.lateness import why_late
from nebula.actors.router.lending import Lending
from nebula.actors.router.lines import (
    UNKNOWN_WAITING,
    WAITING_MEMORY,
    Line,
    Lines,
    longest,
    retry_after,
)
from nebula.actors.router.observer import ModelLoad
from nebula.actors.router.replica_loads import ReplicaLoads
from nebula.actors.router.request_counts import Reason, RouterCounts
from nebula.actors.router.slack import Others
from nebula.events import envelope, piece_envelope, subjects
from nebula.events.failures import Failure
from nebula.events.heartbeats import ReplicaHeartbeat, RouterHeartbeat
from nebula.events.inference import Finished, Piece, ReplicaCandidate, Request, Routed
from nebula.events.key import tenant_of
from nebula.events.reading import last_token, number
from nebula.events.state import Model, NameBinding, State

Post: TypeAlias = Callable[[str, bytes, bytes], None]
"""Publishes: subject, header block, body."""

UNKNOWN_MODEL = 2.0
"""Seconds that a request waits for a model that this router does not know yet."""

UNPLACEABLE = 90.0
"""Seconds for which requests wait for a model that fits nowhere; engines drain for 60 at most."""


class _Held(Struct, frozen=True):
    """A queued request, with its header block."""

    request: Request
    header: bytes
    since: float

    @property
    def size(self) -> int:
        """The bytes that it takes in the queue."""
        return len(self.header) + self.request.whole_size


class Dispatch:
    """Sends requests to replicas, and queues those that no replica can take.

    `state` returns the newest state, `now` seconds of a monotonic clock, `wall` ns since the epoch.
    `waiting_memory`: bytes of requests that may wait here. `others`: what other routers tell of
    themselves and a model. `addressed`: whether gateways may send requests to this router's own
    subject, as its heartbeat says.
    """

    def __init__(
        self,
        router: str,
        post: Post,
        state: Callable[[], State],
        now: Callable[[], float],
        wall: Callable[[], int],
        waiting_memory: int = WAITING_MEMORY,
        others: Callable[[str], Others] = lambda _: Others(),
    ) -> None:
        self.router = router
        self._others = others
        self.addressed = False
        self._post = post
        self._state = state
        self._now = now
        self._wall = wall
        self._loads = ReplicaLoads(state, now)
        self.on_cache = self._loads.on_cache
        self.lines = Lines(waiting_memory)
        self.counts = RouterCounts()
        self.lending = Lending(
            router, post, self._loads, state, now, others, self._queued, self.counts.went_directly
        )
        self._held: dict[str, _Held] = {}
        self._called = False
        self._unplaceable: dict[str, float] = {}
        """Since when a model for which requests wait has been known to fit nowhere."""

    def on_request(self, subject: bytes, header: bytes, body: bytes) -> None:
        """Send a request to a replica, or queue it."""
        model_id = subject.split(b".", 4)[3].decode("utf-8", "replace")
        request = envelope.receive_request(model_id, header, body)
        if request is None:
            return
        if request.version and (moved := routing.moved_on(self._state(), request)) is not None:
            self._refuse(request, "moved-on", 503, moved, None)
            return
        held = _Held(request, header, self._now())
        if request.gone:
            self._loads.gone(request.avoid, request.id)
        earlier = self._held.get(request.id)
        if earlier is not None:
            if earlier.request.attempt > request.attempt:
                return  # a router that ended passed it on too late
            self._take_out(request.id)  # a further attempt replaces the previous one
        line = self.lines.get(model_id)
        if not (request.slack or (line is not None and line.asked)) and self._send(held):
            return
        self._enqueue(held)
        self._advance(model_id)

    def on_cancel(self, subject: bytes, _: bytes, body: bytes) -> None:
        """Remove a request from the queue: all of its attempts, or those before a given number."""
        held = self._held.get(last_token(subject))
        below = number(body)
        if held is not None and (below is None or held.request.attempt < below):
            self._take_out(held.request.id)

    def on_finished(self, subject: bytes, _: bytes, body: bytes) -> None:
        """Count the requests that an engine has finished, and send queued ones in their place."""
        finished = attributed(subject, body, Finished)
        if finished is None:
            return
        if self._loads.finished(finished):
            model_id = last_token(subject)
            self._take_back(model_id, finished.replica)
            self._advance(model_id)

    def on_status(self, subject: bytes, _: bytes, body: bytes) -> None:
        """Take a replica's heartbeat."""
        status = attributed(subject, body, ReplicaHeartbeat)
        if status is None:
            return
        if self._loads.beats(status):
            model_id = subject.split(b".")[3].decode("utf-8", "replace")
            self._take_back(model_id, status.replica)
            self._advance(model_id)

    def on_leases_asked(self, subject: bytes, _: bytes, body: bytes) -> None:
        """Take a gateway's report, which may give back what it held of a replica."""
        for model_id in self.lending.on_asked(subject, body):
            self._advance(model_id)

    def on_leases_recalled(self, subject: bytes, _: bytes, __: bytes) -> None:
        """Hear that clients wait for a model, here or in another router."""
        self.lending.on_recalled(subject)

    def react(self) -> None:
        """Do what is due after a change of the state or after some time."""
        now = self._now()
        for model_id, line in tuple(self.lines.items()):
            for waiting in line.expired(now):
                self._expire(self._held.pop(waiting.id), now)
            self._advance(model_id)
            self._give_up_unplaceable(model_id, now)
            if not line:
                del self.lines[model_id]
                self._unplaceable.pop(model_id, None)
        self._loads.forget()
        self.lending.forget()

    def status(self) -> RouterHeartbeat:
        """Return this router's heartbeat with its queues."""
        now = self._now()
        return RouterHeartbeat(
            self.router,
            {model: line.length(now) for model, line in self.lines.items() if line},
            addressed=self.addressed,
        )

    def loads(self) -> dict[str, ModelLoad]:
        """Return what is known of each model's requests in engines and in this router's queues.

        Slack is left out: it neither starts engines nor keeps them running.
        """
        now, loads = self._now(), self._loads.of_models()
        for model, line in self.lines.items():
            load = loads.setdefault(model, ModelLoad())
            load.waiting, load.longest = len(line.asked), longest(line.asked, now)
        return loads

    def called(self) -> bool:
        """Return whether a request has newly begun to wait for a model without replicas."""
        called, self._called = self._called, False
        return called

    def hand_over(self) -> None:
        """Pass all queued requests on to the other routers, because this one ends."""
        now = self._now()
        for held in self._held.values():
            request = held.request
            self.counts.demand.left(request.id, now)
            self._post(subjects.requests(request.model), self._header(held, now), request.body)
        self._held.clear()
        self.lines.clear()

    def _enqueue(self, held: _Held) -> None:
        request, now = held.request, held.since
        state = self._state()
        model = state.models.get(request.model)
        line = self.lines.setdefault(request.model, Line())
        queue = line.slack if request.slack else line.asked
        patience = request.patience
        if model is None:
            patience = min(patience, UNKNOWN_MODEL)
        else:
            reason = routing.hopeless(state, NameBinding(model.id, request.adapter))
            if reason is not None:
                self._refuse(request, "hopeless", 503, reason, None)
                return
        name = request.model if model is None else model.name
        most = UNKNOWN_WAITING if model is None else model.spec.max_waiting
        full = self.lines.full(name, line, most, held.size, slack=request.slack)
        if full is None and not request.slack and request.attempt == 1:
            full = waiting_limits.exceeded(state, request, self.lines.values(), line)
        if full is not None:
            # Everyone in the queue may wait for an adapter, while this request can run now.
            if request.slack or not self._send(held):
                self._refuse(request, "queue-full", 429, full, retry_after(queue, now))
            if not line:
                del self.lines[request.model]
            return
        if request.timeout is not None:
            patience = min(patience, request.timeout)
        self._held[request.id] = held
        if model is not None and not (queue or request.slack or model.assignments):
            self._called = True
        queue.add(
            QueuedRequest(
                request.id,
                request.user,
                request.priority,
                request.adapter,
                now,
                now + patience,
                held.size,
                tenant_of(state.keys, request.user),
            )
        )
        if model is not None and not request.slack:
            if not routing.served(state, model, ""):
                self.counts.demand.waits(request.id, model.id, now)
            elif len(queue) == 1:
                self.lending.recall(model)
        self._answer(request, Piece(-1, queued=self.router, attempt=request.attempt), b"")

    def _advance(self, model_id: str) -> None:
        """Send as many queued requests as replicas have room for; refuse the hopeless ones."""
        line = self.lines.get(model_id)
        if not line:
            return
        state = self._state()
        model = state.models.get(model_id)
        if model is None:
            return

        def can_go(adapter: str, *, slack: bool = False) -> bool:
            candidates = self._loads.candidates(state, model, adapter)
            if not candidates:
                return routing.hopeless(state, NameBinding(model.id, adapter)) is not None
            candidates = self._with_room(model, candidates, slack=slack)
            return routing.choose(candidates, "", model.spec.max_in_flight) is not None

        while (waiting := line.asked.next(can_go)) is not None:
            self._send_queued(model, waiting)
        if not line.slack or line.asked or self._others(model_id).waiting:
            return
        for_slack = partial(can_go, slack=True)
        while (waiting := line.slack.next(for_slack)) is not None:
            self._send_queued(model, waiting)

    def _send_queued(self, model: Model, waiting: QueuedRequest) -> None:
        """Send a request on that has just left its queue; refuse it if it can't go anywhere."""
        held = self._held.pop(waiting.id)
        self.counts.demand.left(waiting.id, self._now())
        if not self._send(held):
            reason = routing.hopeless(self._state(), NameBinding(model.id, waiting.adapter))
            why = reason or "no replica is ready"
            self._refuse(held.request, "hopeless", 503, why, None)

    def _with_room(
        self, model: Model, candidates: list[ReplicaCandidate], *, slack: bool
    ) -> list[ReplicaCandidate]:
        """Return the candidates that are not lent to gateways, and have spare room for slack."""
        candidates = self.lending.with_room(model, candidates)
        if not slack:
            return candidates
        return self._loads.with_room(model, candidates, self._others(model.id))

    def _queued(self, model_id: str) -> bool:
        line = self.lines.get(model_id)
        return line is not None and bool(line.asked)

    def _take_back(self, model_id: str, replica: str) -> None:
        """Have requests of slack leave a replica that has more than it may beside clients'."""
        if not self._loads.has_slack(replica):
            return
        model = self._state().models.get(model_id)
        if model is None:
            return
        for sent in self._loads.taken_back(model, replica, self._others(model_id)):
            last = Piece(0, end=True, failure=Failure.TAKEN_BACK, attempt=sent.attempt)
            subject = subjects.responses(sent.gateway, sent.id)
            self._post(subject, piece_envelope.block_of(last), b"")

    def _send(self, held: _Held) -> bool:
        """Send a request to a replica; return False if none can take it now."""
        request = held.request
        state = self._state()
        model = state.models.get(request.model)
        if model is None:
            return False
        candidates = self._loads.candidates(
            state, model, request.adapter, request.prefix, request.avoid
        )
        candidates = self._with_room(model, candidates, slack=request.slack)
        if not candidates:
            return False
        replica = routing.choose(candidates, routing.key_of(request), model.spec.max_in_flight)
        if replica is None:
            return False
        now = self._now()
        routed = Routed(self.router, state.seq, tuple(candidates[:16]), round(now - held.since, 3))
        version, digest = state.replicas[replica].version, ""
        if request.adapter and not request.version:
            offer = model.offers.get(request.adapter)
            digest = offer.digest if offer is not None else ""
        header = envelope.routed_block(self._header(held, now), version, routed, digest)
        self._post(subjects.replica_requests(model.id, replica), header, request.body)
        has_slack = self._loads.sent(replica, request, now)
        self.counts.sent(model.id, now - held.since)
        if has_slack and not request.slack:
            self._take_back(model.id, replica)
        return True

    def _header(self, held: _Held, now: float) -> bytes:
        """Return a request's header block, with its limits reduced by the time it has waited."""
        request = held.request
        waited = now - held.since
        if waited < 0.1:
            return held.header
        left = None if request.timeout is None else max(0.0, request.timeout - waited)
        request = replace(request, timeout=left, patience=max(0.0, request.patience - waited))
        return envelope.request_block(request)

    def _take_out(self, identity: str) -> None:
        held = self._held.pop(identity)
        self.counts.demand.left(identity, self._now())
        line = self.lines.get(held.request.model)
        if line is not None:
            line.remove(identity)

    def _give_up_unplaceable(self, model_id: str, now: float) -> None:
        """Refuse what waits for a model that has fitted nowhere for too long."""
        state = self._state()
        model = state.models.get(model_id)
        if model is None or not model.unschedulable or routing.served(state, model, ""):
            self._unplaceable.pop(model_id, None)
            return
        since = self._unplaceable.setdefault(model_id, now)
        if now - since < UNPLACEABLE:
            return
        for held in [each for each in self._held.values() if each.request.model == model_id]:
            if now - held.since >= UNPLACEABLE and not held.request.slack:
                self._take_out(held.request.id)
                far = routing.progress(state, NameBinding(model_id), self._wall())
                waited = f"it has waited for {now - held.since:.0f} s for room, which did not come"
                self._refuse(held.request, "no-place", 503, f"{far}; {waited}", 30)

    def _expire(self, held: _Held, now: float) -> None:
        """Refuse a request that has waited too long: its time is over, or why it had to wait."""
        request = held.request
        self.counts.demand.left(request.id, now)
        if request.timeout is None or now < held.since + request.timeout:
            still = self._loads.standing_still
            late = why_late(self._state(), request, now - held.since, self._wall(), still)
            self._refuse(request, "waited-too-long", *late)
            return
        self.counts.refused(request.model, "waited-too-long", slack=request.slack)
        self._answer(request, refusing.overdue(request), b"")

    def _refuse(
        self, request: Request, kind: Reason, status: int, reason: str, retry_after: int | None
    ) -> None:
        self.counts.refused(request.model, kind, slack=request.slack)
        self._answer(request, refusing.refusal(request, status, retry_after), reason.encode())

    def _answer(self, request: Request, piece: Piece, body: bytes) -> None:
        header = piece_envelope.block_of(piece)
        self._post(subjects.responses(request.gateway, request.id), header, body)
