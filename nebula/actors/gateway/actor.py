"""The gateway's part on NATS: it sends requests, and gives their answers piece by piece.

It brings every request to an end: what a router or an engine loses it sends again, a stream whose
engine dies goes on elsewhere, and what can't is a failure. It must not know HTTP: what a client is
told of a failure is decided above it.
"""

import asyncio
import contextlib
import logging

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from nebula.actors.actor import Actor
from nebula.actors.gateway import failures, patience
from nebula.actors.gateway.admission import Admission
from nebula.actors.gateway.answer import GAP, Answer, Broken
from nebula.actors.gateway.budget import ANSWERS, REQUESTS, Budget, Hold, Unread
from nebula.actors.gateway.exchange import Exchange
from nebula.actors.gateway.failures import NotServed
from nebula.actors.gateway.heartbeats import Heartbeats
from nebula.actors.gateway.log_watch import LogWatch
from nebula.actors.gateway.patience import Link, judge
from nebula.actors.gateway.probing import Probed
from nebula.actors.gateway.recovering import Recovery
from nebula.actors.gateway.sending import Sending
from nebula.actors.gateway.wanted import compare
from nebula.actors.router import routing
from nebula.events import envelope, inference, subjects
from nebula.events.inference import ALL_ATTEMPTS, Piece, Request, StillWanted, Unwanted
from nebula.events.standing import Standing, standing
from nebula.events.state import Model, Named
from nebula.events.status import QueueStatus
from nebula.store import inference_log
from nebula.store.connection import Connection, Unavailable

log = logging.getLogger(__name__)

TICK = 0.25


class Gateway(Actor):
    """See the module."""

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
        self.resumed = 0
        self._exchanges: dict[str, Exchange] = {}
        self._heartbeats = Heartbeats(lambda: asyncio.get_running_loop().time())
        self.sending = Sending(connection, identity, self._heartbeats)
        self.claims = Probed()
        self.recovery = Recovery(self, self._heartbeats, self.sending, self._forget)
        self.log_watch = LogWatch(connection, self.projection, lambda: self._heartbeats.router_at)
        self._admission = Admission()
        self.bodies = Budget(request_memory)
        self._unread = Unread(answer_memory)
        self._connected_at = 0.0
        self._lost_at: float | None = None

    async def begin(self) -> None:
        """Listen for answers and heartbeats."""
        client = self.connection.client
        await client.listen(subjects.responses(self.id, "*"), self._on_piece)
        await client.subscribe(subjects.waiting(self.id), cb=self._on_waiting)
        await client.listen(subjects.REPLICA_STATUS, self._heartbeats.on_replica)
        await client.listen(subjects.ROUTER_STATUS, self._heartbeats.on_router)
        await client.listen(subjects.STORE_STATUS, self.log_watch.on_store)
        self.connection.on_disconnect(self._on_disconnect)
        self.connection.on_reconnect(self._on_reconnect)
        self.spawn(self._tick(), "watch requests")
        self.spawn(self.log_watch.run(), "watch the log")
        self.started = True

    async def work(self) -> None:
        """Act upon engines that are gone as soon as the log says so."""
        while True:
            self._watch()
            await self.projection.changed()

    def named(self, name: str) -> Named | None:
        """Give what a public name stands for."""
        return self.projection.state.names.get(name)

    def model(self, named: Named) -> Model | None:
        """Give the model behind a name."""
        return self.projection.state.models.get(named.model)

    def standing(self, model: Model) -> Standing:
        """Give how a model stands."""
        return standing(self.projection.state, model)

    def queue(self, model: str) -> QueueStatus:
        """Give how many requests wait for a model in all routers, and for how long (s) at most."""
        return self._heartbeats.queue(model)

    @property
    def able(self) -> bool:
        """Whether requests can be served: NATS is there and the log has been folded."""
        return self.started and self.connection.connected

    def admit(self) -> None:
        """Let one more request in. Raises NotServed while the cluster is behind with those it has.

        To be asked before a client's request is claimed or sent.
        """
        if self._admission.refuses(asyncio.get_running_loop().time()):
            raise NotServed("requests come faster than they can be taken on", 1)

    def ask(self, request: Request, named: Named, *, idle: float = 600.0) -> Exchange:
        """Send a request on its way. Raises NotServed where that is in vain."""
        try:
            self._check(named)
            exchange = self._begin(request, named, idle)
        except NotServed:
            if request.keep:  # it was claimed: whoever asks again need not wait for its answer
                self.sending.drop(request, ALL_ATTEMPTS, failures.NOT_TAKEN.encode())
            raise
        return exchange

    def _check(self, named: Named) -> None:
        if not self.connection.connected:
            raise NotServed("NATS can't be reached", 1)
        state = self.projection.state
        model = state.models.get(named.model)
        if model is None or not routing.able(state, model, named.adapter):
            reason = routing.hopeless(state, named)
            if reason is not None:
                raise NotServed(reason, None)

    def _begin(self, request: Request, named: Named, idle: float) -> Exchange:
        now = asyncio.get_running_loop().time()
        exchange = Exchange(
            request, named, Answer(request), idle=idle, now=now, unread=self._unread
        )
        exchange.state_time = self.projection.state.time
        self._exchanges[request.id] = exchange
        self._admission.waiting += 1
        try:
            self.sending.send(exchange)
        except NatsError as error:
            self._forget(exchange)
            raise NotServed(f"NATS refused the request: {error}", 1) from error
        return exchange

    def leave(self, exchange: Exchange, hold: Hold | None = None) -> None:
        """The client is gone: end its request wherever it is now, unless it is to be resumable.

        Then what is held of its body goes on to be held.
        """
        exchange.leave()
        if exchange.done:
            return
        if exchange.request.keep:
            exchange.hold = hold.handed_on() if hold is not None else None
            return
        self._forget(exchange)
        self.sending.drop(exchange.request, ALL_ATTEMPTS)

    def _taken(self, exchange: Exchange) -> None:
        """Count it no longer among those that wait to be taken on."""
        self._admission.waiting -= not exchange.taken
        exchange.taken = True

    def _forget(self, exchange: Exchange) -> None:
        exchange.done = True
        self._taken(exchange)
        if exchange.untaken:
            self.sending.settle(exchange)
        if exchange.hold is not None:
            exchange.hold.release()
        if self._exchanges.get(exchange.request.id) is exchange:
            del self._exchanges[exchange.request.id]

    # What comes

    def _on_piece(self, subject: bytes, header: bytes, body: bytes) -> None:
        exchange = self._exchanges.get(subject[subject.rindex(b".") + 1 :].decode())
        if exchange is None:
            return
        chunk = envelope.read_plain(header)
        if chunk is not None:
            self._take(exchange, Piece(chunk, body))
            return
        piece = envelope.read_answer(header, body)
        if piece is not None:
            self._take(exchange, piece)

    def _take(self, exchange: Exchange, piece: Piece) -> None:
        answer = exchange.answer
        if piece.attempt == answer.attempt and piece.chunk > answer.pieces and not piece.failure:
            if exchange.keep_early(piece):
                self._fill(exchange)
            else:
                exchange.drop_early()
                self.recovery.end(exchange, GAP)
            return
        now = exchange.heard_at = asyncio.get_running_loop().time()
        if exchange.untaken and piece.attempt >= answer.attempt:
            self.sending.settle(exchange)
            exchange.tried = ()
        if not exchange.taken:
            self._taken(exchange)
            self._admission.taken(now - exchange.sent_at, now)
        while True:
            given = answer.take(piece)
            if given is not None:
                exchange.give(given)
            following = exchange.take_early(answer.pieces) if exchange.early else None
            if following is None or answer.broken is not None:
                break
            piece = following
        if answer.complete:
            self._forget(exchange)
        elif answer.broken is not None:
            self.recovery.recover(exchange)
        elif exchange.too_slow:
            self._cut(exchange)
        while isinstance(slowest := self._unread.slowest(), Exchange):
            self._cut(slowest)

    def _cut(self, exchange: Exchange) -> None:
        """Let a client go that reads too slowly; what may be resumed goes on without it."""
        if not (exchange.done or exchange.request.keep):
            self.recovery.end(exchange, failures.TOO_SLOW)
        exchange.let_go(Piece(0, end=True, failure=failures.TOO_SLOW))

    async def _on_waiting(self, message: Msg) -> None:
        """Tell an engine that asks for which of its requests nobody waits any more."""
        try:
            asking = msgspec.json.decode(message.data, type=StillWanted)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        unwanted, behind = compare(asking, self._exchanges, asyncio.get_running_loop().time())
        for exchange in behind:
            self._fill(exchange)
        if unwanted and message.reply:
            with contextlib.suppress(NatsError):
                self.connection.client.post(
                    message.reply, b"", msgspec.json.encode(Unwanted(unwanted))
                )

    async def _on_disconnect(self) -> None:
        if self._lost_at is None:
            self._lost_at = asyncio.get_running_loop().time()

    async def _on_reconnect(self) -> None:
        now = asyncio.get_running_loop().time()
        self._lost_at, self._connected_at = None, now
        self._heartbeats.restart()
        self.log_watch.restart()
        for exchange in tuple(self._exchanges.values()):
            if exchange.answer.replica:
                self._fill(exchange, missing=False)
            else:
                exchange.sent_at = now  # it may have got lost: it has its time once more

    # What is missing

    def _fill(self, exchange: Exchange, *, missing: bool = True) -> None:
        """Look for pieces that should have come; `missing`: they certainly should have."""
        exchange.missing = exchange.missing or missing
        if not exchange.filling and not exchange.done:
            exchange.filling = True
            self.spawn(self._look_for(exchange), f"look for pieces of {exchange.request.id}")

    async def _look_for(self, exchange: Exchange) -> None:
        answer = exchange.answer
        attempt, pieces, heard_at = answer.attempt, answer.pieces, exchange.heard_at
        subject = subjects.responses(self.id, exchange.request.id)
        try:
            async with asyncio.timeout(
                patience.within(patience.LOOK_UP, self.recovery.left(exchange))
            ):
                async for said in inference_log.read(self.connection, [subject]):
                    self._on_piece(said.subject.encode(), said.header, said.body)
        except (Unavailable, TimeoutError) as error:
            log.warning("pieces of %s could not be looked up: %r", exchange.request.id, error)
        finally:
            if (answer.attempt, answer.pieces) == (attempt, pieces):
                exchange.heard_at = heard_at  # what was read again is no sign of life
            exchange.filling = False
            missing, exchange.missing = exchange.missing, False
        if exchange.done or answer.attempt != attempt or not self.connection.connected:
            return
        if exchange.early or (missing and answer.pieces == pieces):
            log.warning("pieces of %s are lost for good", exchange.request.id)
            answer.broken = Broken(GAP)
            self.recovery.recover(exchange)

    # What goes wrong

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self._watch()

    def _watch(self) -> None:
        now = asyncio.get_running_loop().time()
        for exchange in tuple(self._exchanges.values()):
            try:
                self._watch_one(exchange, now)
            except Exception:
                log.exception("request %s can't be watched", exchange.id)
                self.recovery.end(exchange, inference.ENGINE_FAILED)
        replicas = self.projection.state.replicas
        self._heartbeats.forget(lambda replica: replica in replicas)

    def _watch_one(self, exchange: Exchange, now: float) -> None:
        link = Link(self.connection.connected, self._connected_at, self._lost_at)
        verdict = judge(exchange, now, link, self._heartbeats, self.projection.state)
        match verdict:
            case "wait":
                pass
            case "recover":
                self.recovery.recover(exchange)
            case "engine-failed" | "engine-silent":
                silent = verdict == "engine-silent"
                exchange.answer.broken = Broken(inference.ENGINE_FAILED, gone=True, silent=silent)
                self.recovery.recover(exchange)
            case "fill":
                self._fill(exchange)
            case "try-again":
                self.recovery.try_again(exchange)
            case "nats-lost":
                self.recovery.end(exchange, verdict)
            case _:
                self.recovery.end(exchange, verdict, self.recovery.seen(exchange))
