"""The engine's part: an ASGI middleware by which an unmodified vLLM server speaks NATS itself.

vLLM takes `--middleware IMPORT.PATH`. When the server's lifespan has started, the bridge subscribes
to its replica's subject and calls the ASGI app in-process for every request that arrives there: no
proxy and no second HTTP connection stand in between. Requests over the engine's own port pass
through untouched. It reads its settings from the environment that the node gives the engine.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec
from msgspec import Struct
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from nebula.events import inference, subjects
from nebula.events.inference import Finished, Piece, ReplicaStatus, Request
from nebula.store.connection import Connection

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

ANNOUNCE_AFTER = 0.1
"""Seconds without an answer after which a replica says that it has the request."""

HEARTBEAT = 2.0
ABORT_GRACE = 5.0
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
        self._active: dict[str, _Exchange] = {}
        self._ended: dict[str, None] = {}
        self._unwanted = ""
        self._beating: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; join NATS while the lifespan starts, leave it when it ends."""
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
        await client.subscribe(
            subjects.replica_requests(settings.model, settings.replica), cb=self._on_request
        )
        await client.subscribe(subjects.cancel(settings.model, "*"), cb=self._on_cancel)
        self._unwanted = client.new_inbox()
        await client.subscribe(f"{self._unwanted}.*", cb=self._on_unwanted)
        await client.flush()
        self._beating = asyncio.create_task(self._beat())

    async def _close(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
        for exchange in tuple(self._active.values()):
            await exchange.fail(inference.ENGINE_STOPPED)
        await self._connection.close()

    async def _on_request(self, message: Msg) -> None:
        request = inference.read_request(self._settings.model, message.headers, message.data)
        if request is None or request.id in self._active or request.id in self._ended:
            return
        exchange = _Exchange(request, self._settings.replica, self._connection)
        self._active[request.id] = exchange
        exchange.task = asyncio.create_task(self._serve(exchange))

    async def _on_cancel(self, message: Msg) -> None:
        identity = message.subject.rpartition(".")[2]
        exchange = self._active.get(identity)
        if exchange is None:
            self._remember(identity)  # the cancellation has overtaken its request
        else:
            exchange.abort()

    async def _on_unwanted(self, message: Msg) -> None:
        """Abort a request: its gateway says that nobody waits, or NATS that there is no gateway."""
        exchange = self._active.get(message.subject.rpartition(".")[2])
        if exchange is not None:
            exchange.abort()

    async def _serve(self, exchange: "_Exchange") -> None:
        request = exchange.request
        scope = {**_http_scope(request), **self._state}
        if "state" in scope:
            scope["state"] = dict(scope["state"])
        try:
            await self.app(scope, exchange.receive, exchange.send)
            if not exchange.complete:
                await exchange.fail(inference.ENGINE_FAILED)
        except asyncio.CancelledError:
            log.debug("request %s was aborted", request.id)
        except Exception:
            log.exception("request %s failed in the engine", request.id)
            await exchange.fail(inference.ENGINE_FAILED)
        finally:
            exchange.close()
            del self._active[request.id]
            self._remember(request.id)
            finished = Finished(request.id, self._settings.replica)
            await _publish(
                self._connection,
                subjects.finished(self._settings.model),
                msgspec.json.encode(finished),
            )

    def _remember(self, identity: str) -> None:
        self._ended[identity] = None
        if len(self._ended) > REMEMBERED:
            del self._ended[next(iter(self._ended))]

    async def _ask(self, request: Request) -> None:
        """Ask whether somebody still waits: a cancellation may be lost together with NATS."""
        identity = request.id
        await _publish(
            self._connection,
            subjects.waiting(request.gateway),
            identity.encode(),
            reply=f"{self._unwanted}.{identity}",
        )

    async def _beat(self) -> None:
        settings = self._settings
        subject = subjects.replica_status(settings.model, settings.replica)
        while True:
            status = ReplicaStatus(
                settings.replica, os.getpid(), len(self._active), settings.version
            )
            if self._connection.connected:
                await _publish(self._connection, subject, msgspec.json.encode(status))
                for exchange in tuple(self._active.values()):
                    await self._ask(exchange.request)
            await asyncio.sleep(HEARTBEAT)


class _Exchange:
    """One request as the ASGI app sees it, and its answer as pieces on NATS."""

    def __init__(self, request: Request, replica: str, connection: Connection) -> None:
        self.request = request
        self.task: asyncio.Task[None] | None = None
        self.complete = False
        self._replica = replica
        self._connection = connection
        self._subject = subjects.responses(request.gateway, request.id)
        self._body: bytes | None = request.body
        self._gone = asyncio.Event()
        self._chunk = 0
        self._status = 0
        self._content_type = ""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._announcing = loop.call_later(ANNOUNCE_AFTER, self._announce)
        self._forcing: asyncio.TimerHandle | None = None
        self._announcement: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        """Give the body, then nothing until the client is gone."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Turn what the app sends into pieces; the head waits for the first of the body."""
        if self._gone.is_set():
            raise OSError("the client is gone")
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = dict(message.get("headers", ()))
            self._content_type = headers.get(b"content-type", b"").decode("latin-1")
            return
        if message["type"] != "http.response.body" or self.complete:
            return
        body = bytes(message.get("body", b""))
        more = bool(message.get("more_body", False))
        if not body and more:
            return
        room = self._connection.max_body - inference.HEADER_ROOM
        while len(body) > room:
            await self._piece(body[:room], end=False)
            body = body[room:]
        self.complete = not more
        await self._piece(body, end=not more)

    async def fail(self, failure: str) -> None:
        """End the answer with a reason, unless it is whole already."""
        if not self.complete:
            self.complete = True
            await self._piece(b"", end=True, failure=failure)

    def abort(self) -> None:
        """Tell the app that its client is gone; cancel it if that does not end it soon."""
        self._gone.set()
        if self.task is not None and self._forcing is None:
            self._forcing = self._loop.call_later(ABORT_GRACE, self.task.cancel)

    def close(self) -> None:
        """Let go of the timers."""
        self._announcing.cancel()
        if self._forcing is not None:
            self._forcing.cancel()

    async def _piece(self, body: bytes, *, end: bool, failure: str = "") -> None:
        self._announcing.cancel()
        first = self._chunk == 0
        piece = Piece(
            self._chunk,
            status=self._status if first else 0,
            content_type=self._content_type if first else "",
            replica=self._replica if first else "",
            end=end,
            failure=failure,
        )
        self._chunk += 1
        await _publish(self._connection, self._subject, body, inference.piece_headers(piece))

    def _announce(self) -> None:
        headers = inference.piece_headers(Piece(-1, replica=self._replica))
        self._announcement = self._loop.create_task(
            _publish(self._connection, self._subject, b"", headers)
        )


def _http_scope(request: Request) -> Scope:
    return {
        "type": "http",
        # Up to 2.3 an app learns of a client's departure through `receive`; later ones through
        # errors of `send` alone, which come only with the next token.
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": request.path,
        "raw_path": request.path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"nebula"),
            (b"content-type", request.content_type.encode("latin-1", "replace")),
            (b"content-length", str(len(request.body)).encode()),
            (b"x-request-id", request.id.encode()),
        ],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
        "extensions": {},
    }


async def _publish(
    connection: Connection,
    subject: str,
    body: bytes,
    headers: dict[str, str] | None = None,
    *,
    reply: str = "",
) -> None:
    try:
        await connection.client.publish(subject, body, reply, headers=headers)
    except NatsError as error:
        log.warning("could not publish to %s: %r", subject, error)
