"""An answer on its way to the client: pieces of an exchange become an ASGI response as they come.

Bodies pass through unchanged. A client that goes away ends the generation at once.
"""

import asyncio
from typing import Protocol
from urllib.parse import quote

from litestar.types import Receive, Send

from nebula.actors.gateway import failures, resuming
from nebula.actors.gateway.answer import GAP
from nebula.actors.gateway.exchange import ClientGone
from nebula.actors.gateway.failures import NotServed
from nebula.events import inference
from nebula.events.inference import Piece
from nebula.http.errors import ApiError, unavailable

WATCH_AFTER = 0.05
"""Seconds after which, at most, it is worth a task to notice that the client leaves."""

_PLAIN = "".join(chr(code) for code in range(33, 127) if chr(code) != "%")
"""What stands in a header as it is; the rest of a name is percent-encoded."""

_REASONS = {
    inference.ENGINE_FAILED: "the engine that worked on this request has failed",
    inference.ENGINE_STOPPED: "the engine that worked on this request was stopped",
    inference.OTHER_PLAN: "no router knew the replica's newest plan yet",
    failures.NATS_LOST: "the connection to NATS was lost",
    failures.NOT_TAKEN: "no router or replica took the request in time",
    failures.TOO_SLOW: "the client reads too slowly",
    GAP: "a part of the answer was lost on its way",
}


class Source(Protocol):
    """Where an answer comes from: a request that is under way, or one that is given again."""

    @property
    def id(self) -> str:
        """The request's id."""

    @property
    def streaming(self) -> bool:
        """Whether the answer is a stream of events; known with its first piece."""

    async def next(self) -> Piece:
        """Give the next piece. Raises ClientGone after `leave`, NotServed."""

    def leave(self) -> None:
        """The client is gone."""


async def relay(source: Source, receive: Receive, send: Send, model: str = "") -> None:
    """Send an answer to the client, unless it leaves first; `model` gives it, if to be told."""
    watch = _Watch(source, receive)
    begun = streaming = False
    try:
        while True:
            try:
                piece = await source.next()
            except NotServed as error:
                failure = unavailable(str(error), error.retry_after)
                await _broken(failure, send, begun=begun, streaming=streaming)
                return
            if piece.failure:
                await _broken(_error(piece), send, begun=begun, streaming=streaming)
                return
            if not begun:
                begun, streaming = True, source.streaming
                await send(
                    {
                        "type": "http.response.start",
                        "status": piece.status,
                        "headers": _headers(source, piece, model),
                    }
                )
            await send(
                {"type": "http.response.body", "body": piece.body, "more_body": not piece.end}
            )
            if piece.end:
                return
    except ClientGone:
        return
    finally:
        watch.stop()


class _Watch:
    """Notices that the client leaves, once an answer takes a while."""

    def __init__(self, source: Source, receive: Receive) -> None:
        self._source = source
        self._receive = receive
        self._task: asyncio.Task[None] | None = None
        if not _young:
            asyncio.get_running_loop().call_later(WATCH_AFTER, _grow_old)
        _young.add(self)

    def stop(self) -> None:
        _young.discard(self)
        if self._task is not None:
            self._task.cancel()

    def start(self) -> None:
        self._task = asyncio.create_task(self._departure())

    async def _departure(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        self._source.leave()


_young: set[_Watch] = set()
"""Watches that have not begun: one timer for all of them, as most answers are there before."""


def _grow_old() -> None:
    watches = tuple(_young)
    _young.clear()
    for watch in watches:
        watch.start()


def _headers(source: Source, piece: Piece, model: str = "") -> list[tuple[bytes, bytes]]:
    headers = [
        (b"content-type", piece.content_type.encode("latin-1")),
        (b"x-request-id", source.id.encode()),
    ]
    if piece.retry_after is not None:
        headers.append((b"retry-after", str(piece.retry_after).encode()))
    if model:
        headers.append((b"x-nebula-model", quote(model, _PLAIN).encode()))
    if source.streaming:
        headers.append((b"cache-control", b"no-cache"))
    elif piece.end:
        headers.append((b"content-length", str(len(piece.body)).encode()))
    return headers


async def fail(error: ApiError, send: Send) -> None:
    """Answer with an error."""
    headers = [(b"content-type", b"application/json")]
    headers += [(key.encode(), value.encode()) for key, value in error.headers.items()]
    headers.append((b"content-length", str(len(error.payload)).encode()))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": error.payload, "more_body": False})


async def _broken(error: ApiError, send: Send, *, begun: bool, streaming: bool) -> None:
    """Tell the client: as a response, or, once a stream has begun, as its last event."""
    if not begun:
        await fail(error, send)
    elif streaming:
        body = b"data: " + error.payload + b"\n\n"
        await send({"type": "http.response.body", "body": body, "more_body": False})
    else:
        # Half a JSON body can't be mended: break the connection, so that nobody takes it for whole.
        raise ConnectionAbortedError(str(error))


def _error(piece: Piece) -> ApiError:
    text = piece.body.decode(errors="replace")
    match piece.failure:
        case inference.REFUSED if piece.status == 429:
            return ApiError(
                429,
                text,
                kind="rate_limit_error",
                code="queue_full",
                retry_after=piece.retry_after,
            )
        case inference.REFUSED:
            return unavailable(text, piece.retry_after)
        case failures.IDLE:
            late = _with("the engine did not go on in time", text)
            return ApiError(504, late, kind="timeout", code="timeout")
        case failures.OVERDUE | inference.ENGINE_TIMED_OUT:
            over = _with("the request's time is over", text)
            return ApiError(504, over, kind="timeout", code="timeout")
        case failures.FATAL:
            return ApiError(
                500,
                f"{text} engines in a row failed while they had this request, and said nothing: "
                "it may be what ends them, so no other gets it. It may have been worked on",
                kind="engine_failed",
                code="engines_failed",
                final=True,
            )
        case failures.CANT_CONTINUE:
            failure, _, reason = text.partition(": ")
            cause = _REASONS.get(failure, failure)
            return unavailable(f"{cause}, and the answer can't go on elsewhere: {reason}")
        case resuming.BEYOND:
            return ApiError(
                400,
                "the stream has ended, and never had an event so late as Last-Event-ID says",
                code="unknown_event",
            )
        case failures.NOT_TAKEN if text:
            taken = _with(_REASONS[failures.NOT_TAKEN], text)
            return unavailable(f"{taken}; it may have been begun all the same")
        case failure:
            return unavailable(_with(_REASONS.get(failure, failure), text))


def _with(reason: str, seen: str) -> str:
    """Add what was seen to the reason why a request fails."""
    return f"{reason}: {seen}" if seen else reason
