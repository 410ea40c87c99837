"""Which router a gateway sends a request to: one that lives, the least behind, in turns. Pure.

NATS draws one of a queue group, and goes on drawing a router whose machine has vanished until it
notices that: minutes, by its own settings. So each router listens on a subject of its own as well,
and says so in its heartbeat, which a gateway hears.
"""

from collections.abc import Collection, Iterable

from msgspec import Struct

HEARD = 2.5
"""Seconds since its last heartbeat for which a router counts as living: one comes each second."""

UNHEARD = 1.5
"""Seconds after which an untaken request is sent to another router, if its own router has not been
heard from since and another has: one heartbeat is missing then."""


class Known(Struct):
    """A router as a gateway knows it.

    `at`: when it was heard last, in seconds of a monotonic clock. `addressed`: it listens on a
    subject of its own. `untaken`: requests that were sent to it and are not taken yet.
    `turn`: grows with every choice, the largest was chosen last. `doubted`: when a request was sent
    elsewhere because this router, not heard from meanwhile, had it.
    """

    name: str
    at: float
    addressed: bool = False
    untaken: int = 0
    turn: int = 0
    doubted: float = float("-inf")


def living(known: Known, now: float) -> bool:
    """Return whether a router is known to live."""
    return now - known.at <= HEARD


def choose(routers: Iterable[Known], now: float, tried: Collection[str] = ()) -> Known | None:
    """Return the router to send a request to; None where none that can be addressed is living.

    Among the living it is one that has not been `tried` with this request, then one that is not in
    doubt, then the router with the fewest untaken requests, then the least recently chosen router.
    So a router that falls silent is left alone as soon as its first request is not taken, and
    requests that are taken at once are shared out evenly.
    """
    best: Known | None = None
    for each in routers:
        if not each.addressed or now - each.at > HEARD:
            continue
        if best is None or _before(each, best, tried):
            best = each
    return best


def _before(one: Known, other: Known, tried: Collection[str]) -> bool:
    if tried and (one.name in tried) != (other.name in tried):
        return other.name in tried
    if (one.doubted > one.at) != (other.doubted > other.at):
        return other.doubted > other.at
    return (one.untaken, one.turn) < (other.untaken, other.turn)


def silent_with_it(routers: Iterable[Known], router: str, sent_at: float, now: float) -> bool:
    """Return whether the router that a request went to at `sent_at` has to be thought gone with it.

    It has to where it was not heard from since, although a heartbeat was due, and another one was.
    """
    if now - sent_at <= UNHEARD:
        return False
    another = unheard = False
    for each in routers:
        if each.name == router:
            unheard = each.at < sent_at
        elif each.addressed and each.at >= sent_at:
            another = True
    return unheard and another
