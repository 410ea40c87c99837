"""The requests in flight over HTTP: which there are in the whole cluster, and an end to one."""

import re
from typing import Any

from litestar import Request, delete, get
from msgspec import Struct

from nebula.actors.gateway.actor import Gateway
from nebula.actors.in_flight_asking import cancel_in_flight, list_in_flight
from nebula.events.requests_in_flight import CancelQuestion, InFlightQuestion, RequestInFlight
from nebula.events.showing import shown
from nebula.events.validation import model_by_reference
from nebula.http import paging
from nebula.http.errors import ApiError, unavailable
from nebula.http.principals import principal_of
from nebula.store.connection import Unavailable

MOST = 1000

_NAMES = ("model", "tenant", "limit")
_ID = re.compile(r"[!-~]{1,512}")


class RequestsInFlight(Struct, frozen=True):
    """The requests in flight, the oldest first. `more`: how many others there are.

    `gateways`: those that replied; the requests of others are missing here.
    """

    requests: tuple[RequestInFlight, ...]
    more: int
    gateways: tuple[str, ...]


@get("/admin/requests")
async def list_requests(request: Request[Any, Any, Any], gateway: Gateway) -> RequestsInFlight:
    """List the requests in flight of all gateways: where each is, and how far.

    A key that belongs to a tenant sees the tenant's.
    """
    query = request.query_params
    for name in query:
        if name not in _NAMES:
            text = f"there is no filter {name!r}: take {', '.join(_NAMES)}"
            raise ApiError(400, text, param=name)
    question = InFlightQuestion(
        _model(gateway, query.get("model", "")),
        _tenant(request, query.get("tenant", "")),
        paging.limit(query.get("limit"), MOST, MOST),
    )
    _check(gateway)
    try:
        found = await list_in_flight(gateway.connection, question)
    except Unavailable as error:
        raise unavailable(str(error)) from error
    return RequestsInFlight(shown(found.requests), found.more, found.gateways)


@delete("/admin/requests/{identity:str}", status_code=200)
async def cancel_request(
    identity: str, request: Request[Any, Any, Any], gateway: Gateway
) -> RequestInFlight:
    """Cancel a request in flight, and return how it was: its client gets an error.

    The id may be its caller's own.
    """
    check_id(identity)
    principal = principal_of(request.scope)
    _check(gateway)
    try:
        question = CancelQuestion(identity, principal.name, principal.tenant)
        was = await cancel_in_flight(gateway.connection, question)
    except Unavailable as error:
        raise unavailable(str(error)) from error
    if was is None:
        text = f"no gateway has a request {identity!r} in flight: it has ended, or never was"
        raise ApiError(404, text, param="identity", code="request_not_found")
    return shown(was)


def check_id(identity: str) -> None:
    """Raise ApiError 400 for what can't be the id of a request."""
    if _ID.fullmatch(identity) is None:
        raise ApiError(400, f"{identity[:80]!r} is not a valid id of a request", param="identity")


def _check(gateway: Gateway) -> None:
    if not gateway.able:
        raise unavailable("NATS can't be reached")


def _model(gateway: Gateway, reference: str) -> str:
    if not reference:
        return ""
    state = gateway.projection.state
    model = model_by_reference(state, reference)
    if model is None:
        there = ", ".join(sorted(state.models)) or "none"
        text = f"there is no model {reference!r}; there are: {there}"
        raise ApiError(404, text, param="model", code="model_not_found")
    return model.id


def _tenant(request: Request[Any, Any, Any], asked: str) -> str:
    own = principal_of(request.scope).tenant
    if own and asked not in ("", own):
        raise ApiError(403, f"this key belongs to tenant {own!r}", param="tenant")
    return asked or own
