"""Resumes answers: for a client that reconnects for the rest of its stream, or asks twice."""

from collections.abc import Callable
from typing import Any

from litestar import Request, get
from litestar.types import ASGIApp, Receive, Scope, Send

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.resumption import Beyond, Resumption, Unknown
from nebula.events.endpoints import Dialect
from nebula.http.errors import ApiError, unavailable
from nebula.http.principals import required
from nebula.http.relay import Source, relay
from nebula.store.connection import Unavailable

MAX_RESUMED = 1024
"""Answers that a gateway resumes at a time: each holds a part of the stream in memory."""

_DIGITS = 19
"""Digits of an event's number at most; longer text is not a valid number."""


async def resume(
    gateway: Gateway,
    identity: str,
    owner: str,
    after: int,
    receive: Receive,
    send: Send,
    *,
    around: Callable[[Source], Source] | None = None,
    dialect: Dialect = "openai",
) -> None:
    """Send a stored answer to its owner, from the event after `after`.

    `around`: what the answer passes through. `dialect`: in which form the client expects errors.
    Raise ApiError 400, 404, 503.
    """
    already = len(gateway.given_again)
    if already >= MAX_RESUMED:
        raise unavailable(f"{already} answers are already being resumed")
    resumption = Resumption(gateway, identity, owner, after)
    gateway.given_again.add(resumption)
    try:
        await _open(resumption, identity, after)
        gateway.figures.counts.resumed += 1
        source = resumption if around is None else around(resumption)
        try:
            await relay(source, receive, send, stream=resumption.streams, dialect=dialect)
        finally:
            await resumption.close()
    finally:
        gateway.given_again.discard(resumption)


async def _open(resumption: Resumption, identity: str, after: int) -> None:
    """Read what is stored of an answer. Raise ApiError."""
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


@get("/v1/streams/{identity:str}")
async def show_stream(identity: str, request: Request[Any, Any, Any], gateway: Gateway) -> ASGIApp:
    """Return the rest of an answer: the events after `Last-Event-ID`, or all of them."""
    if not gateway.able:
        raise unavailable("NATS can't be reached")
    last = request.headers.get("last-event-id", "0")
    if not (last.isascii() and last.isdigit() and len(last) < _DIGITS):
        raise ApiError(400, "Last-Event-ID must be the id of an event of this stream")

    whose = required(request.scope, "infer").owner

    async def respond(_: Scope, receive: Receive, send: Send) -> None:
        await resume(gateway, identity, whose, int(last), receive, send)

    return respond
