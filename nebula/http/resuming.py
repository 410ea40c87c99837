"""Answers given again: to a client that comes back for the rest of its stream, or asks twice."""

from typing import Any

from litestar import Request, get
from litestar.types import ASGIApp, Receive, Scope, Send

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.resuming import Beyond, Resumption, Unknown
from nebula.http.errors import ApiError, unavailable
from nebula.http.relay import relay
from nebula.store.connection import Unavailable

MAX_RESUMED = 1024
"""Answers that a gateway gives again at a time: each holds a part of the stream."""

_DIGITS = 19
"""What has so many is no number of an event."""


async def resume(gateway: Gateway, identity: str, after: int, receive: Receive, send: Send) -> None:
    """Send an answer again, from the event after `after`. Raises ApiError 400, 404, 503."""
    if gateway.resumed >= MAX_RESUMED:
        raise unavailable(f"{gateway.resumed} answers are given again already")
    gateway.resumed += 1
    try:
        await _resume(Resumption(gateway, identity, after), identity, after, receive, send)
    finally:
        gateway.resumed -= 1


async def _resume(
    resumption: Resumption, identity: str, after: int, receive: Receive, send: Send
) -> None:
    try:
        await resumption.open()
    except Unknown:
        raise ApiError(
            404, f"there is no answer {identity!r}, or it is no longer kept", code="unknown_stream"
        ) from None
    except Beyond as error:
        raise ApiError(
            400,
            f"Last-Event-ID {after}: this stream has no such event, it ends with {error}",
            code="unknown_event",
        ) from None
    except Unavailable as error:
        raise unavailable(str(error)) from error
    try:
        await relay(resumption, receive, send)
    finally:
        await resumption.close()


@get("/v1/streams/{identity:str}")
async def show_stream(identity: str, request: Request[Any, Any, Any], gateway: Gateway) -> ASGIApp:
    """Give the rest of an answer: the events after `Last-Event-ID`, or all of them."""
    if not gateway.able:
        raise unavailable("NATS can't be reached")
    last = request.headers.get("last-event-id", "0")
    if not (last.isascii() and last.isdigit() and len(last) < _DIGITS):
        raise ApiError(400, "Last-Event-ID must be the id of an event of this stream")

    async def respond(_: Scope, receive: Receive, send: Send) -> None:
        await resume(gateway, identity, int(last), receive, send)

    return respond
