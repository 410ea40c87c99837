"""One request as the console shows it: where it is now, and its way as far as NATS still has it."""

from typing import Any

from litestar import Request, get
from msgspec import Struct

from nebula.actors.gateway.actor import Gateway
from nebula.actors.in_flight_asking import list_in_flight
from nebula.events.key import OF_KEY
from nebula.events.requests_in_flight import InFlightQuestion, RequestInFlight
from nebula.events.showing import shown
from nebula.events.state import State
from nebula.http.errors import ApiError, unavailable
from nebula.http.history import reading
from nebula.http.principals import principal_of
from nebula.http.request_story import KeptRequest, of_request
from nebula.http.requests_in_flight import MOST, check_id
from nebula.http.scanning import Scans
from nebula.http.views import moment
from nebula.store.connection import Unavailable


class StepView(Struct, frozen=True):
    """Something that happened to a request, and why."""

    time: str
    text: str
    reasons: tuple[str, ...]


class RequestDetail(Struct, frozen=True):
    """A request: where it is if it is in flight, and its way in steps while that is kept.

    `id`: as it was asked for. `key`: the API key of its caller, "" for none. `others`:
    earlier requests that had the same id of their caller's.
    """

    id: str
    in_flight: RequestInFlight | None
    headline: str
    key: str
    steps: list[StepView]
    others: tuple[str, ...]


@get("/admin/requests/{identity:str}")
async def show_request(
    identity: str, request: Request[Any, Any, Any], gateway: Gateway, scans: Scans
) -> RequestDetail:
    """Show one request by Nebula's id or its caller's: where it is, and its way until now.

    A key that belongs to a tenant sees requests of that tenant.
    """
    check_id(identity)
    if not gateway.able:
        raise unavailable("NATS can't be reached")
    tenant = principal_of(request.scope).tenant
    state = gateway.projection.state
    try:
        found = await list_in_flight(gateway.connection, InFlightQuestion("", tenant, MOST))
        async with reading(scans):
            kept = await of_request(gateway.connection, identity, state)
    except Unavailable as error:
        raise unavailable(str(error)) from error
    running = next(
        (each for each in found.requests if identity in (each.id, *each.caller_ids)), None
    )
    if kept is not None and tenant not in ("", _tenant(state, kept)):
        kept = None
    if running is None and kept is None:
        text = (
            f"no request {identity!r} is in flight, and none is kept: its way is kept for some "
            "minutes. The id is in the answer's x-request-id header"
        )
        raise ApiError(404, text, param="identity", code="request_not_found")
    key = _key(kept) if kept is not None else ""
    return RequestDetail(
        identity,
        shown(running),
        shown(kept.story.headline if kept is not None else f"request {identity} is in flight"),
        key or (running.key if running is not None else ""),
        [
            StepView(moment(each.time), shown(each.text), shown(each.reasons))
            for each in (kept.story.steps if kept is not None else ())
        ],
        shown(kept.story.others if kept is not None else ()),
    )


def _key(kept: KeptRequest) -> str:
    """Return the id of the key of its caller; "" for none."""
    principal = kept.principal
    return principal.removeprefix(OF_KEY) if principal.startswith(OF_KEY) else ""


def _tenant(state: State, kept: KeptRequest) -> str:
    key = state.keys.get(_key(kept))
    return key.tenant if key is not None else ""
