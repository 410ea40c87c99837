"""How a connection ends while the client still sends: it reads on for a time before it closes.

RFC 9112 9.6: if a connection is closed with unread bytes, the client gets a reset and may lose the
answer.
"""

import asyncio

from nebula.http.server.writing import TurnTransport

LINGERING = 30.0
"""Seconds for which a refused client may keep sending before it reads why."""

LINGERING_STILL = 5.0
"""Seconds of silence after which such a client's connection is closed."""

TURNED_AWAY_STILL = 1.0
"""The same, in seconds, for a connection beyond the limit."""

LINGERING_LAST = 1.0
"""Seconds that such a client still gets once the process is ending."""


class Lingering:
    """The time limits of a client that was sent everything; `still`: seconds of silence."""

    def __init__(self, transport: TurnTransport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._still = 0.0
        self._until = 0.0
        self._heard = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def begun(self) -> bool:
        """Whether the sending side is closed."""
        return self._timer is not None

    def begin(self, still: float) -> None:
        """Close the sending side, and begin to wait for the client to end."""
        self._transport.write_eof()
        self._still = still
        self._until = self._loop.time() + LINGERING
        self._timer = self._loop.call_later(still, self._look)

    def hear(self) -> None:
        """Note that the client still sends."""
        self._heard = True

    def hurry(self) -> None:
        """Let it end soon."""
        self.end()
        self._timer = self._loop.call_later(LINGERING_LAST, self._transport.abort)

    def end(self) -> None:
        """Stop waiting."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        if not self._heard or self._loop.time() > self._until:
            self._transport.abort()
            return
        self._heard = False
        self._timer = self._loop.call_later(self._still, self._look)
