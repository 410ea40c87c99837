"""The engine's part: an ASGI middleware that connects an unmodified vLLM server to NATS.

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
from msgspec.structs import replace
from nats.errors import Error as NatsError

from nebula.actors.ear import Ear
from nebula.actors.engine import abilities, adapters, door, ending, liveness
from nebula.actors.engine.adapters import Adapters
from nebula.actors.engine.attempts import Attempts
from nebula.actors.engine.bundling import PieceSender
from nebula.actors.engine.cache_telling import CacheTeller
from nebula.actors.engine.ended import EndedRequests
from nebula.actors.engine.exchange import (
    App,
    EngineExchange,
    Message,
    Receive,
    Scope,
    Send,
)
from nebula.actors.engine.fetching import BodyFetcher, BodyLost
from nebula.actors.engine.liveness import Liveness
from nebula.actors.engine.load import get, healthy, read_load, read_name
from nebula.actors.engine.progress import whose
from nebula.actors.engine.replying import reply
from nebula.actors.engine.session import EngineSession
from nebula.actors.engine.still_wanted import StillWantedAsker
from nebula.actors.engine.versions import Version
from nebula.events import envelope, pushed_bodies, subjects
from nebula.events.endpoints import ENDPOINTS, REALTIME
from nebula.events.failures import Failure
from nebula.events.heartbeats import ReplicaHeartbeat
from nebula.events.inference import Request
from nebula.events.reading import last_token, number
from nebula.events.trace_context import VARIABLE
from nebula.store.connection import Connection, NotLetIn

log = logging.getLogger(__name__)

ANNOUNCE_AFTER = 0.1
"""Seconds without an answer after which a replica confirms that it has the request."""

PUSHED_WITHIN = 0.1
"""Seconds within which a body that is sent behind its request has come; else it is fetched."""

TICK = 0.05
HEARTBEAT = 2.0


class BridgeSettings(Struct, frozen=True):
    """The settings that the node gave this engine."""

    url: str
    model: str
    replica: str
    version: int
    folder: str = ""
    key: str = ""
    kv_events: str = ""

    @classmethod
    def from_environment(cls) -> "BridgeSettings":
        """Read the node's variables. Raise KeyError if an engine was started without them."""
        environ = os.environ
        return cls(
            environ["NEBULA_NATS_URL"],
            environ["NEBULA_MODEL"],
            environ["NEBULA_REPLICA"],
            int(environ["NEBULA_VERSION"]),
            environ.get("NEBULA_NODE_FOLDER", ""),
            environ.get("NEBULA_ENGINE_KEY", ""),
            environ.get("NEBULA_KV_EVENTS_ENDPOINT", ""),
        )


class EngineBridge:
    """The ASGI middleware that serves requests from NATS with an engine's app."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._settings = BridgeSettings.from_environment()
        name = f"engine {self._settings.replica}"
        self._connection = Connection(self._settings.url, name, role="engine")
        self._ear = Ear(self._connection)
        self._state: dict[str, Any] = {}
        self._active: dict[str, EngineExchange] = {}
        self._slack: set[str] = set()
        """Those of the active requests that take spare capacity only."""
        self._attempts = Attempts()
        self._ended = EndedRequests(
            self._connection,
            self._settings.model,
            self._settings.replica,
            self._active,
            self._slack,
        )
        own = self._settings
        self._cache = CacheTeller(self._connection, own.model, own.replica, own.kv_events)
        self._pieces = PieceSender(self._connection, own.model, own.replica)
        self._wanted = StillWantedAsker(self._connection, own.replica, self._active, self._drop)
        self._living: list[asyncio.Task[None]] = []
        self._bodies = BodyFetcher(self._connection)
        self._liveness = Liveness(app)
        self._adapters = Adapters(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; connect to NATS when the lifespan starts, disconnect when it ends."""
        if scope["type"] != "lifespan":
            why = door.refusal(scope.get("headers", ()), self._settings.key)
            if why:
                await door.refuse(why, scope["type"], receive, send)
                return
        if scope["type"] == "http" and scope["path"] == liveness.PATH:
            progress = self._liveness.tell(self._active.values())
            own = whose(self._settings.folder, self._settings.replica)
            await reply(send, msgspec.json.encode(replace(progress, whose=own)))
            return
        if scope["type"] == "http" and scope["path"] == abilities.PATH:
            models = await get(self.app, self._state, "/v1/models")
            can = await abilities.abilities(self._state, models)
            await reply(send, msgspec.json.encode(can))
            return
        if scope["type"] == "http" and scope["path"] == adapters.PATH:
            await self._adapters.answer(scope, receive, send)
            return
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._state = {key: scope[key] for key in ("app", "state") if key in scope}
                self._adapters.knows(self._state)
                await self._open()
            await send(message)

        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self._close()
            return message

        await self.app(scope, receiving, sending)

    async def _open(self) -> None:
        self._loop = asyncio.get_running_loop()
        os.environ.pop(VARIABLE, None)  # else requests without a trace belong to that of the start
        try:
            await self._connection.open()
            await self._listen()
            await self._connection.heard()
        except NotLetIn as error:  # a node takes the reason from the line of an ...Error
            raise PermissionError(f"NATS does not let the engine in: {error}") from None
        works = (
            self._beat(),
            self._tick(),
            self._ear.run(),
            self._cache.run(),
            ending.end_if_prevented(self._connection),
        )
        self._living = [asyncio.create_task(work) for work in works]

    async def _listen(self) -> None:
        settings, client = self._settings, self._connection.client
        await self._bodies.listen()
        await client.listen(
            subjects.replica_requests(settings.model, settings.replica), self._on_request
        )
        await client.listen(subjects.pushed_bodies(settings.model, settings.replica), self._on_body)
        await client.listen(subjects.cancel(settings.model, "*"), self._on_cancel)
        await self._wanted.listen()
        await client.listen(subjects.ROUTER_STATUS, self._ear.noting(subjects.ROUTER_STATUS))

    async def _close(self) -> None:
        for task in self._living:
            task.cancel()
        self._liveness.close()
        self._adapters.close()
        for exchange in tuple(self._active.values()):
            exchange.fail(Failure.ENGINE_STOPPED)
        await self._connection.close()

    def _on_request(self, _: bytes, header: bytes, body: bytes) -> None:
        request = envelope.receive_request(self._settings.model, header, body)
        if request is None:
            return
        earlier = self._active.get(request.id)
        under_way = 0 if earlier is None else earlier.request.attempt
        if not self._attempts.wanted(request.id, request.attempt, under_way):
            return
        if request.path not in ENDPOINTS and request.path != REALTIME.path:
            self._forbid(request)
            return
        plan = envelope.read_plan(header)
        if plan is not None and plan != self._settings.version:
            self._refuse(request, plan)
            return
        version = None
        if request.adapter:
            version = self._adapters.find(request.adapter, request.version)
            if version is None and (request.version or self._adapters.has(request.adapter)):
                self._refuse_version(request)
                return
        if earlier is not None:
            self._abort(earlier)
        exchange = self._exchange(request, version)
        if version is not None:
            self._adapters.came(version)
        self._liveness.came(exchange)
        self._active[request.id] = exchange
        if request.slack:
            self._slack.add(request.id)
        if request.attempt > 1:
            exchange.announce()  # it may end engines, so it must be known which engine had it
        if request.prefix:
            self._cache.came(request)
        if not request.pushed:
            self._start(exchange)

    def _on_body(self, _: bytes, header: bytes, body: bytes) -> None:
        """Take the body of a request that has come without it."""
        exchange = self._active.get(pushed_bodies.request_of(header) or "")
        if exchange is None or exchange.task is not None or len(body) != exchange.request.size:
            return
        exchange.comes(body)
        self._start(exchange)

    def _start(self, exchange: EngineExchange) -> None:
        exchange.task = self._loop.create_task(self._serve(exchange))

    def _abort(self, exchange: EngineExchange) -> None:
        """Abort a request, also one that waits for its body."""
        exchange.abort()
        if exchange.task is None:
            self._start(exchange)

    def _refuse(self, request: Request, plan: int) -> None:
        """Refuse a request for another plan: its router knows an older or a newer plan.

        If the plan is newer, another engine runs for the replica and has the request too: an answer
        from this one would corrupt that one's.
        """
        settings = self._settings
        log.warning("request %s is for plan %d, not %d", request.id, plan, settings.version)
        if plan < settings.version:
            exchange = self._exchange(request)
            exchange.fail(Failure.OTHER_PLAN)
            self._ended.add(exchange, self._loop)

    def _forbid(self, request: Request) -> None:
        """Refuse a path that clients must not reach, such as those that change an engine."""
        log.warning("request %s is for %s, which no client may use", request.id, request.path)
        exchange = self._exchange(request)
        exchange.forbid()
        self._ended.add(exchange, self._loop)

    def _refuse_version(self, request: Request) -> None:
        """Refuse a request for a version of an adapter that is not loaded."""
        log.warning(
            "request %s is for version %s of %s", request.id, request.version, request.adapter
        )
        exchange = self._exchange(request)
        exchange.fail(Failure.OTHER_VERSION)
        self._ended.add(exchange, self._loop)

    def _exchange(self, request: Request, version: Version | None = None) -> EngineExchange:
        kind = EngineSession if request.path == REALTIME.path else EngineExchange
        return kind(
            request,
            self._settings.replica,
            self._connection,
            self._pieces,
            self._liveness.spoke,
            self._healthy,
            self._loop,
            version,
        )

    async def _healthy(self) -> bool:
        return await healthy(self.app, self._state)

    def _on_cancel(self, subject: bytes, _: bytes, body: bytes) -> None:
        """End a request, or its attempts below the number in the body."""
        identity = last_token(subject)
        attempt = number(body)
        below = attempt if attempt is not None else math.inf
        self._attempts.forgo(identity, below)  # also what has not arrived here yet
        self._drop(identity, below)

    def _drop(self, identity: str, below: float) -> None:
        exchange = self._active.get(identity)
        if exchange is not None and exchange.request.attempt < below:
            self._abort(exchange)

    async def _serve(self, exchange: EngineExchange) -> None:
        request = exchange.request
        try:
            if exchange.gone:
                return
            if request.size and not exchange.has_body:
                exchange.comes(await self._bodies.fetch(request))
            scope = exchange.scope()
            scope.update(self._state)
            self._cache.name(request, scope)
            if "state" in scope:
                scope["state"] = dict(scope["state"])
            await self.app(scope, exchange.receive, exchange.send)
            exchange.returned()
        except asyncio.CancelledError:
            log.debug("request %s was aborted", request.id)
        except BodyLost as error:
            log.warning("the body of request %s could not be fetched: %s", request.id, error)
            exchange.fail(Failure.BODY_LOST)
        except Exception as error:
            if not exchange.complete:
                log.error("request %s failed in the engine", request.id, exc_info=error)
            exchange.fail(Failure.ENGINE_FAILED)
        finally:
            exchange.close()
            self._liveness.left(exchange, self._loop.time())
            if exchange.version is not None:
                self._adapters.left(exchange.version)
            if self._active.get(request.id) is exchange:
                del self._active[request.id]
                self._slack.discard(request.id)
            self._attempts.forgo(request.id, request.attempt + 1)
            self._ended.add(exchange, self._loop)

    def _post(self, subject: str, body: bytes) -> None:
        try:
            self._connection.client.post(subject, b"", body)
        except NatsError as error:
            log.warning("could not publish to %s: %r", subject, error)

    async def _tick(self) -> None:
        """Confirm requests that take a while, and end requests that may be unwanted."""
        while True:
            now = self._loop.time()
            for exchange in tuple(self._active.values()):
                age = now - exchange.began
                if age >= ANNOUNCE_AFTER:
                    exchange.announce()
                if exchange.request.timeout is not None and age >= exchange.request.timeout:
                    exchange.fail(Failure.ENGINE_TIMED_OUT)
                    self._abort(exchange)
                if exchange.task is None and age >= PUSHED_WITHIN:
                    self._start(exchange)
            self._liveness.look()
            await asyncio.sleep(TICK)

    async def _beat(self) -> None:
        settings = self._settings
        subject = subjects.replica_status(settings.model, settings.replica)
        models = await get(self.app, self._state, "/v1/models")
        can = await abilities.abilities(self._state, models)
        self._liveness.knows(read_name(models), can.tasks, self._state)
        while True:
            load = read_load(await get(self.app, self._state, "/metrics"))
            self._liveness.counted(load)
            status = ReplicaHeartbeat(
                replica=settings.replica,
                pid=os.getpid(),
                running=len(self._active),
                version=settings.version,
                waiting=load.waiting,
                cache=load.cache,
                stalled=self._liveness.look(),
                context=can.max_model_len,
                slack=len(self._slack),
            )
            if self._connection.connected:
                # A request that a heartbeat comes without a mention of counts as lost.
                self._pieces.tell()  # their gateways compare their numbers with what has come
                await self._wanted.ask()
                self._post(subject, msgspec.json.encode(status))
            await asyncio.sleep(HEARTBEAT)
