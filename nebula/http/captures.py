"""Captures over HTTP: which are running, started and stopped, and what they have captured.

What requests said is private: all of it needs the scope `admin`, from a key of no tenant.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from litestar import Request, delete, get, put
from msgspec import Struct
from msgspec.structs import replace

from nebula.actors.gateway.actor import Gateway
from nebula.events.capture import Capture, running
from nebula.events.capture_events import CaptureStarted, CaptureStopped
from nebula.events.captured import CapturedRequest
from nebula.events.showing import shown
from nebula.http import paging
from nebula.http.errors import ApiError, unavailable
from nebula.http.history import reading
from nebula.http.inference import Limits
from nebula.http.intents import read_intent, submitted, valid_id
from nebula.http.principals import principal_of
from nebula.http.scanning import Scans
from nebula.http.views import Accepted
from nebula.store.captures import CaptureStore
from nebula.store.connection import Unavailable

MOST = 1000


class CaptureView(Struct, frozen=True):
    """A capture: of which requests, until when, and started by which principal."""

    id: str
    rule: CaptureStarted
    started_ns: int
    until_ns: int
    by: str


class CapturedPage(Struct, frozen=True):
    """Captured requests without their bodies and answers, the newest last.

    `more`: how many older ones are kept, too.
    """

    requests: list[CapturedRequest]
    more: int


@get("/admin/captures")
async def list_captures(request: Request[Any, Any, Any], gateway: Gateway) -> list[CaptureView]:
    """List the captures that are running, the oldest first."""
    check_no_tenant(request)
    captures = gateway.projection.state.captures.values()
    return [_view(each) for each in running(captures, time.time_ns())]


@put("/admin/captures/{capture:str}", status_code=202, request_max_body_size=None)
async def start_capture(
    capture: str, request: Request[Any, Any, Any], gateway: Gateway, limits: Limits
) -> Accepted:
    """Capture the requests of a model, a key or a tenant from now on, for a while."""
    check_no_tenant(request)
    identity = valid_id(capture, "capture")
    rule, _ = await read_intent(request, gateway, limits, CaptureStarted, optional=False)
    return await submitted(request, gateway, identity, rule)


@delete("/admin/captures/{capture:str}", status_code=202)
async def stop_capture(capture: str, request: Request[Any, Any, Any], gateway: Gateway) -> Accepted:
    """End a capture now; what it has captured is kept for its time."""
    check_no_tenant(request)

    def there() -> None:
        if capture not in gateway.projection.state.captures:
            raise ApiError(404, f"there is no capture {capture!r}", param="capture")

    return await submitted(request, gateway, capture, CaptureStopped(), there=there)


@get("/admin/captured")
async def list_captured(
    request: Request[Any, Any, Any], gateway: Gateway, scans: Scans, capture: str = ""
) -> CapturedPage:
    """List captured requests: what they were and what came of each, but not what they said."""
    check_no_tenant(request)
    most = paging.limit(request.query_params.get("limit"), MOST, MOST)
    found: list[CapturedRequest] = []
    count = 0
    async with aclosing(_captured(gateway, scans)) as all_of_them:
        async for each in all_of_them:
            if capture in ("", each.capture):
                count += 1
                found.append(replace(each, body=None, answer=""))
                del found[:-most]
    return CapturedPage(shown(found), count - len(found))


@get("/admin/captured/{identity:str}")
async def show_captured(
    identity: str, request: Request[Any, Any, Any], gateway: Gateway, scans: Scans
) -> CapturedRequest:
    """Show a captured request with its body, by its id or its caller's own.

    `POST /admin/captured/{identity}/replay` sends it again.
    """
    check_no_tenant(request)
    return shown(await found_request(identity, gateway, scans))


async def found_request(identity: str, gateway: Gateway, scans: Scans) -> CapturedRequest:
    """Return a captured request by its id or its caller's own. Raise ApiError."""
    try:
        found = await CaptureStore(gateway.connection).find(identity)
    except Unavailable as error:
        raise unavailable(str(error)) from error
    if found is None:
        async with aclosing(_captured(gateway, scans)) as all_of_them:
            async for each in all_of_them:
                found = each if identity in each.caller_ids else found
    if found is None:
        text = f"no request {identity[:200]!r} was captured, or it is no longer kept"
        raise ApiError(404, text, param="identity", code="request_not_found")
    return found


async def _captured(gateway: Gateway, scans: Scans) -> AsyncGenerator[CapturedRequest, None]:
    """Yield all that is kept, and let other requests run in between. Raise ApiError."""
    try:
        async with (
            reading(scans) as scan,
            aclosing(CaptureStore(gateway.connection).all()) as all_of_them,
        ):
            began = time.monotonic()
            async for each in all_of_them:
                yield each
                await scan.worked(time.monotonic() - began)
                began = time.monotonic()
    except Unavailable as error:
        raise unavailable(str(error)) from error


def _view(capture: Capture) -> CaptureView:
    return CaptureView(
        capture.id, shown(capture.rule), capture.started_ns, capture.until_ns, capture.by
    )


def check_no_tenant(request: Request[Any, Any, Any]) -> None:
    """Raise ApiError for a key that belongs to a tenant: requests of all tenants are captured."""
    tenant = principal_of(request.scope).tenant
    if tenant:
        text = f"this key belongs to tenant {tenant!r}: captures need a key of no tenant"
        raise ApiError(403, text)
