"""Decides whether a gateway can serve a request for a ready model, and take a change. Pure.

It rests on what the gateway itself has observed in the last moments: its connection, routers'
heartbeats, the log's stream, the store's heartbeat, and its own changes.
"""

from msgspec import Struct

from nebula.events.heartbeats import StoreHeartbeat
from nebula.store.reach import WORD_LASTS, Reach

ROUTER_SILENCE = 5.0
"""Seconds without any router's heartbeat after which requests would fail; routers send one each
second, and a restarting router needs a few."""

LOOK_LASTS = 10.0
"""Seconds for which a check of the log's stream counts; there is one every three."""

FAILURE_LASTS = 30.0
"""Seconds for which a failed change counts against the log, unless an event got into it."""

BEHIND = 10.0
"""Seconds for which a gateway may lag behind the events that it knows of."""


class Failure(Struct, frozen=True):
    """A change that the log did not take: when, why, and how far the log was folded then."""

    at: float
    reason: str
    seq: int


class Seen(Struct, frozen=True):
    """What a gateway knows; times in seconds of a monotonic clock, None for never.

    `since`: when its present connection began. `router_at`: when the last heartbeat of any router
    came. `seq`: the last event that it has folded; `behind_since`: since when it has known of later
    events. `trouble`: what is wrong with the connection. `unheard`: which living actors it does not
    hear.
    """

    now: float
    started: bool
    connected: bool
    since: float = 0.0
    router_at: float | None = None
    reach: Reach | None = None
    reach_at: float = 0.0
    store: StoreHeartbeat | None = None
    store_at: float = 0.0
    failure: Failure | None = None
    seq: int = 0
    behind_since: float | None = None
    trouble: str = ""
    unheard: str = ""


class Readiness(Struct, frozen=True):
    """Why a gateway is not ready, one sentence each, empty if it is ready; and warnings."""

    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def readiness(seen: Seen) -> Readiness:
    """Return whether a gateway is ready."""
    if not seen.started:
        return Readiness((seen.trouble or "the log is being read",))
    if not seen.connected:
        return Readiness((_unreached(seen),))
    if seen.reach is None:
        return Readiness(("the log is being asked whether it takes events",))
    reasons = [reason for reason in (_no_router(seen), log_refuses(seen)) if reason]
    behind = _behind(seen)
    if behind:
        reasons.append(behind)
    return Readiness(tuple(reasons), tuple(_warnings(seen)))


def log_refuses(seen: Seen) -> str:
    """Return why the log takes no events now, as far as is known; "" if it seems to take them.

    The store's own report goes before conclusions from outside.
    """
    if not seen.connected:
        return _unreached(seen)
    store = _fresh_store(seen)
    if store is not None and store.refused:
        return store.refused
    if seen.reach is not None and seen.reach.refused:
        return seen.reach.refused
    if seen.reach is not None and seen.now - seen.reach_at > LOOK_LASTS:
        return "the log has not been asked for too long: this gateway stands still"
    failure = standing_failure(seen)
    return failure.reason if failure is not None else ""


def standing_failure(seen: Seen) -> Failure | None:
    """Return the last failed change, unless the log has taken events since.

    A later event in the log shows that, and so does a later report of the store.
    """
    failure = seen.failure
    if failure is None or seen.now - failure.at > FAILURE_LASTS or seen.seq > failure.seq:
        return None
    store = _fresh_store(seen)
    if store is not None and not store.refused and seen.store_at > failure.at + WORD_LASTS / 2:
        return None
    return failure


def _unreached(seen: Seen) -> str:
    return f"NATS can't be reached: {seen.trouble}" if seen.trouble else "NATS can't be reached"


def _no_router(seen: Seen) -> str:
    if seen.router_at is None:
        return "no router has been heard yet: start one with `nebula router`"
    silent = seen.now - max(seen.router_at, seen.since)
    return f"no router has been heard for {silent:.0f} s" if silent > ROUTER_SILENCE else ""


def _behind(seen: Seen) -> str:
    if seen.behind_since is None or seen.reach is None or seen.reach.last_seq <= seen.seq:
        return ""
    behind = seen.now - seen.behind_since
    if behind <= BEHIND:
        return ""
    return (
        f"this gateway has folded the log up to event {seen.seq} of {seen.reach.last_seq} "
        f"and is behind for {behind:.0f} s"
    )


def _warnings(seen: Seen) -> list[str]:
    store = _fresh_store(seen)
    told = (
        store.warning if store is not None else "",
        seen.reach.warning if seen.reach else "",
        seen.unheard,
    )
    return [each for each in told if each]


def _fresh_store(seen: Seen) -> StoreHeartbeat | None:
    fresh = seen.store is not None and seen.now - seen.store_at <= WORD_LASTS
    return seen.store if fresh else None
