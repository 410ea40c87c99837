"""The time for which a connection may wait for its next request."""

import asyncio
from collections.abc import Callable


class Idling:
    """The clock of one connection without a request; `close` is called when it has waited so long.

    `patience`: seconds. `busy`: whether a request runs or arrives.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        patience: Callable[[], float],
        busy: Callable[[], bool],
        close: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._patience = patience
        self._busy = busy
        self._close = close
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Start the clock."""
        self.again()
        self._timer = self._loop.call_later(self._patience(), self._look)

    def again(self) -> None:
        """Measure from now on: an answer is complete."""
        self._since = self._loop.time()

    def end(self) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        """Close a connection that has waited too long for a request."""
        left = self._patience() - (0.0 if self._busy() else self._loop.time() - self._since)
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._timer = None
            self._close()
