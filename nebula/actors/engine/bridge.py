"""The engine's part: an ASGI middleware by which an unmodified vLLM server speaks NATS itself.

vLLM takes `--middleware IMPORT.PATH`. When the server's lifespan has started, the bridge subscribes
to its replica's subject and calls the ASGI app in-process for every request that arrives there: no
proxy and no second HTTP connection stand in between. Requests over the engine's own port pass
through untouched. It reads its settings from the environment that the node gives the engine.
"""

import asyncio
import logging
import math
import os
from typing import Any

import msgspec
from msgspec import Struct
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from nebula.actors.engine import liveness
from nebula.actors.engine.exchange import (
    App,
    EngineExchange,
    Message,
    Receive,
    Scope,
    Send,
    request_scope,
)
from nebula.actors.engine.liveness import Liveness
from nebula.actors.engine.load import get, healthy, read_context, read_load, read_name
from nebula.events import envelope, inference, subjects
from nebula.events.inference import Finished, Request, StillWanted, UnderWay, Unwanted
from nebula.events.status import ReplicaStatus
from nebula.store.connection import Connection

log = logging.getLogger(__name__)

ANNOUNCE_AFTER = 0.1
"""Seconds without an answer after which a replica says that it has the request."""

TICK = 0.05
FINISHED_AFTER = 0.002
"""Seconds over which the ends of requests are gathered into one message."""

HEARTBEAT = 2.0
REMEMBERED = 4096
"""How many ended or cancelled requests are remembered, so that a late copy starts nothing."""


class BridgeSettings(Struct, frozen=True):
    """What the node told this engine."""

    url: str
    model: str
    replica: str
    version: int

    @classmethod
    def from_environment(cls) -> "BridgeSettings":
        """Read the node's variables. Raises KeyError where an engine was started without them."""
        environ = os.environ
        return cls(
            environ["NEBULA_NATS_URL"],
            environ["NEBULA_MODEL"],
            environ["NEBULA_REPLICA"],
            int(environ["NEBULA_VERSION"]),
        )


class EngineBridge:
    """See the module."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._settings = BridgeSettings.from_environment()
        self._connection = Connection(self._settings.url, f"engine {self._settings.replica}")
        self._state: dict[str, Any] = {}
        self._active: dict[str, EngineExchange] = {}
        self._unwanted_below: dict[str, float] = {}
        self._finished: list[EngineExchange] = []
        self._unwanted = ""
        self._living: list[asyncio.Task[None]] = []
        self._liveness = Liveness(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; join NATS while the lifespan starts, leave it when it ends."""
        if scope["type"] == "http" and scope["path"] == liveness.PATH:
            await liveness.answer(self._liveness.tell(self._active.values()), send)
            return
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._state = {key: scope[key] for key in ("app", "state") if key in scope}
                await self._open()
            await send(message)

        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self._close()
            return message

        await self.app(scope, receiving, sending)

    async def _open(self) -> None:
        settings = self._settings
        await self._connection.open()
        client = self._connection.client
        await client.listen(
            subjects.replica_requests(settings.model, settings.replica), self._on_request
        )
        await client.listen(subjects.cancel(settings.model, "*"), self._on_cancel)
        self._unwanted = client.new_inbox()
        await client.subscribe(f"{self._unwanted}.*", cb=self._on_unwanted)
        await client.flush()
        self._living = [asyncio.create_task(work) for work in (self._beat(), self._tick())]

    async def _close(self) -> None:
        for task in self._living:
            task.cancel()
        self._liveness.close()
        for exchange in tuple(self._active.values()):
            exchange.fail(inference.ENGINE_STOPPED)
        await self._connection.close()

    def _on_request(self, _: bytes, header: bytes, body: bytes) -> None:
        request = envelope.receive_request(self._settings.model, header, body)
        if request is None or request.attempt < self._unwanted_below.get(request.id, 0):
            return
        plan = envelope.read_plan(header)
        if plan is not None and plan != self._settings.version:
            self._refuse(request, plan)
            return
        earlier = self._active.get(request.id)
        if earlier is not None:
            if earlier.request.attempt >= request.attempt:
                return
            earlier.abort()
        exchange = self._exchange(request)
        self._liveness.came(exchange)
        self._active[request.id] = exchange
        if request.attempt > 1:
            exchange.announce()  # it may be what ends engines: then it is known which one had it
        exchange.task = asyncio.create_task(self._serve(exchange))

    def _refuse(self, request: Request, plan: int) -> None:
        """Serve for no other plan than the own one: its router knows less than we, or more.

        Where it knows more, another engine is the replica's by now and has the request too: a word
        from this one would spoil that one's answer.
        """
        settings = self._settings
        log.warning("request %s is for plan %d, not %d", request.id, plan, settings.version)
        if plan < settings.version:
            exchange = self._exchange(request)
            exchange.fail(inference.OTHER_PLAN)
            self._end(exchange)

    def _exchange(self, request: Request) -> EngineExchange:
        settings = self._settings
        return EngineExchange(
            request, settings.replica, self._connection, self._liveness.spoke, self._healthy
        )

    async def _healthy(self) -> bool:
        return await healthy(self.app, self._state)

    def _on_cancel(self, subject: bytes, _: bytes, body: bytes) -> None:
        """End a request, or those attempts of it that come before the number in the body."""
        identity = subject.rpartition(b".")[2].decode()
        below = int(body) if body.isdigit() else math.inf
        self._remember(identity, below)  # the cancellation may have overtaken its request
        self._drop(identity, below)

    async def _on_unwanted(self, message: Msg) -> None:
        """Abort what a gateway says nobody waits for, or all it asked where NATS finds no such."""
        gateway = message.subject.rpartition(".")[2]
        try:
            unwanted = msgspec.json.decode(message.data, type=Unwanted).requests
        except (msgspec.DecodeError, UnicodeDecodeError):
            if message.data:
                return
            unwanted = {
                identity: exchange.request.attempt + 1
                for identity, exchange in self._active.items()
                if exchange.request.gateway == gateway and not exchange.request.keep
            }
        for identity, below in unwanted.items():
            self._drop(identity, below)

    def _drop(self, identity: str, below: float) -> None:
        exchange = self._active.get(identity)
        if exchange is not None and exchange.request.attempt < below:
            exchange.abort()

    async def _serve(self, exchange: EngineExchange) -> None:
        request = exchange.request
        scope = {**request_scope(request), **self._state}
        if "state" in scope:
            scope["state"] = dict(scope["state"])
        try:
            await self.app(scope, exchange.receive, exchange.send)
            exchange.fail(inference.ENGINE_FAILED)  # unless its answer is whole
        except asyncio.CancelledError:
            log.debug("request %s was aborted", request.id)
        except Exception as error:
            if not exchange.complete:
                log.error("request %s failed in the engine", request.id, exc_info=error)
            exchange.fail(inference.ENGINE_FAILED)
        finally:
            exchange.close()
            self._liveness.left(exchange)
            if self._active.get(request.id) is exchange:
                del self._active[request.id]
            self._remember(request.id, request.attempt + 1)
            self._end(exchange)

    def _end(self, exchange: EngineExchange) -> None:
        if not self._finished:
            asyncio.get_running_loop().call_later(FINISHED_AFTER, self._tell_finished)
        self._finished.append(exchange)

    def _tell_finished(self) -> None:
        ended, self._finished = self._finished, []
        finished = Finished(
            self._settings.replica,
            tuple([exchange.request.id for exchange in ended]),
            tuple([exchange.request.id for exchange in ended if exchange.failed]),
            len(self._active),
            tuple([each.request.id for each in ended if not (each.failed or each.proven)]),
        )
        self._post(subjects.finished(self._settings.model), msgspec.json.encode(finished))

    def _remember(self, identity: str, below: float) -> None:
        self._unwanted_below[identity] = max(below, self._unwanted_below.pop(identity, 0))
        if len(self._unwanted_below) > REMEMBERED:
            del self._unwanted_below[next(iter(self._unwanted_below))]

    def _post(self, subject: str, body: bytes) -> None:
        try:
            self._connection.client.post(subject, b"", body)
        except NatsError as error:
            log.warning("could not publish to %s: %r", subject, error)

    async def _ask(self) -> None:
        """Ask every gateway about its requests."""
        asked: dict[str, dict[str, UnderWay]] = {}
        for identity, exchange in self._active.items():
            under_way = UnderWay(exchange.request.attempt, exchange.chunks)
            asked.setdefault(exchange.request.gateway, {})[identity] = under_way
        for gateway, requests in asked.items():
            asking = StillWanted(self._settings.replica, requests)
            try:
                await self._connection.client.publish(
                    subjects.waiting(gateway),
                    msgspec.json.encode(asking),
                    reply=f"{self._unwanted}.{gateway}",
                )
            except NatsError as error:
                log.warning("could not ask %s: %r", gateway, error)

    async def _tick(self) -> None:
        """Announce what takes a while, and end what nobody may want any more."""
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            for exchange in tuple(self._active.values()):
                age = now - exchange.began
                if age >= ANNOUNCE_AFTER:
                    exchange.announce()
                if exchange.request.timeout is not None and age >= exchange.request.timeout:
                    exchange.fail(inference.ENGINE_TIMED_OUT)
                    exchange.abort()
            self._liveness.look()
            await asyncio.sleep(TICK)

    async def _beat(self) -> None:
        settings = self._settings
        subject = subjects.replica_status(settings.model, settings.replica)
        models = await get(self.app, self._state, "/v1/models")
        context = read_context(models)
        self._liveness.knows(read_name(models), self._state)
        while True:
            load = read_load(await get(self.app, self._state, "/metrics"))
            self._liveness.counted(load)
            status = ReplicaStatus(
                settings.replica,
                os.getpid(),
                len(self._active),
                settings.version,
                load.waiting,
                load.cache,
                self._liveness.look(),
                context,
            )
            if self._connection.connected:
                self._post(subject, msgspec.json.encode(status))
                await self._ask()
            await asyncio.sleep(HEARTBEAT)
