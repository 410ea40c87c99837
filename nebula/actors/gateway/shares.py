"""Bounds how much of a shared resource each owner takes. Pure."""

import math
from collections import deque

from nebula.events.memory import MIB

LASTS = 300.0
"""Seconds after which a claim is forgotten, as in its stream."""

MOST = 16 * MIB
"""Bytes of claims that one owner may have through one gateway: a quarter of the stream."""


class Shares:
    """The bytes that each owner has taken in the last `lasts` seconds; each may take `most`."""

    def __init__(self, most: int = MOST, lasts: float = LASTS) -> None:
        self._most = most
        self._lasts = lasts
        self._taken: dict[str, int] = {}
        self._order: deque[tuple[float, str, int]] = deque()

    def wait(self, owner: str, size: int, now: float) -> int:
        """Return the seconds until an owner may take `size` more bytes; 0 if it may now."""
        self._forget(now)
        excess = self._taken.get(owner, 0) + size - self._most
        if excess <= 0:
            return 0
        for since, whose, taken in self._order:
            if whose == owner:
                excess -= taken
                if excess <= 0:
                    return max(1, math.ceil(since + self._lasts - now))
        return math.ceil(self._lasts)

    def take(self, owner: str, size: int, now: float) -> None:
        """Record that an owner takes `size` bytes."""
        self._order.append((now, owner, size))
        self._taken[owner] = self._taken.get(owner, 0) + size

    def _forget(self, now: float) -> None:
        while self._order and self._order[0][0] <= now - self._lasts:
            _, owner, size = self._order.popleft()
            left = self._taken[owner] - size
            if left:
                self._taken[owner] = left
            else:
                del self._taken[owner]
