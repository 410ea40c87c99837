"""Answers the most common requests without a task: each is sent on in the turn in which it is read.

It is a shorter way beside `InferenceRoutes`, which stays the authority and takes whatever is
unusual: an answer that is a stream or an error, and a client that leaves (ADR 75, 83).
"""

import asyncio
import logging
from typing import cast

from litestar.types import HTTPScope, Receive, Scope, Send

from nebula.actors.gateway.allowance import Reservation, settle
from nebula.actors.gateway.answer import prepared
from nebula.actors.gateway.budget import Hold
from nebula.actors.gateway.delivery import Delivery, new_id
from nebula.actors.gateway.not_served import NotServed
from nebula.events.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, Endpoint
from nebula.events.inference import Piece
from nebula.http import outline
from nebula.http.composing import asks_of
from nebula.http.errors import ApiError
from nebula.http.field_lines import FieldLines, read_once
from nebula.http.guard import Guard
from nebula.http.inference import InferenceRoutes
from nebula.http.principals import STATE, KeyRing, Principal
from nebula.http.relay import plain, relay
from nebula.http.server.cycle import LINES, Cycle, whole_of
from nebula.openai.continuation import streams

log = logging.getLogger(__name__)

_PATHS = {endpoint.path: endpoint for endpoint in (CHAT, COMPLETIONS, EMBEDDINGS)}


class ShortWay:
    """Takes requests whose head came before on their connection, and whose body is complete."""

    def __init__(
        self, routes: InferenceRoutes, guard: Guard, keys: KeyRing, stopping: asyncio.Event
    ) -> None:
        """`stopping`: whether the gateway ends."""
        self._routes = routes
        self._guard = guard
        self._keys = keys
        self._stopping = stopping

    def __call__(self, cycle: Cycle, body: bytes) -> bool:
        """Answer a request; return False, without any effect, if the usual way must."""
        lines = cycle.scope["headers"]
        if type(lines) is not FieldLines or not self._guard.allowed_before(lines):
            return False
        principal = self._keys.principal_again(lines)
        endpoint = _PATHS.get(cycle.scope["path"])
        if principal is None or endpoint is None or self._stopping.is_set():
            return False
        if "infer" not in principal.scopes:
            return False
        hold = Hold(self._routes.gateway.bodies)
        reserved: Reservation = []
        try:
            under_way = self._sent(cycle, principal, endpoint, body, hold, reserved)
        except (ApiError, NotServed):
            under_way = None
        except Exception:
            log.exception("a request to %s could not take the short way", endpoint.path)
            under_way = None
        if under_way is None:
            hold.release()
            settle(reserved, None)
            return False
        under_way.begin()
        return True

    def _sent(
        self,
        cycle: Cycle,
        principal: Principal,
        endpoint: Endpoint,
        body: bytes,
        hold: Hold,
        reserved: Reservation,
    ) -> "_UnderWay | None":
        """Send a request; return None if it is unusual. Raise ApiError, NotServed."""
        routes, scope = self._routes, cycle.scope
        gateway = routes.gateway
        asks = read_once(scope, asks_of)
        if (
            asks.kept is not None
            or not gateway.able
            or gateway.capturing.rules
            or asks.coded
            or len(body) > routes.limits.body_for(gateway)
            or not hold.grow(len(body))
        ):
            return None
        gateway.admit()
        asked = outline.read(endpoint, body)
        composed = routes.composer.compose(endpoint, principal, asks, body, asked, new_id())
        quota = composed.quota
        if quota is not None:
            found = gateway.limiting.reserve(quota.limited, composed.tokens)
            if found is None:
                return None
            reserved += found
            scope["state"][LINES] = routes.limit_lines.of(quota.limited, endpoint.dialect)
        stream = endpoint.streams and streams(asked.stream)
        request = prepared(composed.request) if stream else composed.request
        delivery = routes.send(request, composed, reserved)
        scope["state"][STATE] = principal
        return _UnderWay(routes, endpoint, cycle, delivery, hold, composed.served_by, stream)


class _UnderWay:
    """A request that was sent, until its answer is written or a task takes over."""

    __slots__ = (
        *("_cycle", "_delivery", "_endpoint", "_hold", "_routes", "_served_by", "_stream"),
    )

    def __init__(
        self,
        routes: InferenceRoutes,
        endpoint: Endpoint,
        cycle: Cycle,
        delivery: Delivery,
        hold: Hold,
        served_by: str,
        stream: bool,
    ) -> None:
        self._routes = routes
        self._endpoint = endpoint
        self._cycle = cycle
        self._delivery = delivery
        self._hold = hold
        self._served_by = served_by
        self._stream = stream

    def begin(self) -> None:
        """Wait for the answer, or for the departure of the client."""
        self._cycle.take_over = self._take_over
        if self._stream:
            self._take_over()
        else:
            self._delivery.call_once(self._answer)

    def _answer(self, piece: Piece) -> None:
        """Write an answer that is whole."""
        try:
            written = self._written(piece)
        except Exception:
            log.exception("the answer to %s could not be written", self._delivery.id)
            written = False
        if written:
            self._cycle.take_over = None
            self._hold.release()
        else:
            self._take_over()

    def _written(self, piece: Piece) -> bool:
        """Write an answer; return False, and write nothing, if it is not whole or not plain."""
        delivery = self._delivery
        return (
            piece.end
            and not (piece.failure or delivery.streaming)
            and plain(piece, self._served_by)
            and self._cycle.send_whole(
                piece.status,
                delivery.id.encode(),
                piece.content_type.encode("latin-1"),
                piece.body,
            )
        )

    def _take_over(self) -> None:
        """Let a task have all that comes."""
        cycle = self._cycle
        cycle.take_over = None
        self._delivery.call_once(None)
        if cycle.disconnected or cycle.left:
            self._delivery.leave()
        cycle.run_now(self._relay)

    async def _relay(self, scope: Scope, receive: Receive, send: Send) -> None:
        dialect = self._endpoint.dialect
        answering = relay(
            *(self._delivery, receive, send, self._served_by),
            stream=self._stream,
            dialect=dialect,
            whole=whole_of(send),
        )
        try:
            await self._routes.or_error(answering, self._endpoint, cast("HTTPScope", scope), send)
        finally:
            self._routes.gateway.leave(self._delivery, self._hold)
            self._hold.release()
