"""Decides whether a gateway admits one more request: an overloaded cluster refuses. Pure.

A request that is not taken in time is sent again, so delay causes more work and more delay. As in
CoDel (RFC 8289), the shortest wait in an interval counts: one long wait may be a lost message, but
if all waits are long the cluster is overloaded.
"""

import math

TARGET = 1.0
"""Seconds within which a replica or router must take at least one request of each interval."""

INTERVAL = 1.0
"""Length of an interval, in seconds."""

CROWD = 128
"""Number of requests that may wait to be taken, however long they wait."""


class Admission:
    """Decides whether one more request is admitted. Times are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self.waiting = 0
        self._least = math.inf
        self._due = 0.0
        self._behind = False

    def taken(self, waited: float, now: float) -> None:
        """Record that a replica or router took a request after `waited` seconds."""
        self._turn(now)
        self._least = min(self._least, waited)

    def refuses(self, now: float) -> bool:
        """Return whether new requests are refused now."""
        self._turn(now)
        return self._behind and self.waiting >= CROWD

    def _turn(self, now: float) -> None:
        """End an interval that is over; if no request was taken in it, it tells nothing."""
        if now < self._due:
            return
        if self._least < math.inf:
            self._behind = self._least > TARGET
        self._least = math.inf
        self._due = now + INTERVAL
