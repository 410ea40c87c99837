"""Which of the replicas on the same devices starts first: one that has served before. Pure.

An engine that served and was lost has requests waiting for it; no request relies yet on a replica
that never served.
"""

from collections.abc import Iterable

from nebula.events.state import Replica

HOLD = 10.0
"""Seconds before a restart of a replica that has served in which nothing else starts on its
devices: a start takes minutes, the pause before a restart takes seconds."""


def ordered(replicas: Iterable[Replica]) -> list[Replica]:
    """Return replicas in the order in which they may start; equal ones stay as they are."""
    return sorted(replicas, key=lambda replica: not replica.served)


def starts_soon(replica: Replica, pause: float) -> bool:
    """Return whether other replicas must leave a replica's devices free for its restart.

    `pause`: seconds until the restart is due; 0 or less if it is due already.
    """
    return replica.served and not replica.given_up and pause <= HOLD


def goes_before(first: Replica, other: Replica) -> bool:
    """Return whether `first` is to start before `other` while both wait, by the log."""
    if first.retired or first.engine is not None or other.served:
        return False
    return starts_soon(first, first.retry_in or 0.0)
