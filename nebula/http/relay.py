"""Sends an answer to the client: its pieces become an ASGI response as they arrive.

Bodies pass through unchanged. A client that goes away ends the generation at once.
"""

from collections.abc import Callable
from typing import Protocol
from urllib.parse import quote

import msgspec
from litestar.types import HTTPResponseBodyEvent, HTTPResponseStartEvent, Receive, Send
from msgspec.structs import replace

from nebula.actors.gateway.delivery import ClientGone, Quiet
from nebula.actors.gateway.not_served import NotServed
from nebula.events.endpoints import Dialect
from nebula.events.failures import Failure, words
from nebula.events.inference import Piece
from nebula.events.reading import UNREADABLE
from nebula.http import dialects
from nebula.http.errors import ApiError, unavailable
from nebula.http.watching import Watch, comment_after
from nebula.openai.sse import ends_event

MAX_REFUSAL = 64 * 1024
"""Bytes that are kept of an engine's error until it is whole, to be told in the client's form."""

_PLAIN = "".join(chr(code) for code in range(33, 127) if chr(code) != "%")
"""Characters that stand in a header unchanged; others are percent-encoded."""

_EARLY = Piece(0, b"", status=200, content_type="text/event-stream; charset=utf-8")
"""Replaces an engine's head for a stream that has not begun yet."""

_OF_STREAMS = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
"""Keeps proxies from buffering events; the second is nginx's, which others have adopted."""


class Source(Protocol):
    """The source of an answer: a running request, or a stored answer that is resumed."""

    @property
    def id(self) -> str:
        """The request's id."""

    @property
    def streaming(self) -> bool:
        """Whether the answer is a stream of events; known once its first piece is there."""

    async def next(self) -> Piece:
        """Return the next piece.

        Raise ClientGone after `leave`, Quiet after `nudge`, NotServed.
        """

    def nudge(self) -> None:
        """Let a waiting `next` raise Quiet."""

    def leave(self) -> None:
        """Note that the client has disconnected."""


async def relay(
    source: Source,
    receive: Receive,
    send: Send,
    model: str = "",
    *,
    stream: bool = False,
    dialect: Dialect = "openai",
    whole: Callable[[int, bytes, bytes, bytes], bool] | None = None,
) -> None:
    """Send an answer to the client, unless it leaves first.

    `model`: the model that answers, if the client is to be told. `stream`: the client asked for
    events, so that the head can be sent before the first event. `dialect`: in which form the client
    expects errors. `whole`: sends an answer that is complete at once (`Cycle.send_whole`).
    """
    watch = Watch(source, receive, stream)
    begun = streaming = early = False
    refusal: Piece | None = None
    try:
        while True:
            try:
                piece = await source.next()
            except Quiet:
                if not begun:
                    begun = streaming = early = True
                    await send(_start(200, _headers(source, _EARLY, model)))
                if comment := comment_after(watch.last):
                    await send(_part(comment))
                    watch.said()
                continue
            except NotServed as error:
                failure: ApiError | None = unavailable(str(error), error.retry_after)
            else:
                failure = error_of(piece) if piece.failure else None
            if failure is not None:
                if not begun:
                    await fail(failure, send, dialect, source.id)
                else:
                    await _broken(failure, send, (dialect, watch.last), streaming=streaming)
                return
            if refusal is not None:
                piece = replace(refusal, body=refusal.body + piece.body, end=piece.end)
                refusal = None
            if not begun and _goes_on(piece):
                refusal = piece
                continue
            if not begun:
                begun, streaming = True, source.streaming
                if piece.end and not streaming and whole is not None and plain(piece, model):
                    kind = piece.content_type.encode("latin-1")
                    if whole(piece.status, source.id.encode(), kind, piece.body):
                        return
                if piece.status >= 400 and piece.end:
                    piece = _translated(piece, dialect)
                await send(_start(piece.status, _headers(source, piece, model)))
                if streaming and not stream:
                    watch.follow()
            elif early and not source.streaming:
                await _as_event(piece, source, send, dialect)
                return
            await send(_part(piece.body, more=not piece.end))
            if piece.end:
                return
            if streaming:
                watch.last = piece.body
    except ClientGone:
        return
    finally:
        watch.stop()


def plain(piece: Piece, model: str) -> bool:
    """Return whether an answer needs no header fields but those that every good answer has."""
    return (
        piece.status < 400
        and piece.content_type != ""
        and piece.retry_after is None
        and not (piece.fields or model)
    )


def _goes_on(piece: Piece) -> bool:
    """Return whether more of an engine's error is to come, as far as it is kept."""
    return piece.status >= 400 and not piece.end and len(piece.body) <= MAX_REFUSAL


def _translated(piece: Piece, dialect: Dialect) -> Piece:
    """Return an engine's whole error in the form that the client expects."""
    body = dialects.translated(piece.status, piece.body, dialect)
    if body == piece.body:
        return piece
    return replace(piece, body=body, content_type="application/json")


async def _as_event(piece: Piece, source: Source, send: Send, dialect: Dialect) -> None:
    """Send an answer that is not a stream as the only event of a stream that has begun.

    It is JSON on one line, because many clients can't read other events.
    """
    status, said = piece.status, piece.body
    while not piece.end and len(said) <= MAX_REFUSAL:
        try:
            piece = await source.next()
        except Quiet:
            continue
        except NotServed as error:
            await _broken(unavailable(str(error)), send, (dialect, b""), streaming=True)
            return
        if piece.failure:
            await _broken(error_of(piece), send, (dialect, b""), streaming=True)
            return
        said += piece.body
    if dialect != "openai":
        refused = dialects.refusal(status, said)
        await send(_part(dialects.event(refused, dialect), more=False))
        return
    try:
        data = msgspec.json.format(said, indent=-1)
    except UNREADABLE:
        text = said[:MAX_REFUSAL].decode(errors="replace") or "nothing more"
        kind = "invalid_request_error" if status < 500 else "internal_error"
        data = ApiError(status, f"the engine answered with {status}: {text}", kind=kind).payload
    await send(_part(b"data: " + data + b"\n\n", more=False))


def _start(status: int, headers: list[tuple[bytes, bytes]]) -> HTTPResponseStartEvent:
    return {"type": "http.response.start", "status": status, "headers": headers}


def _part(body: bytes, *, more: bool = True) -> HTTPResponseBodyEvent:
    return {"type": "http.response.body", "body": body, "more_body": more}


def _headers(source: Source, piece: Piece, model: str = "") -> list[tuple[bytes, bytes]]:
    headers = [(b"x-request-id", source.id.encode())]
    if piece.content_type:
        headers.append((b"content-type", piece.content_type.encode("latin-1")))
    if piece.retry_after is not None:
        headers.append((b"retry-after", str(piece.retry_after).encode()))
    for name, value in piece.fields:
        headers.append((name.encode("latin-1"), value.encode("latin-1")))
    if model:
        headers.append((b"x-nebula-model", quote(model, _PLAIN).encode()))
    if source.streaming or piece is _EARLY:
        headers += _OF_STREAMS
    elif piece.end:
        headers.append((b"content-length", str(len(piece.body)).encode()))
    return headers


async def fail(
    error: ApiError, send: Send, dialect: Dialect = "openai", identity: str = ""
) -> None:
    """Answer with an error, in the form that the client expects.

    `identity`: the id of the request, if it has become one in the cluster.
    """
    body = dialects.payload(error, dialect)
    headers = [(b"content-type", b"application/json")]
    if identity:
        headers.append((b"x-request-id", identity.encode()))
    headers += [(key.encode(), value.encode()) for key, value in error.headers.items()]
    headers.append((b"content-length", str(len(body)).encode()))
    await send(_start(error.status, headers))
    await send(_part(body, more=False))


async def _broken(
    error: ApiError,
    send: Send,
    told: tuple[Dialect, bytes],
    *,
    streaming: bool,
) -> None:
    """Send an error to the client amid an answer: as the last event of a stream.

    `told`: in which form it expects errors, and what it got last.
    """
    if streaming:
        amid = told[1] and not ends_event(told[1])
        event = dialects.event(error, *told)
        await send(_part(b"\n\n" + event if amid else event, more=False))
    else:
        # Half a JSON body can't be repaired: break the connection, so that the client notices.
        raise ConnectionAbortedError(str(error))


def error_of(piece: Piece) -> ApiError:
    """Return the error that a client gets for an answer that failed."""
    text = piece.body.decode(errors="replace")
    said = words(piece.failure).client
    match piece.failure:
        case Failure.REFUSED if piece.status == 429:
            return ApiError(
                429,
                text,
                kind="rate_limit_error",
                code="queue_full",
                retry_after=piece.retry_after,
            )
        case Failure.REFUSED:
            return unavailable(text, piece.retry_after)
        case Failure.IDLE | Failure.OVERDUE | Failure.ENGINE_TIMED_OUT:
            return ApiError(504, _with(said, text), kind="timeout", code="timeout")
        case Failure.FATAL:
            return ApiError(
                500, f"{text} {said}", kind="engine_failed", code="engines_failed", final=True
            )
        case Failure.CANCELLED:
            return ApiError(409, said, kind="cancelled", code="request_cancelled", final=True)
        case Failure.CANT_CONTINUE:
            failure, _, reason = text.partition(": ")
            return unavailable(f"{words(failure).client}, and {said}: {reason}")
        case Failure.BEYOND:
            return ApiError(400, said, code="unknown_event")
        case Failure.NOT_TAKEN if text:
            return unavailable(f"{_with(said, text)}; it may have been begun all the same")
        case _:
            return unavailable(_with(said, text))


def _with(reason: str, seen: str) -> str:
    """Return the reason for a failure together with what was seen."""
    return f"{reason}: {seen}" if seen else reason
