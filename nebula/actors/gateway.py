"""The gateway's part on NATS: it sends requests, and gives their answers piece by piece.

It must not know HTTP: what a client is told of a failure is decided above it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

import msgspec
from msgspec import Struct
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from nebula.actors import routing
from nebula.actors.actor import Actor
from nebula.events import inference, subjects
from nebula.events.inference import Piece, ReplicaStatus, Request
from nebula.events.standing import Standing, loading_seconds, standing
from nebula.events.state import Model, Named
from nebula.store.connection import Connection

log = logging.getLogger(__name__)

NATS_LOST = "nats-lost"
GAP = "gap"
TOO_SLOW = "too-slow"
MAX_WAITING_PIECES = 8192
"""Pieces that may wait for a client that reads slower than the engine writes."""

SILENCE = 20.0
"""Seconds without a heartbeat of the serving replica after which an answer is given up."""


class NotServed(Exception):
    """A known model can't answer now. `retry_after` in seconds; None where waiting won't help."""

    def __init__(self, reason: str, retry_after: int | None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Exchange:
    """One request that is under way: read its pieces in order, or cancel it."""

    def __init__(self, request: Request, forget: Callable[[str], None]) -> None:
        self.request = request
        self.replica = ""
        self.pid: int | None = None
        self.done = False
        self._forget = forget
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue()
        self._next = 0

    async def piece(self, timeout: float) -> Piece:
        """Give the next piece of the body. Raises TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            return await self._pieces.get()

    def arrive(self, piece: Piece) -> bool:
        """Take a piece from NATS: in order, from one replica, without gaps.

        False where the answer ends here although the engine goes on.
        """
        if self.done or (piece.replica and self.replica not in ("", piece.replica)):
            return True
        if piece.replica:
            self.replica = piece.replica
        if piece.chunk < self._next and not piece.failure:
            return True
        broken = ""
        if piece.chunk > self._next and not piece.failure:
            broken = GAP
        elif self._pieces.qsize() >= MAX_WAITING_PIECES:
            broken = TOO_SLOW
        if broken:
            piece = Piece(piece.chunk, end=True, failure=broken)
        self._next = piece.chunk + 1
        self._pieces.put_nowait(piece)
        if piece.end:
            self.leave()
        return not broken

    def fail(self, failure: str) -> None:
        """End the answer here, for a reason that no piece will tell."""
        self.arrive(Piece(self._next, end=True, failure=failure))

    def leave(self) -> None:
        """Stop listening."""
        self.done = True
        self._forget(self.request.id)


class _Heard(Struct):
    at: float
    pid: int


class Gateway(Actor):
    """See the module."""

    def __init__(self, connection: Connection, identity: str, *, stream_replicas: int = 1) -> None:
        super().__init__(connection, stream_replicas=stream_replicas)
        self.id = identity
        self._exchanges: dict[str, Exchange] = {}
        self._heard: dict[str, _Heard] = {}
        self.started = False

    async def begin(self) -> None:
        """Listen for answers and heartbeats."""
        client = self.connection.client
        await client.subscribe(subjects.responses(self.id, "*"), cb=self._on_piece)
        await client.subscribe(subjects.waiting(self.id), cb=self._on_waiting)
        await client.subscribe(subjects.REPLICA_STATUS, cb=self._on_status)
        self.connection.on_disconnect(self._on_disconnect)
        self.started = True

    async def work(self) -> None:
        """End the answers whose engine is gone or silent."""
        while True:
            self._watch()
            try:
                async with asyncio.timeout(2.0):
                    await self.projection.changed()
            except TimeoutError:
                continue

    def named(self, name: str) -> Named | None:
        """Give what a public name stands for."""
        return self.projection.state.names.get(name)

    def model(self, named: Named) -> Model | None:
        """Give the model behind a name."""
        return self.projection.state.models.get(named.model)

    def standing(self, model: Model) -> Standing:
        """Give how a model stands."""
        return standing(self.projection.state, model)

    @property
    def able(self) -> bool:
        """Whether requests can be served: NATS is there and the log has been folded."""
        return self.started and self.connection.connected

    async def ready(self, named: Named, patience: float) -> None:
        """Wait until the model, and the adapter where one is named, is served. Raises NotServed."""
        deadline = asyncio.get_running_loop().time() + patience
        while True:
            state = self.projection.state
            model = state.models.get(named.model)
            if model is None or model.unloading:
                raise NotServed(f"model {named.model!r} has been unloaded", None)
            if routing.able(state, model, named.adapter):
                return
            stands = standing(state, model)
            self._hopeless(model, named, stands)
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                raise NotServed(self._progress(model, named, stands), 5)
            try:
                async with asyncio.timeout(left):
                    await self.projection.changed()
            except TimeoutError:
                continue

    def _hopeless(self, model: Model, named: Named, stands: Standing) -> None:
        if stands.word in ("failed", "idle"):
            raise NotServed(f"model {model.name!r} is not served: {stands.detail}", None)
        if not named.adapter or stands.word != "ready":
            return
        statuses = [
            replica.adapters.get(named.adapter)
            for replica in self.projection.state.replicas_of(model)
            if replica.serving
        ]
        if statuses and all(status is not None and not status.loaded for status in statuses):
            reason = next(status.reason for status in statuses if status is not None)
            raise NotServed(f"adapter {named.adapter!r} could not be loaded: {reason}", None)

    def _progress(self, model: Model, named: Named, stands: Standing) -> str:
        if named.adapter and stands.word == "ready":
            return f"adapter {named.adapter!r} is loading"
        seconds = loading_seconds(self.projection.state, model, time.time_ns())
        since = f" for {seconds:.0f} s" if seconds else ""
        return f"model {model.name!r} is {stands.word}{since}: {stands.detail}"

    async def ask(self, request: Request) -> Exchange:
        """Send a request on its way. Raises NotServed when NATS is gone."""
        if not self.connection.connected:
            raise NotServed("NATS can't be reached", 1)
        exchange = Exchange(request, self._leave)
        self._exchanges[request.id] = exchange
        try:
            await self.connection.client.publish(
                subjects.requests(request.model),
                request.body,
                headers=inference.request_headers(request),
            )
        except NatsError as error:
            exchange.leave()
            raise NotServed(f"NATS refused the request: {error}", 1) from error
        return exchange

    async def cancel(self, exchange: Exchange) -> None:
        """End a request wherever it is now; nobody waits for its answer any more."""
        if exchange.done:
            return
        exchange.leave()
        await self._cancel(exchange.request)

    async def _cancel(self, request: Request) -> None:
        try:
            await self.connection.client.publish(subjects.cancel(request.model, request.id))
        except NatsError as error:
            log.warning("could not cancel %s: %r", request.id, error)

    def _leave(self, identity: str) -> None:
        self._exchanges.pop(identity, None)

    async def _on_piece(self, message: Msg) -> None:
        exchange = self._exchanges.get(message.subject.rpartition(".")[2])
        if exchange is None:
            return
        piece = inference.read_piece(message.headers, message.data)
        if piece is not None and not exchange.arrive(piece):
            await self._cancel(exchange.request)

    async def _on_waiting(self, message: Msg) -> None:
        """Tell an engine that asks when nobody waits for a request any more."""
        if message.reply and message.data.decode(errors="replace") not in self._exchanges:
            with contextlib.suppress(NatsError):
                await self.connection.client.publish(message.reply)

    async def _on_status(self, message: Msg) -> None:
        try:
            status = msgspec.json.decode(message.data, type=ReplicaStatus)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        self._heard[status.replica] = _Heard(asyncio.get_running_loop().time(), status.pid)

    async def _on_disconnect(self) -> None:
        for exchange in tuple(self._exchanges.values()):
            exchange.fail(NATS_LOST)

    def _watch(self) -> None:
        state = self.projection.state
        now = asyncio.get_running_loop().time()
        for exchange in tuple(self._exchanges.values()):
            if not exchange.replica:
                continue
            replica = state.replicas.get(exchange.replica)
            engine = replica.engine if replica is not None else None
            if engine is None or exchange.pid not in (None, engine.pid):
                exchange.fail(inference.ENGINE_FAILED)
                continue
            exchange.pid = engine.pid
            heard = self._heard.get(exchange.replica)
            if heard is not None and heard.pid == engine.pid and now - heard.at > SILENCE:
                exchange.fail(inference.ENGINE_FAILED)
        for name in [name for name in self._heard if name not in state.replicas]:
            del self._heard[name]
