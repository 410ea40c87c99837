"""Whether a gateway takes on more: a cluster that falls behind refuses what it could not answer.

Pure. A request that is not taken on in time is sent again, so that lateness makes for more work
and that for more lateness. As in CoDel (RFC 8289) what counts is the shortest wait in a while:
a long one alone may be one that was lost, but when all are long the cluster is behind.
"""

import math

TARGET = 1.0
"""Seconds within which some request of each interval has to be taken on by a replica or router."""

INTERVAL = 1.0
"""Seconds over which the shortest wait is taken."""

CROWD = 128
"""Requests that may wait to be taken on however long that lasts."""


class Admission:
    """Decides whether one more request is let in. Times are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self.waiting = 0
        self._least = math.inf
        self._due = 0.0
        self._behind = False

    def taken(self, waited: float, now: float) -> None:
        """Count a request that a replica or router has taken on after `waited` seconds."""
        self._turn(now)
        self._least = min(self._least, waited)

    def refuses(self, now: float) -> bool:
        """Return whether what comes now is to be refused."""
        self._turn(now)
        return self._behind and self.waiting >= CROWD

    def _turn(self, now: float) -> None:
        """End the interval when it is over; if nothing was taken on in it, it says nothing."""
        if now < self._due:
            return
        if self._least < math.inf:
            self._behind = self._least > TARGET
        self._least = math.inf
        self._due = now + INTERVAL
