"""How long an engine may take to get ready: as long as it shows progress. Pure.

While an engine starts, no other may start on its devices, so a start that never ends would block
them and every model on them. Output to its log counts as progress, up to a bound.
"""

LIMIT = 900.0
"""Seconds without output after which a start is ended. Compiling a large model is silent for
minutes; a download by the engine itself prints its progress."""

AT_MOST = 8
"""Multiple of the limit after which a start is ended although it writes output."""

LONGEST_LOOK = 10.0
"""Longest time between two looks that counts, in seconds; beyond it the node was suspended."""


class Patience:
    """The duration of one start. `limit`: seconds without output; 0: no limit."""

    def __init__(self, limit: float, now: float) -> None:
        self._limit = limit
        self._last = now
        self._size = 0
        self._quiet = self._taken = 0.0

    def look(self, now: float, size: int) -> str:
        """Return why the start is to be ended; "" while it may continue.

        `now`: seconds of a monotonic clock; `size`: bytes that it has written so far. A log that
        has become smaller was rotated, and has grown too.
        """
        passed = min(now - self._last, LONGEST_LOOK)
        self._last = now
        self._taken += passed
        self._quiet = self._quiet + passed if size == self._size else 0.0
        self._size = size
        if not self._limit:
            return ""
        if self._quiet > self._limit:
            return f"it did not get ready, and has written nothing for {self._quiet:.0f} s"
        if self._taken > AT_MOST * self._limit:
            return f"it did not get ready in {self._taken:.0f} s"
        return ""
