"""The admin API of limits: those of tenants and models are set here, those of a key at the key."""

from typing import Any, get_args

from litestar import Request, get, put
from msgspec import Struct

from nebula.actors.gateway.actor import Gateway
from nebula.events.limit_events import Kind, LimitsSet
from nebula.events.state import State
from nebula.events.usage_limits import NO_LIMITS, UsageLimits, limits_of
from nebula.history.limits import present_limits
from nebula.http.errors import ApiError
from nebula.http.inference import Limits
from nebula.http.intents import read_intent, submitted, valid_id
from nebula.store.connection import Unavailable


class LimitsView(Struct, frozen=True):
    """The limits of a key, a tenant or a model."""

    kind: str
    id: str
    limits: UsageLimits


class LimitsInUse(LimitsView, frozen=True):
    """The limits of a key, a tenant or a model, and what is used of those that are counted.

    `used`: by name, what is spent in the present window or reserved by running requests, or is in
    flight, as gateways told within the last seconds; null if that can't be looked up now.
    """

    used: dict[str, int] | None = None


def _view(state: State, kind: str, identity: str) -> LimitsView:
    return LimitsView(kind, identity, state.limits.get(limits_of(kind, identity), NO_LIMITS))


@get("/admin/limits")
async def list_limits(gateway: Gateway) -> list[LimitsInUse]:
    """List the limits of keys, tenants and models, and what is used of them."""
    found = []
    for place, limits in present_limits(gateway.projection.state).items():
        kind, identity = place.split(".", 1)
        try:
            used = await gateway.limiting.used((kind, identity))
        except Unavailable:
            used = None
        found.append(LimitsInUse(kind, identity, limits, used))
    return found


@put("/admin/limits/{kind:str}/{subject:str}", status_code=202, request_max_body_size=None)
async def put_limits(
    kind: str, subject: str, request: Request[Any, Any, Any], gateway: Gateway, limits: Limits
) -> LimitsView:
    """Set the limits of a tenant or a model: the body is all of them, as JSON."""
    if kind not in get_args(Kind):
        raise ApiError(400, f"{kind!r} has no limits: use tenant or model", param="kind")
    identity = valid_id(subject, "id")
    found, _ = await read_intent(request, gateway, limits, UsageLimits, optional=False)
    event = LimitsSet("tenant" if kind == "tenant" else "model", found)
    await submitted(request, gateway, identity, event)
    return _view(gateway.projection.state, kind, identity)
