"""The answer of one engine to a response that no client waits for, on its way into the store."""

import asyncio
import time

from nebula.actors.gateway.delivery import ClientGone, Delivery, Quiet
from nebula.events.failures import Failure, read_note, words
from nebula.events.inference import BUSY, Piece
from nebula.events.stored_responses import Asked
from nebula.http import dialects
from nebula.http.errors import ApiError
from nebula.http.responses.attempt import Attempt
from nebula.openai.response_events import TERMINAL, data_of
from nebula.openai.sse import EventSplitter

WAITING = 3600.0
"""Seconds that a response may wait for a replica in all."""

FLUSH = 0.25
"""Seconds after which what an engine has said is stored."""

FLUSH_BYTES = 16 * 1024

AGAIN = 2.0
"""Seconds until a response that no replica takes now is tried again."""

_NOT_ENGINES = frozenset({Failure.NATS_LOST, Failure.STOPPING, Failure.TOO_SLOW, Failure.NOT_TAKEN})
"""Failures that say nothing about the request: it is simply tried again."""


class Later(Exception):
    """A response can't be made now. The argument is after how many seconds to try again."""


class EngineFailed(Exception):
    """An engine has not finished a response; the text says why."""


class Answer:
    """The answer of one engine to one response, on its way into the store."""

    def __init__(self, asked: Asked, delivery: Delivery, attempt: Attempt) -> None:
        self._asked = asked
        self._delivery = delivery
        self._attempt = attempt
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Store it to its end. Raise ApiError, EngineFailed, Later, and what an Attempt raises."""
        splitter, status, body = EventSplitter(), 0, b""
        try:
            while True:
                try:
                    piece = await self._delivery.next()
                except Quiet:
                    await self._flush()
                    continue
                except ClientGone:
                    raise Later(AGAIN) from None
                if piece.failure:
                    await self._flush()
                    raise _failed(self._asked, piece)
                status = piece.status or status
                if status != 200 or not self._delivery.streaming:
                    body += piece.body
                    if piece.end:
                        raise _refused(self._asked, status, body, piece.retry_after)
                    continue
                for event in splitter.feed(piece.body):
                    if await self._event(event):
                        return
                if piece.end:
                    await self._flush()
                    raise EngineFailed("the engine ended its stream before the response")
                await self._flush_soon()
        finally:
            self._stop_timer()

    async def _event(self, event: bytes) -> bool:
        """Take an event; return whether it was the last one."""
        data = data_of(event)
        if data is None:
            return False
        if data["type"] == "error":
            await self._flush()
            raise EngineFailed(f"the engine says: {data.get('message')}")
        await self._attempt.begin()
        if data["type"] in TERMINAL:
            await self._attempt.finish(data["response"], data["type"])
            return True
        self._attempt.run.take(data)
        return False

    async def _flush_soon(self) -> None:
        added = self._attempt.run.added
        if not added:
            return
        if sum(len(event.get("delta") or "") + 200 for event in added) >= FLUSH_BYTES:
            await self._flush()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(FLUSH, self._nudge)

    def _nudge(self) -> None:
        self._timer = None
        self._delivery.nudge()

    async def _flush(self) -> None:
        self._stop_timer()
        await self._attempt.flush()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def wait(asked: Asked, why: str, seconds: float | None) -> Exception:
    """Return what to raise for a response that no replica takes now."""
    if time.time() - asked.head.created > WAITING:
        text = f"no replica has taken it within {WAITING:g} s: {why}"
        return ApiError(503, text, kind="server_error", code="unavailable")
    return Later(max(AGAIN, seconds or 0.0))


def _failed(asked: Asked, piece: Piece) -> Exception:
    """Return what to raise for an attempt that broke off."""
    text = piece.body.decode(errors="replace")
    said = words(piece.failure).client
    match piece.failure:
        case Failure.REFUSED:
            return wait(asked, text, piece.retry_after)
        case Failure.CANT_CONTINUE:  # this stream can't, but the response is simply run again
            cause, _ = read_note(piece.body)
            return (
                Later(0) if cause == Failure.ENGINE_STOPPED else EngineFailed(words(cause).client)
            )
        case Failure.OVERDUE | Failure.ENGINE_TIMED_OUT:
            return ApiError(504, said, kind="timeout", code="timeout")
        case Failure.CANCELLED:
            return ApiError(500, said, kind="server_error", code="request_cancelled")
        case Failure.FATAL:
            return ApiError(500, f"{text} {said}", kind="server_error", code="engines_failed")
        case failure if failure in _NOT_ENGINES:
            return wait(asked, said, None)
        case _:
            return EngineFailed(f"{said}: {text}" if text else said)


def _refused(asked: Asked, status: int, body: bytes, retry_after: int | None) -> Exception:
    """Return what to raise for an engine's answer that is not a stream."""
    if status in BUSY:
        return wait(asked, "the engine is full", retry_after)
    error = dialects.refusal(status, body)
    return EngineFailed(str(error)) if status >= 500 or status == 200 else error
