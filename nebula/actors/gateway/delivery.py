"""Holds the pieces of an answer until its client reads them."""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import Protocol

from nebula.actors.gateway.allowance import Reservation
from nebula.actors.gateway.budget import UNCOUNTED, Hold, Unread
from nebula.actors.gateway.in_flight import InFlightRequest
from nebula.events.inference import Piece

MAX_WAITING_BYTES = 4 * 1024 * 1024
"""Bytes of a stream that may wait for a slow client."""

BEHIND = 1.0
"""Seconds for which more may wait: no client has read in the moment in which much comes at once."""

NOT_RECORDED = "-"
"""Stands for the id where the sender of a request records its usage itself."""


class ClientGone(Exception):
    """The client has left, so further pieces are unwanted."""


class Quiet(Exception):
    """No piece has come yet, and the client should get a sign that its request is alive."""


_AT_ONCE = 256
"""Number of ids whose random bits are drawn with one system call."""

_drawn: list[str] = []


def new_id() -> str:
    """Return a new request id of 128 random bits: knowing it is enough to resume the answer."""
    if not _drawn:
        bits = os.urandom(16 * _AT_ONCE).hex()
        _drawn.extend(bits[at : at + 32] for at in range(0, len(bits), 32))
    return _drawn.pop()


class GivenAgain(Protocol):
    """An answer that is delivered again to a client that came back for it."""

    @property
    def id(self) -> str:
        """The request's id."""

    def let_go(self, last: Piece) -> None:
        """Deliver a last piece to the client."""


class Delivery:
    """The client's end of a request in flight.

    `detached`: no client waits any more. `size`: bytes of the pieces that wait for it. `hold`: the
    bytes of the gateway's budget that the request's body keeps once no client waits. `reserved`:
    what it may use of its limits. `unread` counts the bytes that wait for all clients. `usage`: the
    id under which its usage is recorded, if another gateway may record the same; NOT_RECORDED if it
    is not recorded here. `told`: the status of what the client got first (0: nothing), and the
    failure that ended the answer, if any.
    """

    def __init__(
        self, flight: InFlightRequest, unread: Unread | None = None, usage: str = ""
    ) -> None:
        self.flight = flight
        self.usage = usage or (flight.request.id if flight.request.keep else "")
        self.told: tuple[int, str] = (0, "")
        self.detached = False
        self.hold: Hold | None = None
        self.reserved: Reservation = []
        self._unread = Unread() if unread is None else unread
        self._counted = False
        self._given: deque[Piece] = deque()
        self.size = 0
        self._behind_since: float | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._call: Callable[[Piece], None] | None = None

    @property
    def id(self) -> str:
        """The request's id."""
        return self.flight.id

    @property
    def streaming(self) -> bool:
        """Whether the answer is a stream of events."""
        return self.flight.answer.streaming

    def too_slow(self, now: float) -> bool:
        """Return whether more of a stream than may has waited for the client for too long."""
        if self.size <= MAX_WAITING_BYTES or not self.streaming:
            return False
        if self._behind_since is None:
            self._behind_since = now
        return now - self._behind_since >= BEHIND

    def tell(self, piece: Piece) -> None:
        """Add a piece that begins or ends the answer, and note what it says."""
        if piece.status or piece.failure:
            self.told = piece.status, piece.failure
        self.give(piece)

    def call_once(self, call: Callable[[Piece], None] | None) -> None:
        """Announce the next piece by a call, None: by none; `next` returns it afterwards."""
        self._call = call

    def give(self, piece: Piece) -> None:
        """Add a piece for the client."""
        if self.detached:
            return
        self._given.append(piece)
        self.size += len(piece.body)
        if self.size > UNCOUNTED:
            self._unread.count(self, self.size)
            self._counted = True
        if self._call is not None:
            call, self._call = self._call, None
            call(piece)
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _clear(self) -> None:
        self._given.clear()
        self.size = 0
        if self._counted:
            self._count_unread()

    def _count_unread(self) -> None:
        if self.size <= MAX_WAITING_BYTES:
            self._behind_since = None
        self._counted = self.size > UNCOUNTED
        self._unread.count(self, self.size if self._counted else 0)

    async def next(self) -> Piece:
        """Return the next piece for the client.

        Raise ClientGone after `leave`, Quiet after `nudge`.
        """
        while not self._given:
            if self.detached:
                raise ClientGone
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        piece = self._given.popleft()
        self.size -= len(piece.body)
        if self._counted:
            self._count_unread()
        return piece

    def nudge(self) -> None:
        """Have `next` raise Quiet if it waits for a piece."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(Quiet())

    def let_go(self, last: Piece) -> None:
        """Deliver a last piece; the answer continues without this client."""
        self.detached = False
        self._clear()
        self.tell(last)
        self.detached = True

    def leave(self) -> None:
        """Drop all further pieces: the client is gone."""
        self.detached = True
        self._clear()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
