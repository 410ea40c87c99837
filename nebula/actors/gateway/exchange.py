"""A gateway's side of one request under way: what it knows of it, and what waits for the client."""

import asyncio
import os
from collections import deque

from nebula.actors.gateway.answer import Answer
from nebula.actors.gateway.budget import UNCOUNTED, Hold, Unread
from nebula.events.inference import Piece, Request
from nebula.events.state import Named

MAX_WAITING_BYTES = 4 * 1024 * 1024
"""Bytes of a stream that may wait for a client that reads slower than the engine writes."""

MAX_EARLY = 4096
"""Pieces that are kept while those before them are looked for."""

MAX_EARLY_BYTES = 16 * 1024 * 1024
"""Bytes of such pieces: two of the largest messages that NATS carries."""


class ClientGone(Exception):
    """The client has left: nobody wants what would come next."""


def new_id() -> str:
    """Give a request's id. Nobody can guess it: whoever knows it may resume the answer."""
    return os.urandom(16).hex()


class Exchange:
    """See the module. Times are seconds of the event loop's clock.

    `request` is the attempt that is under way; `answer` folds the pieces of all attempts. `idle`:
    seconds that an engine may stay silent; `deadline`: when nobody wants the answer any more.
    `router`: where this attempt was sent, "" for any router; `tried`: those that it was sent to and
    that nobody took it from. `untaken`: nobody has taken this attempt yet. `orphaned_at`: since
    when no replica has had it; `lost`: how often it was sent since without being taken. `resent`:
    attempts that followed one that broke.
    `state_time`: of the last event (ns) that was known when the attempt was sent; `fatal`: the
    engines in a row that have failed with the request and said nothing. `hold`: what its body takes
    of the gateway's budget, once no client waits.
    """

    def __init__(
        self,
        request: Request,
        named: Named,
        answer: Answer,
        *,
        idle: float,
        now: float,
        unread: Unread | None = None,
    ) -> None:
        self.request = request
        self.named = named
        self.answer = answer
        self.idle = idle
        self.began = self.sent_at = self.heard_at = self.orphaned_at = now
        self.asked_at = 0.0
        self.deadline = None if request.timeout is None else now + request.timeout
        self.pid: int | None = None
        self.lost = self.resent = 0
        self.router = ""
        self.untaken = False
        self.tried: tuple[str, ...] = ()
        self.state_time = self.fatal = self._counted = 0
        self.taken = False
        self.done = False
        self.detached = False
        self.filling = self.missing = self.detokenizing = False
        self.early: dict[int, Piece] = {}
        self.hold: Hold | None = None
        self._early_size = 0
        self._unread = Unread() if unread is None else unread
        self._counted_unread = False
        self._given: deque[Piece] = deque()
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None

    @property
    def id(self) -> str:
        """The request's id."""
        return self.request.id

    @property
    def streaming(self) -> bool:
        """Whether the answer is a stream of events."""
        return self.answer.streaming

    @property
    def too_slow(self) -> bool:
        """Whether more of a stream waits for the client than may."""
        return self._size > MAX_WAITING_BYTES and self.answer.streaming

    def count(self, *, fatal: bool) -> None:
        """Count, once for each attempt, in how many in a row the engine failed without a word."""
        if self._counted < self.answer.attempt:
            self._counted = self.answer.attempt
            self.fatal = self.fatal + 1 if fatal else 0

    def give(self, piece: Piece) -> None:
        """Let the client have a piece when it reads on."""
        if self.detached:
            return
        self._given.append(piece)
        self._size += len(piece.body)
        if self._size > UNCOUNTED:
            self._unread.count(self, self._size)
            self._counted_unread = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def keep_early(self, piece: Piece) -> bool:
        """Keep a piece while those before it are looked for; False where it is one too many."""
        known = self.early.get(piece.chunk)
        self._early_size += len(piece.body) - (len(known.body) if known is not None else 0)
        self.early[piece.chunk] = piece
        return len(self.early) <= MAX_EARLY and self._early_size <= MAX_EARLY_BYTES

    def take_early(self, chunk: int) -> Piece | None:
        """Return the piece of that number, if it was kept."""
        piece = self.early.pop(chunk, None)
        if piece is not None:
            self._early_size -= len(piece.body)
        return piece

    def drop_early(self) -> None:
        """Keep no pieces any more."""
        self.early.clear()
        self._early_size = 0

    def _clear(self) -> None:
        self._given.clear()
        self._size = 0
        if self._counted_unread:
            self._count_unread()

    def _count_unread(self) -> None:
        self._counted_unread = self._size > UNCOUNTED
        self._unread.count(self, self._size if self._counted_unread else 0)

    async def next(self) -> Piece:
        """Give the next piece for the client. Raises ClientGone once `leave` was called."""
        while not self._given:
            if self.detached:
                raise ClientGone
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        piece = self._given.popleft()
        self._size -= len(piece.body)
        if self._counted_unread:
            self._count_unread()
        return piece

    def let_go(self, last: Piece) -> None:
        """Give the client a last piece; the answer goes on without it."""
        self.detached = False
        self._clear()
        self.give(last)
        self.detached = True

    def leave(self) -> None:
        """The client is gone: what still comes is for nobody here."""
        self.detached = True
        self._clear()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
