"""The logs of engines over HTTP: their last lines, what came since, and what comes as a stream."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated, Any

from litestar import Request, get
from litestar.params import HeaderParameter
from litestar.response import Response, ServerSentEvent, ServerSentEventMessage, Stream

from nebula.actors.engine_logs import NoLog, ask_log
from nebula.actors.gateway.actor import Gateway
from nebula.actors.node.log_reading import LogReply, LogRequest
from nebula.events.plain_text import without_long_words
from nebula.events.showing import shown_text
from nebula.http.errors import ApiError, unavailable
from nebula.http.intents import known
from nebula.http.lasting_streams import STILL_HERE, error_event, while_allowed

POSITION = "x-nebula-log-position"
"""The position after the returned lines: `after` of the request that goes on."""

PAUSE = 0.5
"""Seconds between two looks at a log that is followed."""

KEEP_ALIVE = 10.0
"""Seconds of silence after which a stream of events sends a sign of life."""

MOST_LINES = 10_000

LONGEST_WORD = 2048
"""Characters of a word of a log that is shown; a longer one becomes its length."""

STREAMS = 32
"""Logs that are followed through one gateway at a time."""

BUSY = "as many logs as allowed are followed through this gateway"

_NAMES = ("tail", "after", "follow")
_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
_TEXT = "text/plain"


class Followers:
    """How many logs are followed through one gateway."""

    def __init__(self) -> None:
        self.count = 0


@get("/admin/replicas/{replica:str}/logs")
async def show_log(
    request: Request[Any, Any, Any],
    replica: str,
    gateway: Gateway,
    followers: Followers,
    tail: str | None = None,
    after: str | None = None,
    follow: str = "false",
    last_event_id: Annotated[str | None, HeaderParameter(name="Last-Event-ID")] = None,
) -> Response[str] | Stream | ServerSentEvent:
    """Show the last lines of an engine's log, or those since a position; or follow it as a stream.

    A stream is text, or events if the client accepts them: each has the position as its id.
    """
    for name in request.query_params:
        if name not in _NAMES:
            text = f"there is no parameter {name!r}: take {', '.join(_NAMES)}"
            raise ApiError(400, text, param=name)
    if follow not in ("true", "false"):
        raise ApiError(400, f"follow: {follow!r} is neither true nor false", param="follow")
    as_events = "text/event-stream" in request.headers.get("accept", "")
    lines = 100 if tail is None else _number("tail", tail, 1, MOST_LINES)
    offset = None if after is None else _number("after", after)
    if as_events and last_event_id is not None:
        offset = _number("Last-Event-ID", last_event_id)
    if offset is not None and tail is not None and last_event_id is None:
        raise ApiError(400, "tail: take either tail or after", param="tail")
    reply = await _ask(gateway, replica, LogRequest(replica, lines, offset))
    if follow == "false" and not as_events:
        headers = {POSITION: str(reply.offset), "cache-control": "no-store"}
        return Response(_shown(reply.text), media_type=_TEXT, headers=headers)
    if followers.count >= STREAMS:
        raise unavailable(BUSY, 5)
    if as_events:
        events = _events(gateway, followers, replica, reply)
        return ServerSentEvent(while_allowed(request, events, error_event))
    told = while_allowed(request, _text(gateway, followers, replica, reply), _line)
    return Stream(told, media_type=_TEXT, headers=dict(_HEADERS))


def _line(error: ApiError) -> str:
    return f"nebula: {error}\n"


async def _ask(gateway: Gateway, identity: str, request: LogRequest) -> LogReply:
    """Return a node's reply. Raise ApiError 404 or 503."""
    replica = known("replica", gateway.projection.state.replicas, identity)
    if not gateway.able:
        raise unavailable("NATS can't be reached")
    try:
        return await ask_log(gateway.connection, replica.node, request)
    except NoLog as error:
        if error.away:
            raise unavailable(str(error)) from error
        raise ApiError(404, str(error), param="replica", code="log_not_found") from error


def _number(name: str, text: str, least: int = -(10**15), most: int = 10**15) -> int:
    """A position may be negative: that of a file that was rotated before its node was started."""
    if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) < 17):
        raise ApiError(400, f"{name}: {text!r} is not a whole number", param=name)
    if not least <= int(text) <= most:
        raise ApiError(400, f"{name}: {text} is not from {least} to {most}", param=name)
    return int(text)


def _shown(text: str) -> str:
    """Return what a log says, without secrets and control characters."""
    return shown_text(without_long_words(text, LONGEST_WORD))


async def _text(
    gateway: Gateway, followers: Followers, replica: str, reply: LogReply
) -> AsyncGenerator[str, None]:
    async with aclosing(_replies(gateway, followers, replica, reply)) as replies:
        async for each in replies:
            if isinstance(each, ApiError):
                yield _line(each)
            elif each is not None and each.text:
                yield _shown(each.text)


async def _events(
    gateway: Gateway, followers: Followers, replica: str, reply: LogReply
) -> AsyncGenerator[ServerSentEventMessage, None]:
    """Yield the lines of each reply as one event, and the reason why there are no more."""
    async with aclosing(_replies(gateway, followers, replica, reply)) as replies:
        async for each in replies:
            if isinstance(each, ApiError):
                yield error_event(each)
            elif each is None:
                yield STILL_HERE
            elif each.text:
                text = _shown(each.text).removesuffix("\n")
                yield ServerSentEventMessage(id=str(each.offset), event="lines", data=text)


async def _replies(
    gateway: Gateway,
    followers: Followers,
    replica: str,
    reply: LogReply,
    now: Callable[[], float] = lambda: asyncio.get_running_loop().time(),
) -> AsyncGenerator[LogReply | ApiError | None, None]:
    """Yield what a log gets until the gateway stops; the last is why there is no more, if so.

    Yield None as a sign of life. A log that has grown by more than one reply is read on at once.
    """
    followers.count += 1
    try:
        said_at = now()
        yield reply
        while not gateway.leaving.is_set():
            if not reply.text:
                try:
                    async with asyncio.timeout(PAUSE):
                        await gateway.leaving.wait()
                    return
                except TimeoutError:
                    pass
            try:
                reply = await _ask(gateway, replica, LogRequest(replica, offset=reply.offset))
            except ApiError as error:
                yield error
                return
            if reply.text or now() - said_at >= KEEP_ALIVE:
                said_at = now()
                yield reply if reply.text else None
    finally:
        followers.count -= 1
