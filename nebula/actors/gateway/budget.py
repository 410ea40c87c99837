"""Bounds the bytes that a gateway holds for its clients, for each and in total. Pure."""

from nebula.events.memory import MIB

REQUESTS = 512 * MIB
"""Default bytes of request bodies that a gateway holds."""

ANSWERS = 256 * MIB
"""Default bytes of answers that a gateway holds for slow clients."""

UNCOUNTED = 64 * 1024
"""Bytes for each client that do not count towards the total."""


class Budget:
    """A bound on bytes, and the bytes that are held."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def fits(self, size: int) -> bool:
        """Return whether `size` more bytes may be held; the first holder always may."""
        return not self.used or self.used + size <= self.limit


class Hold:
    """The bytes of a budget that one request holds, from its first byte until they are released."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: Budget, size: int = 0) -> None:
        self._budget = budget
        self.size = size

    def fits(self, size: int) -> bool:
        """Return whether so many bytes more may be held."""
        return self._budget.fits(size)

    def grow(self, size: int) -> bool:
        """Hold `size` more bytes; return False, and hold nothing more, if there is no room."""
        budget = self._budget
        used = budget.used + size
        if used > budget.limit and budget.used:  # as `fits`, for each body of a request
            return False
        budget.used = used
        self.size += size
        return True

    def shrink(self, size: int) -> None:
        """Release `size` bytes."""
        self._budget.used -= size
        self.size -= size

    def handed_on(self) -> "Hold":
        """Return a new hold with the bytes of this one, which then holds nothing."""
        other, self.size = Hold(self._budget, self.size), 0
        return other

    def release(self) -> None:
        """Release all bytes."""
        if self.size:
            self._budget.used -= self.size
            self.size = 0


class Unread:
    """The bytes of answers that wait for their clients, and which client has waited longest.

    A client with at most UNCOUNTED bytes is not counted, so that most pieces cost nothing.
    """

    def __init__(self, limit: int = ANSWERS) -> None:
        self.limit = limit
        self.used = 0
        self._of: dict[object, int] = {}

    def count(self, holder: object, size: int) -> None:
        """Record how many bytes wait for a client now."""
        self.used += size - self._of.get(holder, 0)
        if size:
            self._of[holder] = size
        else:
            self._of.pop(holder, None)

    def slowest(self) -> object | None:
        """Return the client whose bytes have waited longest if the total is too large; or None."""
        if self.used <= self.limit:
            return None
        return next(iter(self._of), None)
