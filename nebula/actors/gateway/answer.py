"""Folds the pieces of all attempts into the answer that the client gets. Pure.

The gateway that sent the request folds pieces as they arrive. A gateway that resumes the answer
folds the stored pieces and gets the same bytes.
"""

from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from nebula.events import inference
from nebula.events.failures import Failure
from nebula.events.inference import SWITCHED, Form, HeaderFields, Piece, Request, TokenIds
from nebula.openai import continuation
from nebula.openai.chunks import WITH_TEXT
from nebula.openai.continuation import CantContinue, Continuation, Detokenize, Finish, Limits
from nebula.openai.sse import EventSplitter
from nebula.openai.stream import StreamRewriter
from nebula.openai.token_usage import Tokens, TokenUsage, of_whole

Way: TypeAlias = Continuation | Detokenize | Finish | CantContinue

_EVENTS = "text/event-stream"


class Broken(Struct, frozen=True):
    """Why an attempt ended early.

    `piece`: what the engine itself reported; if that came in several pieces, only the first is
    kept. `gone`: the engine is lost. `silent`: nothing more is known than that it is silent.
    """

    reason: str
    piece: Piece | None = None
    gone: bool = False
    silent: bool = False


def prepared(request: Request) -> Request:
    """Return a request for a stream in the form that lets another engine continue it.

    Where none could, the engine is to tell the tokens at the end.
    """
    asked = continuation.with_token_ids(request.path, request.body)
    if asked.tracked:
        tokens = TokenIds.SHOWN if asked.shown else TokenIds.TRACKED
        return replace(request, body=asked.body, tokens=tokens)
    asked = continuation.with_usage(request.path, request.body)
    return replace(request, body=asked.body, tokens=TokenIds.USAGE if asked.counted else "")


class Answer:
    """One answer, folded from the pieces of all attempts.

    The events of a resumable stream get an `id:`, and those up to `after` are left out.
    """

    def __init__(self, request: Request, *, after: int = 0) -> None:
        self.request = request
        self.attempt = request.attempt
        self.replica = self.version = ""
        self.queued = ""
        self.begun = False
        self.complete = False
        self.failure = self.cancelled_by = ""
        self.broken: Broken | None = None
        self.streaming = False
        self.pieces = 0
        self.events = 0
        self._after = after
        self._continues: str = request.continues
        self._status = 0
        self._content_type = ""
        self._retry_after: int | None = None
        self._fields: HeaderFields = ()
        self._stream: StreamRewriter | None = None
        self._numbered = EventSplitter()
        self._expected = 0
        self._counts: TokenUsage | None = None
        self._whole: Tokens | None = None

    @property
    def tokens(self) -> Tokens | None:
        """The tokens of what the client gets; None if it gets nothing but an error.

        A prompt counts once, however many engines it was sent to. An answer that comes as a whole
        counts once it is complete, and a session counts each turn that its engine has ended.
        """
        if not self._status or self._status >= 400:
            return None
        if not (self.streaming or self.complete or self._status == SWITCHED):
            return None
        if self._whole is not None:
            return self._whole
        if self._stream is not None:
            return self._stream.tokens
        return self._counts.tokens if self._counts is not None else Tokens()

    def take(self, piece: Piece) -> Piece | None:
        """Fold one more piece; return what the client gets of it, if anything.

        Sets `broken` if the attempt can't continue: then call `turn_to` with the next attempt, or
        `end`.
        """
        if self.complete or piece.attempt < max(self.attempt, self._expected):
            return None
        if piece.attempt > self.attempt and piece.chunk == 0:
            self.turn_to(piece.attempt, piece.continues)
        if piece.attempt > self.attempt or self.broken is not None:
            return None
        if piece.chunk < 0:
            self.queued = piece.queued
            self.replica = piece.replica or self.replica
            return None
        if piece.failure:
            return self._fail(piece)
        if piece.chunk != self.pieces:
            if piece.chunk > self.pieces:
                self.broken = Broken(Failure.GAP)
            return None
        self.pieces += 1
        if piece.chunk == 0 and not self._head(piece):
            return None
        return self._body(piece.body, end=piece.end)

    def pass_on(self, body: bytes) -> Piece | None:
        """Fold the next piece of an attempt that has begun and does not end with it.

        A shorter `take` for nearly all pieces: the caller has checked what `take` would check.
        """
        self.pieces += 1
        return self._body(body, end=False)

    def take_whole(self, piece: Piece) -> bool:
        """Fold an answer that is one piece and not a stream; return False if `take` must have it.

        A shorter `take`, after which the client gets the piece itself.
        """
        if (
            self.begun
            or self.complete
            or self.broken is not None
            or piece.attempt != self.attempt
            or piece.attempt < self._expected
            or self._continues
            or inference.blames(piece.status)
            or piece.content_type.startswith(_EVENTS)
        ):
            return False
        self.begun = self.complete = True
        self.pieces, self.queued = 1, ""
        self.replica, self.version = piece.replica, piece.version
        self._status, self._content_type = piece.status, piece.content_type
        self._retry_after, self._fields = piece.retry_after, piece.fields
        if piece.status < 400:
            self._whole = of_whole(piece.body)
        return True

    def expect(self, attempt: int) -> None:
        """Ignore pieces of attempts before this one, which the answer's gateway has given up."""
        self._expected = max(self._expected, attempt)

    def turn_to(self, attempt: int, continues: str) -> None:
        """Expect the pieces of the next attempt; if it does not continue, it begins anew."""
        if self.begun and not continues:
            self.broken = Broken(Failure.GAP)
            return
        self.attempt = attempt
        self.replica = self.queued = ""
        self.broken = None
        self.pieces = 0
        self._numbered = EventSplitter()
        self._continues = continues
        if self._stream is not None and continues in (Form.RESTARTED, Form.CONTINUED):
            self._stream.resume(Form(continues))

    def way_on(self, context: int) -> Way:
        """Return how a stream that has begun can continue on a replica with this context length."""
        if self._stream is None:
            return CantContinue("it is not a stream of text")
        limits = Limits(context) if context else None
        return continuation.plan(self.request.path, self.request.body, self._stream, limits)

    def settle(self, detokenized: bytes) -> None:
        """Record an engine's answer to the Detokenize of `way_on`; then call `way_on` again."""
        if self._stream is not None:
            continuation.settle(self._stream.transcript, detokenized)

    def end(self, piece: Piece) -> Piece:
        """End the answer with a piece that no engine sent."""
        self.complete, self.failure = True, piece.failure
        body = piece.body
        if self.request.keep and self.streaming and not piece.failure:
            body = self._number(body, end=True)
        return self._given(body, end=True, failure=piece.failure, like=piece)

    def _fail(self, piece: Piece) -> Piece | None:
        if piece.failure == Failure.TAKEN_BACK and self.begun:
            return None  # too late: what has begun goes on
        if piece.failure != Failure.REFUSED:
            self.replica = piece.replica or self.replica
            self.broken = Broken(piece.failure)
            return None
        self.complete = True
        return piece

    def _head(self, piece: Piece) -> bool:
        """Handle an attempt's first piece; return False if the client gets nothing of it."""
        self.queued = ""
        self.replica, self.version = piece.replica, piece.version
        streams = piece.status == 200 and piece.content_type.startswith(_EVENTS)
        if self._continues:
            if not streams:
                self.broken = Broken(Failure.ENGINE_FAILED)
            return streams
        if inference.blames(piece.status):
            self.broken = Broken(Failure.ENGINE_FAILED, replace(piece, end=True))
            return False
        self._status, self._content_type = piece.status, piece.content_type
        self._retry_after, self._fields = piece.retry_after, piece.fields
        self.streaming = streams
        if streams and self.request.path in WITH_TEXT:
            tokens = self.request.tokens
            self._stream = StreamRewriter(
                self.request.path,
                tracked=tokens in (TokenIds.SHOWN, TokenIds.TRACKED),
                shown=tokens == TokenIds.SHOWN,
                counted=tokens == TokenIds.USAGE,
            )
        else:
            self._counts = TokenUsage(self.request.path, streams=streams)
        return True

    def _body(self, body: bytes, *, end: bool) -> Piece | None:
        if self._stream is not None:
            body = self._stream.feed(body)
            if self._stream.failure:
                self.broken, end = Broken(Failure.ENGINE_FAILED), False
            elif end:
                body += self._stream.flush()
            if self.request.keep:
                body = self._number(body, end=end)
        elif self._counts is not None:
            self._counts.feed(body)
        self.complete = end
        if not body and not end and self.begun:
            return None
        return self._given(body, end=end)

    def _number(self, body: bytes, *, end: bool) -> bytes:
        """Number complete events; an incomplete event counts as one when the answer ends."""
        events = self._numbered.feed(body)
        if end:
            events.append(self._numbered.flush())
        numbered = []
        for event in events:
            text = event.strip(b"\r\n")
            if not text:
                continue
            self.events += 1
            if self.events > self._after:
                numbered.append(b"id: %d\n%b\n\n" % (self.events, text))
        return b"".join(numbered)

    def _given(
        self, body: bytes, *, end: bool, failure: str = "", like: Piece | None = None
    ) -> Piece:
        retry_after = like.retry_after if like is not None else self._retry_after
        if self.begun:
            return Piece(
                0,
                body,
                replica=self.replica,
                end=end,
                failure=failure,
                retry_after=retry_after,
            )
        self.begun = True
        head = like if like is not None and like.status else None
        return Piece(
            0,
            body,
            status=head.status if head is not None else self._status,
            content_type=head.content_type if head is not None else self._content_type,
            replica=self.replica,
            end=end,
            failure=failure,
            retry_after=retry_after,
            fields=self._fields if like is None else (),
        )
