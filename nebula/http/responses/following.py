"""A response that workers make, given to a client: its events as they are stored, or its end."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from msgspec import Raw

from nebula.actors.gateway.delivery import ClientGone, Quiet
from nebula.actors.gateway.not_served import NotServed
from nebula.events.failures import Failure
from nebula.events.inference import Piece
from nebula.events.stored_responses import Asked, Entry
from nebula.openai.response_events import written
from nebula.openai.responses import PREFIX
from nebula.openai.stored_response import Folding, StoredResponse
from nebula.store.connection import Unavailable
from nebula.store.responses import ResponseStore

_EVENTS = "text/event-stream; charset=utf-8"
_TRIES = 30
"""Number of times that a lost stream is followed again before its client is told."""


class Followed:
    """A source of a stored response: the events after number `after`, or the whole at its end."""

    def __init__(
        self, store: ResponseStore, asked: Asked, *, stream: bool, after: int = -1
    ) -> None:
        self.streaming = stream
        self._store = store
        self._asked = asked
        self._sent = after + 1
        self._begun = False
        self._folding = Folding()
        self._reading = True
        self._following: AsyncGenerator[Entry | None, None] | None = None
        self._coming: asyncio.Future[Entry | None] | None = None
        self._nudged = asyncio.Event()
        self._left = False

    @property
    def id(self) -> str:
        """The request's id."""
        return self._asked.head.id.removeprefix(PREFIX)

    def nudge(self) -> None:
        """Let a waiting `next` raise Quiet."""
        self._nudged.set()

    def leave(self) -> None:
        """End `next`: the client is gone."""
        self._left = True
        self._nudged.set()

    async def close(self) -> None:
        """Read no further."""
        if self._coming is not None:
            self._coming.cancel()
            await asyncio.gather(self._coming, return_exceptions=True)
            self._coming = None
        if self._following is not None:
            await self._following.aclose()
            self._following = None

    async def next(self) -> Piece:
        """Return the next piece. Raise ClientGone, Quiet, NotServed."""
        lost = 0
        while True:
            if not self._reading and (piece := self._news()) is not None:
                return piece
            try:
                entry = await self._entry()
            except Unavailable as error:
                lost += 1
                await self.close()
                if lost > _TRIES:
                    raise NotServed(str(error), 1) from error
                await asyncio.sleep(1)
                continue
            if entry is None:
                self._reading = False
            else:
                self._folding.take(entry)

    def _news(self) -> Piece | None:
        """Return what the client does not have yet; None if there is nothing. Raise NotServed."""
        found = self._folding.found
        if found is None:
            raise NotServed("the response was deleted", None)
        return self._events(found) if self.streaming else _end(found)

    async def _entry(self) -> Entry | None:
        """Return the next entry; None once those that are stored have been read."""
        if self._following is None:
            self._folding, self._reading = Folding(), True
            self._folding.take(self._asked)
            self._following = self._store.follow(self._asked.head.id)
        if self._coming is None:
            self._coming = asyncio.ensure_future(anext(self._following))
        nudged = asyncio.ensure_future(self._nudged.wait())
        try:
            await asyncio.wait((self._coming, nudged), return_when=asyncio.FIRST_COMPLETED)
        finally:
            nudged.cancel()
        if self._left:
            raise ClientGone
        if not self._coming.done():
            self._nudged.clear()
            raise Quiet
        coming, self._coming = self._coming, None
        with contextlib.suppress(StopAsyncIteration):
            return coming.result()
        raise Unavailable("the stream of responses is no longer read")

    def _events(self, found: StoredResponse) -> Piece | None:
        """Return the events that the client does not have yet; None if there are none."""
        new = found.events[self._sent :]
        over = found.ended is not None
        if over and self._sent > len(found.events):
            return Piece(0, b"", failure=Failure.BEYOND)
        if not new and not over:
            return None
        self._sent = max(self._sent, len(found.events))
        body = b"".join(map(written, new))
        if self._begun:
            return Piece(0, body, end=over)
        self._begun = True
        return Piece(0, body, status=200, content_type=_EVENTS, end=over)


def _end(found: StoredResponse) -> Piece | None:
    """Return what a client gets that waits for the end; None before it."""
    ended = found.ended
    if ended is None:
        return None
    body = bytes(ended.response) if ended.http_status == 200 else bytes(ended.error)
    status = ended.http_status
    return Piece(0, body, status=status, content_type="application/json", end=True)


class Whole:
    """A source of one piece that is there already."""

    streaming = False

    def __init__(self, identity: str, body: Raw) -> None:
        self.id = identity
        self._body = bytes(body)

    async def next(self) -> Piece:
        """Return it."""
        return Piece(0, self._body, status=200, content_type="application/json", end=True)

    def nudge(self) -> None:
        """Do nothing: it is there already."""

    def leave(self) -> None:
        """Do nothing: it is there already."""
