"""How many bytes a gateway holds for its clients: for each, and for all of them together. Pure."""

from nebula.events.memory import MIB

REQUESTS = 512 * MIB
"""Bytes of requests' bodies that a gateway has in hand, unless it is told another number."""

ANSWERS = 256 * MIB
"""Bytes of answers that wait in a gateway for slow clients, unless it is told another number."""

UNCOUNTED = 64 * 1024
"""Bytes that may wait for each client besides."""


class Budget:
    """Bytes that are held, of those that may be."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def fits(self, size: int) -> bool:
        """Return whether so many bytes more may be held; the first always may, however large."""
        return not self.used or self.used + size <= self.limit


class Hold:
    """What one request holds of a budget, from its first byte until it is no longer needed."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: Budget, size: int = 0) -> None:
        self._budget = budget
        self.size = size

    def fits(self, size: int) -> bool:
        """Return whether so many bytes more may be held."""
        return self._budget.fits(size)

    def grow(self, size: int) -> bool:
        """Hold so many bytes more; False, and nothing more is held, where there is no room."""
        budget = self._budget
        used = budget.used + size
        if used > budget.limit and budget.used:  # as `fits`, for each body of a request
            return False
        budget.used = used
        self.size += size
        return True

    def shrink(self, size: int) -> None:
        """Hold so many bytes less."""
        self._budget.used -= size
        self.size -= size

    def handed_on(self) -> "Hold":
        """Return what is held as another's; this one holds nothing any more."""
        other, self.size = Hold(self._budget, self.size), 0
        return other

    def release(self) -> None:
        """Hold nothing any more."""
        if self.size:
            self._budget.used -= self.size
            self.size = 0


class Unread:
    """Bytes of answers that wait for their clients, and whose wait longest.

    A client with no more than UNCOUNTED bytes is not counted, so that most pieces cost nothing.
    """

    def __init__(self, limit: int = ANSWERS) -> None:
        self.limit = limit
        self.used = 0
        self._of: dict[object, int] = {}

    def count(self, holder: object, size: int) -> None:
        """Note how many bytes wait for a client now."""
        self.used += size - self._of.get(holder, 0)
        if size:
            self._of[holder] = size
        else:
            self._of.pop(holder, None)

    def slowest(self) -> object | None:
        """Return whose bytes have waited longest, where more wait than may; else None."""
        if self.used <= self.limit:
            return None
        return next(iter(self._of), None)
