"""Chooses the router for a request: a living one, the least behind, in turns. Pure.

A NATS queue group would choose at random, and would go on choosing a router whose machine has
vanished until NATS notices that: minutes, with its default settings. So each router also listens on
a subject of its own, and says so in its heartbeat, which gateways hear.
"""

from collections.abc import Collection, Iterable

from msgspec import Struct

HEARD = 2.5
"""Seconds since its last heartbeat within which a router counts as living; it sends one each
second."""

UNHEARD = 1.5
"""Seconds after which an untaken request is sent to another router, if its own router has missed a
heartbeat meanwhile and another router has not."""


class Known(Struct):
    """A router as a gateway knows it.

    `at`: when its last heartbeat came, in seconds of a monotonic clock. `addressed`: whether it
    listens on a subject of its own. `untaken`: number of requests that were sent to it and that it
    has not taken yet. `turn`: grows with every choice; the largest was chosen last. `doubted`: when
    a request of this router's was sent elsewhere because its heartbeat was missing.
    """

    name: str
    at: float
    addressed: bool = False
    untaken: int = 0
    turn: int = 0
    doubted: float = float("-inf")


def living(known: Known, now: float) -> bool:
    """Return whether a router is known to be alive."""
    return now - known.at <= HEARD


def choose(routers: Iterable[Known], now: float, tried: Collection[str] = ()) -> Known | None:
    """Return the router to send a request to; None if no living router can be addressed.

    Among the living routers it prefers one that has not been `tried` with this request, then one
    that is not in doubt, then a router with the fewest untaken requests, then the least recently
    chosen. So a silent router is avoided as soon as its first request is not taken, and requests
    that are taken at once are spread evenly.
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
    """Return whether the router that got a request at `sent_at` seems to be lost.

    It does if its next heartbeat is overdue while another router's has come.
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
