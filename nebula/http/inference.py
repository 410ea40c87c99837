"""The paths that engines answer: those of vLLM that clients may use.

They are plain ASGI in front of Litestar, which handles all other paths. To keep a request cheap,
only the fields that concern the gateway are read from its body.
"""

import logging
from collections.abc import Awaitable
from functools import partial
from itertools import count

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send
from msgspec import Struct
from msgspec.structs import replace

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.allowance import Reservation, settle
from nebula.actors.gateway.answer import prepared
from nebula.actors.gateway.budget import Hold
from nebula.actors.gateway.delivery import Delivery, new_id
from nebula.actors.gateway.idempotency import (
    KeyReused,
    TooManyClaims,
    claim,
    ended_in_failure,
    keyed_id,
)
from nebula.actors.gateway.mirroring import Mirror
from nebula.actors.gateway.names import Route, shadow
from nebula.actors.gateway.not_served import NotServed
from nebula.events.endpoints import ENDPOINTS, REALTIME, Endpoint
from nebula.events.inference import LOAD_PATIENCE, Request
from nebula.events.memory import MIB
from nebula.http import outline, own_fields, paths, quotas, turned_away
from nebula.http.bodies import ClientLeft, read_body
from nebula.http.capturing import capture
from nebula.http.composing import Composed, Composer, asks_of
from nebula.http.errors import ApiError, unavailable
from nebula.http.field_lines import read_once
from nebula.http.principals import required
from nebula.http.quota_fields import AllLimitLines
from nebula.http.realtime import Realtime
from nebula.http.relay import Source, fail, relay
from nebula.http.responses import turns
from nebula.http.responses.recording import Recorded
from nebula.http.responses.turns import Turn
from nebula.http.resuming import resume
from nebula.http.server.cycle import LINES, whole_of
from nebula.http.starting import starting
from nebula.http.uploads import read
from nebula.openai.continuation import streams
from nebula.store.needs import LEAST_PAYLOAD
from nebula.store.responses import ResponseStore

log = logging.getLogger(__name__)

LARGEST_BODY = 64 * MIB
"""Bytes of a request's body at most, unless the gateway is told another number."""

_ALLOW = (b"allow", b"POST, OPTIONS")


class Patience(Struct, frozen=True):
    """Time limits in seconds: for a replica, and between two pieces of an answer."""

    load: float = LOAD_PATIENCE
    idle: float = 600.0


class Limits(Struct, frozen=True):
    """The gateway's limits: bytes of a body, and time limits."""

    body: int = LARGEST_BODY
    patience: Patience = Patience()

    def body_for(self, gateway: Gateway) -> int:
        """Return the largest body, in bytes, that can be passed on. Raise ApiError 503."""
        connection = gateway.connection
        if connection.max_body < LEAST_PAYLOAD and (lacking := connection.lacking):
            raise unavailable(lacking)
        return self.body


class InferenceRoutes:
    """An ASGI application for OpenAI's inference paths; `rest` answers all other paths.

    `root`: the prefix under which a proxy shows the gateway's paths.
    """

    def __init__(
        self,
        rest: ASGIApp,
        gateway: Gateway,
        limits: Limits,
        responses: ResponseStore,
        root: str = "",
    ) -> None:
        self._rest = rest
        self._responses = responses
        self.gateway = gateway
        self.limits = limits
        self._root = root
        self._mirror = Mirror(gateway)
        self.limit_lines = AllLimitLines(gateway.limiting)
        patience = limits.patience
        self.composer = Composer(gateway, patience.load, root)
        self._realtime = Realtime(gateway, patience.load, patience.idle, root)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer one ASGI connection."""
        if scope["type"] == ScopeType.WEBSOCKET:
            return self._realtime(scope, receive, send)
        if scope["type"] != ScopeType.HTTP:
            return self._rest(scope, receive, send)
        endpoint = ENDPOINTS.get(scope["path"].rstrip("/"))
        if endpoint is None:
            if scope["path"].rstrip("/") == REALTIME.path:
                return fail(_not_a_websocket(), send)
            return self._rest(scope, receive, send)
        if scope["method"] == "OPTIONS":
            return _show_methods(send)
        return self._infer(endpoint, scope, receive, send)

    async def _infer(
        self, endpoint: Endpoint, scope: HTTPScope, receive: Receive, send: Send
    ) -> None:
        hold = Hold(self.gateway.bodies)
        reserved: Reservation = []
        try:
            answering = self._answer(endpoint, scope, receive, send, hold, reserved)
            await self.or_error(answering, endpoint, scope, send)
        finally:
            hold.release()
            if reserved:
                settle(reserved, None)

    async def or_error(
        self, answering: Awaitable[None], endpoint: Endpoint, scope: HTTPScope, send: Send
    ) -> None:
        """Let a request be answered, or send its client an error."""
        try:
            await answering
        except ApiError as error:
            turned_away.count(self.gateway, endpoint.path, scope, error)
            await fail(error, send, endpoint.dialect)
        except NotServed as error:
            refusal = unavailable(str(error), error.retry_after)
            turned_away.count(self.gateway, endpoint.path, scope, refusal)
            await fail(refusal, send, endpoint.dialect)
        except ClientLeft:
            turned_away.count(self.gateway, endpoint.path, scope, None)
        except ConnectionAbortedError:
            raise
        except Exception as error:
            log.exception("a request to %s failed", endpoint.path)
            text = f"internal error: {type(error).__name__}"
            broken = ApiError(500, text, kind="internal_error")
            turned_away.count(self.gateway, endpoint.path, scope, broken)
            await fail(broken, send, endpoint.dialect)

    async def _answer(
        self,
        endpoint: Endpoint,
        scope: HTTPScope,
        receive: Receive,
        send: Send,
        hold: Hold,
        reserved: Reservation,
    ) -> None:
        """Let a request be answered. Raise ApiError, NotServed, ClientLeft.

        `reserved`: gets what the request reserves of its limits, until it is sent.
        """
        gateway, limits = self.gateway, self.limits
        if scope["method"] != "POST":
            path = f"{self._root}{endpoint.path}"
            raise paths.wrong_method(scope["method"], path, _ALLOW[1].decode())
        if not gateway.started:
            raise starting(gateway)
        principal = required(scope, "infer")
        gateway.admit()
        asks = read_once(scope, asks_of)
        kept = asks.kept
        headers = own_fields.by_name(scope)
        body = await read_body(receive, headers, limits.body_for(gateway), hold)
        identity, key = new_id(), principal.owner
        original, turn = body, None
        if endpoint.dialect == "responses":
            limit = limits.body_for(gateway)
            turn = await turns.read_turn(self._responses, body, key, identity, limit)
            body = turn.body
        if endpoint.form:
            asked = await read(endpoint, asks.content_type, body)
        else:
            asked = outline.read(endpoint, body)
        response = "" if turn is None else turn.head.id
        composed = self.composer.compose(endpoint, principal, asks, body, asked, identity, response)
        request, quota = composed.request, composed.quota
        stream = endpoint.streams and streams(asked.stream)
        if turn is not None and turn.stored and (turn.wishes.background or kept is not None):
            made = (turn, request, (kept or "").encode("latin-1"), original)
            await turns.give_made(self._responses, made, receive, send, stream=stream)
            return
        if quota is not None:
            found = gateway.limiting.reserve(quota.limited, composed.tokens)
            if found is None:
                found = await quotas.reserved(gateway, quota, composed.tokens, endpoint.dialect)
            reserved += found
            scope["state"][LINES] = self.limit_lines.of(quota.limited, endpoint.dialect)
        if stream:
            request = prepared(request)
        if not gateway.connection.connected:
            await gateway.reconnected()
        if kept is not None:
            if not gateway.large_bodies.fits(request.body):
                raise _too_large_to_keep(gateway.large_bodies.room)
            request, again = await self._claim(request, kept.encode("latin-1"), original, stream)
            if again:
                settle(reserved, None)
                dialect = endpoint.dialect
                around = None if turn is None else partial(self._recorded, turn, again=True)
                await resume(
                    gateway, request.id, key, 0, receive, send, around=around, dialect=dialect
                )
                return
        delivery = self.send(request, composed, reserved)
        source: Source = delivery
        recorded: Recorded | None = None
        captured = capture(gateway, delivery, original) if gateway.capturing.rules else None
        source = captured or source
        if turn is not None:
            source = recorded = self._recorded(turn, source)
        try:
            await relay(
                *(source, receive, send, composed.served_by),
                stream=stream,
                dialect=endpoint.dialect,
                whole=whole_of(send),
            )
        finally:
            gateway.leave(delivery, hold)
            if captured is not None:
                captured.close()
            if recorded is not None:
                await recorded.close()

    def send(self, request: Request, composed: Composed, reserved: Reservation) -> Delivery:
        """Send a request, and its copies. Raise NotServed.

        The delivery takes over what is `reserved`, which is empty then.
        """
        route, gateway = composed.route, self.gateway
        delivery = gateway.ask(request, route.binding, idle=self.limits.patience.idle)
        if reserved:
            delivery.reserved = reserved.copy()
            reserved.clear()
        if route.mirror or route.wake:
            self._copy(request, route, composed.sent)
        return delivery

    def _recorded(self, turn: Turn, source: Source, *, again: bool = False) -> Recorded:
        """Return the answer to a request for a response, to be stored if it is to be."""
        return Recorded(source, self._responses, turn.head, stored=turn.stored, again=again)

    def _copy(self, request: Request, route: Route, original: bytes) -> None:
        """Send copies of a request to the models that mirror it."""
        state = self.gateway.projection.state
        if route.wake:
            model = state.models[route.wake]
            body = outline.renamed(original, model.name, request.content_type)
            self._mirror.wake(request, model.id, body)
        copy = shadow(state, route.mirror, route) if route.mirror else None
        if copy is not None:
            body = outline.renamed(original, copy.name, request.content_type)
            self._mirror.send(request, copy.binding, body)

    async def _claim(
        self, request: Request, key: bytes, body: bytes, stream: bool
    ) -> tuple[Request, bool]:
        """Make a request resumable; return whether the same request is already running.

        A request is the same if its client sent the same `body`, wherever its model name led. Raise
        ApiError if the key was used for another request; raise NotServed.
        """
        gateway = self.gateway
        fingerprint = outline.fingerprint(request.path, body, request.content_type)
        for number in count():
            identity = keyed_id(request.user, number, key) if key else request.id
            request = replace(request, id=identity, keep=True)
            try:
                other = await claim(gateway, request, fingerprint, stream=stream)
            except KeyReused:
                raise ApiError(
                    422,
                    "this Idempotency-Key was used for another request",
                    code="idempotency_key_reused",
                ) from None
            except TooManyClaims as error:
                raise ApiError(
                    429,
                    str(error),
                    kind="rate_limit_error",
                    code="too_many_kept",
                    retry_after=error.retry_after,
                ) from error
            if other is None:
                return request, False
            if not await ended_in_failure(gateway, other.request):
                return other.request, True
        raise AssertionError("count() has an end")


async def _show_methods(send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": [_ALLOW]})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _not_a_websocket() -> ApiError:
    text = f"{REALTIME.path} is a WebSocket: GET with Connection: Upgrade, Upgrade: websocket"
    return ApiError(426, text, code="upgrade_required", upgrade="websocket")


def _too_large_to_keep(room: int) -> ApiError:
    text = f"an answer can be kept only if the request has at most {room} bytes"
    return ApiError(413, text, code="body_too_large")
