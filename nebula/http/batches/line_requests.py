"""Has the request of a batch's line answered, as the same request of a client would be."""

import time

import msgspec
from msgspec import Struct

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.allowance import Reservation, settle
from nebula.actors.gateway.answer import Answer as EngineAnswer
from nebula.actors.gateway.delivery import NOT_RECORDED, new_id
from nebula.actors.gateway.mirroring import Mirror
from nebula.actors.gateway.names import Route
from nebula.actors.gateway.not_served import NotServed
from nebula.actors.router import routing
from nebula.events.batch import Batch
from nebula.events.endpoints import ENDPOINTS, Endpoint
from nebula.events.failures import Failure, words
from nebula.events.inference import BUSY, Piece, Request
from nebula.events.memory import MIB
from nebula.http import dialects, outline, quotas
from nebula.http.batches.line_responses import found_before, keep, line_id, read_line
from nebula.http.cache_salt import salted
from nebula.http.errors import ApiError
from nebula.http.inference import Limits
from nebula.http.principals import KeyRing
from nebula.http.routed import prefix_of, route_of
from nebula.openai.continuation import streams
from nebula.store.responses import ResponseStore

AGAIN = 2.0
"""Seconds until a line that can't be answered now is tried again."""

PATIENCE = 300.0
"""Seconds that a line waits in a router for spare capacity, before it is taken back for a while."""

LARGEST_ANSWER = 64 * MIB

_TRANSIENT = frozenset(
    {
        Failure.REFUSED,
        Failure.NATS_LOST,
        Failure.STOPPING,
        Failure.TOO_SLOW,
        Failure.NOT_TAKEN,
        Failure.BODY_LOST,
        Failure.ENGINE_STOPPED,
        Failure.OTHER_PLAN,
        Failure.OTHER_VERSION,
        Failure.GAP,
        Failure.TAKEN_BACK,
        Failure.OVERDUE,
    }
)
"""Failures that say nothing about the request: it is simply tried again.

Overdue is a line at the end of its batch's window: the batch then says that it has expired.
"""


class Later(Exception):
    """A line can't be answered now. The argument is after how many seconds to try again."""


class Answer(Struct, frozen=True):
    """What came of a line's request: the request's id, the HTTP status, the whole body.

    `of_engine`: the answer as an engine gave it, if one did now.
    """

    request: str
    status: int
    body: bytes
    of_engine: EngineAnswer | None = None


class LineRequests:
    """Sends the requests of lines to engines, and stores the responses among them."""

    def __init__(
        self, gateway: Gateway, responses: ResponseStore, limits: Limits, keys: KeyRing
    ) -> None:
        self._keys = keys
        self._gateway = gateway
        self._responses = responses
        self._limits = limits
        self._mirror = Mirror(gateway)

    async def answer(self, batch: Batch, number: int, body: bytes) -> Answer:
        """Return the answer to a line, also if that is an error. Raise Later, Unavailable."""
        endpoint = ENDPOINTS[batch.request.endpoint]
        try:
            if endpoint.dialect == "responses":
                return await self._response(batch, number, endpoint, body)
            request, route = self._request(batch, endpoint, body)
            return await self._asked(endpoint, request, route)
        except ApiError as error:
            if error.status == 503:
                raise Later(AGAIN) from error
            return Answer(new_id(), error.status, dialects.payload(error, endpoint.dialect))

    async def _response(self, batch: Batch, number: int, endpoint: Endpoint, body: bytes) -> Answer:
        """Return a response, with what comes before it; it is stored as a client's would be.

        A line that is answered again, since the first answer was not noted, has the same id: what
        is stored under it is its answer. Raise ApiError, Later, Unavailable.
        """
        store, identity = self._responses, line_id(batch.id, number)
        if (before := await found_before(store, identity)) is not None:
            return Answer(identity, 200, before)
        limit = self._limits.body_for(self._gateway)
        turn = await read_line(store, batch, identity, body, limit)
        request, route = self._request(batch, endpoint, turn.body)
        answer = await self._asked(endpoint, request, route)
        if answer.status != 200:
            return answer
        return msgspec.structs.replace(answer, body=await keep(store, turn, answer.body))

    async def _asked(self, endpoint: Endpoint, request: Request, route: Route) -> Answer:
        """Have a request answered. Raise ApiError for what will not change, Later."""
        gateway = self._gateway
        principal = self._keys.of_owner(request.user.partition("/")[0])
        reserved: Reservation = []
        try:
            gateway.admit()
            reserved += await quotas.reserved_later(gateway, principal, endpoint, request)
            delivery = gateway.ask(
                request, route.binding, idle=self._limits.patience.idle, usage=NOT_RECORDED
            )
        except NotServed as error:
            settle(reserved, None)
            raise Later(error.retry_after or AGAIN) from error
        delivery.reserved = reserved
        try:
            status, whole = 0, bytearray()
            while True:
                piece = await delivery.next()
                if piece.failure:
                    raise _failed(piece)
                status = status or piece.status
                whole += piece.body
                if len(whole) > LARGEST_ANSWER:
                    text = f"the answer has more than {LARGEST_ANSWER} bytes"
                    raise ApiError(500, text, kind="server_error", code="too_large")
                if piece.end:
                    break
        finally:
            gateway.leave(delivery)
        if status in BUSY:
            raise Later(AGAIN)
        said = bytes(whole)
        if status >= 400:
            said = dialects.translated(status, said, endpoint.dialect)
        return Answer(request.id, status, said, delivery.flight.answer)

    def _request(self, batch: Batch, endpoint: Endpoint, body: bytes) -> tuple[Request, Route]:
        """Return a line's request, and what answers it now. Raise ApiError, Later."""
        gateway = self._gateway
        principal = self._keys.of_owner(batch.request.owner)
        asked = outline.read(endpoint, body)
        if endpoint.streams and streams(asked.stream):
            text = "stream can't be set in a batch: each line gets one whole answer"
            raise ApiError(400, text, param="stream")
        if not gateway.able:
            raise Later(AGAIN)
        body, asked = quotas.within_reach(principal, endpoint, body, asked)
        body, salt = salted(endpoint, body, principal.tenant, asked.fields.cache_salt)
        user = asked.user or batch.id
        route = route_of(gateway, endpoint, asked.model, user, may_use=principal.may_use)
        if route.name != asked.model:
            body = outline.renamed(body, route.name)
        quota = quotas.quota_of(gateway.projection.state, principal, route.binding.model)
        priority = asked.priority
        if quota is not None:
            body = quotas.shaped(quota, endpoint, body, asked)
            priority = quota.priority(priority)
        owner = batch.request.owner
        left = (batch.expires_ns - time.time_ns()) / 1e9
        request = Request(
            new_id(),
            gateway.id,
            route.binding.model,
            endpoint.path,
            body,
            adapter=route.binding.adapter,
            user=f"{owner}/{asked.user}" if asked.user else owner,
            priority=priority,
            patience=PATIENCE,
            timeout=max(left, 1.0),
            prefix=prefix_of(route.binding, asked.prompt, salt),
            slack=True,
        )
        if not routing.served(gateway.projection.state, route.model, route.binding.adapter):
            if batch.request.wake and route.model.asleep:
                self._mirror.wake(request, route.model.id, body)
            raise Later(AGAIN)
        return request, route


def _failed(piece: Piece) -> Exception:
    """Return what to raise for an attempt that broke off."""
    if piece.failure in _TRANSIENT:
        return Later(piece.retry_after or AGAIN)
    text = piece.body.decode("utf-8", "replace")
    said = words(piece.failure).client
    timed_out = piece.failure is Failure.ENGINE_TIMED_OUT
    why = f"{said}: {text}" if text else said
    return ApiError(504 if timed_out else 500, why, kind="server_error", code=str(piece.failure))
