"""Copies a captured request's answer while it passes to its client."""

import logging
import time

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.capturing import Capturing
from nebula.actors.gateway.delivery import Delivery
from nebula.events.capture import Capture
from nebula.events.captured import CapturedRequest
from nebula.events.inference import Piece
from nebula.openai.answer_text import text_of
from nebula.openai.redacted import LARGEST, hiding, redacted

log = logging.getLogger(__name__)

LONGEST_TEXT = 64 * 1024
"""Characters of an answer's text that are kept."""


def capture(gateway: Gateway, delivery: Delivery, body: bytes) -> "CapturedAnswer | None":
    """Return an answer that is captured, if its request is; `body`: as its client sent it."""
    found = gateway.capturing.of(delivery.flight.request)
    return None if found is None else CapturedAnswer(gateway.capturing, found, delivery, body)


class CapturedAnswer:
    """An answer whose request is captured; `close` hands both over, however it ended."""

    def __init__(
        self, capturing: Capturing, capture: Capture, delivery: Delivery, body: bytes
    ) -> None:
        self._capturing = capturing
        self._capture = capture
        self._delivery = delivery
        self._body = body
        self._began = time.monotonic()
        self._time = time.time()
        self._status = self._size = 0
        self._failure = ""
        self._kept: list[bytes] = []
        self._streaming = False
        self._ended = False

    @property
    def id(self) -> str:
        """The request's id."""
        return self._delivery.id

    @property
    def streaming(self) -> bool:
        """Whether the answer is a stream of events."""
        return self._delivery.streaming

    async def next(self) -> Piece:
        """Return the next piece for the client. Raise ClientGone, Quiet."""
        piece = await self._delivery.next()
        self._status = piece.status or self._status
        self._failure = piece.failure or self._failure
        self._ended = piece.end or bool(piece.failure)
        self._streaming = self._delivery.streaming
        if self._capture.rule.contents == "keep" and self._size <= LARGEST:
            self._kept.append(piece.body)
        self._size += len(piece.body)
        return piece

    def nudge(self) -> None:
        """Have `next` raise Quiet if it waits for a piece."""
        self._delivery.nudge()

    def leave(self) -> None:
        """Drop all further pieces: the client is gone."""
        self._delivery.leave()

    def close(self) -> None:
        """Hand the request and what was seen of its answer over. Never raise."""
        try:
            self._hand_over()
        except Exception:
            log.exception("request %s could not be captured", self.id)

    def _hand_over(self) -> None:
        flight, rule = self._delivery.flight, self._capture.rule
        request, answer = flight.request, flight.answer
        hide = hiding(rule.contents, rule.hidden, rule.words)
        body, omitted = redacted(self._body, rule.contents, hide)
        key, tenant = self._capturing.holder(request)
        tokens = answer.tokens
        said = ""
        if rule.contents == "keep" and self._size <= LARGEST:
            said = hide(text_of(b"".join(self._kept), stream=self._streaming))[:LONGEST_TEXT]
        self._capturing.add(
            CapturedRequest(
                request.id,
                self._capture.id,
                round(self._time, 3),
                request.gateway,
                request.model,
                answer.request.path,
                rule.contents,
                len(self._body),
                adapter=request.adapter,
                key=key,
                tenant=tenant,
                caller_ids=request.caller_ids,
                body=body,
                omitted=omitted,
                status=self._status,
                failure=self._failure or ("" if self._ended else "client-left"),
                milliseconds=round((time.monotonic() - self._began) * 1000),
                replica=answer.replica,
                stream=self._streaming,
                prompt_tokens=tokens.prompt if tokens is not None else 0,
                completion_tokens=tokens.completion if tokens is not None else 0,
                answer_size=self._size,
                answer=said,
            )
        )
