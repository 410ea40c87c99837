"""The time within which a request must arrive on its connection."""

import asyncio
from collections.abc import Callable

from msgspec import Struct

from nebula.http.errors import ApiError, overdue

HEAD_TIME = 30.0
"""Seconds within which a request's head must arrive, from its first byte on."""

BODY_TIME = 60.0
"""Seconds within which a body must arrive, from its request's first byte on, plus ..."""

PACE = 8 * 1024
"""... one second for this number of arrived bytes."""


class Progress(Struct, frozen=True, gc=False):
    """How far a request has arrived; `held`: nothing is read of it now, whatever was sent."""

    in_head: bool
    held: bool
    received: int


class Arrival:
    """The clock of one connection's arriving request; `refuse` is called when it is late."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        progress: Callable[[], Progress],
        refuse: Callable[[ApiError], None],
    ) -> None:
        self._loop = loop
        self._progress = progress
        self._refuse = refuse
        self._began = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Start the clock, unless it runs."""
        if self._timer is None:
            self._began = self._loop.time()
            self._timer = self._loop.call_later(HEAD_TIME, self._late)

    def end(self) -> None:
        """Stop the clock: the request is complete, or is refused."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        """Refuse a request that does not arrive in time."""
        self._timer = None
        progress = self._progress()
        if progress.in_head:
            self._refuse(overdue(f"the request's head did not arrive within {HEAD_TIME:.0f} s"))
            return
        now = self._loop.time()
        if progress.held:
            self._began = now
        left = self._began + BODY_TIME + progress.received / PACE - now
        if left > 0:
            self._timer = self._loop.call_later(left, self._late)
            return
        pace = f"{BODY_TIME:.0f} s and a second for {PACE} bytes of it"
        self._refuse(overdue(f"the body arrived too slowly: it may take {pace}"))
