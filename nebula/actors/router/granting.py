"""How many requests of gateways a replica may get without its router: the rules of leases. Pure.

A router that lends credits of a replica counts them as if they were requests there, until it knows
that the gateway has given them back: by a later report, or because their term is over. So all that
is lent and all that the router sends itself stay within the replica's `max_in_flight`, whatever
messages are lost or late. A part of it is never lent: requests of gateways without credits need not
wait for credits that others do not use.

Two routers that lend at once know of each other only what engines report, as with requests that
they send.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from nebula.events.leases import TERM, Wanted

SMALL = 4
"""A replica that has fewer requests at a time is not lent."""

KEPT_BACK = 1 / 4
"""The part of a replica's requests that is never lent."""

SPARE = 4
"""Credits beyond twice what a gateway had at a time, so that it may grow between two reports."""

FORGOTTEN = 2 * TERM
"""Seconds without a report after which a gateway's requests in flight are known from engines
only."""


class Given(Struct, frozen=True):
    """The credits, by replica, that answered one report; they end at `ends`."""

    serial: int
    ends: float
    credits: Mapping[str, int]


class Holder(Struct, frozen=True):
    """What a router knows of one gateway and one model. Times are of the router's clock.

    `serial`, `told`: its last report, and when that came, with `most` and `in_flight` as in it.
    `given`: credits that it may still use.
    """

    serial: int = 0
    told: float = 0.0
    most: int = 0
    in_flight: Mapping[str, int] = {}
    given: tuple[Given, ...] = ()


Holders = Mapping[str, Holder]
"""The holders of one model's leases by gateway."""


class Room(Struct, frozen=True):
    """A replica that may be lent: its limit, and what it has that no holder has reported."""

    replica: str
    limit: int
    busy: int


def told(holder: Holder, serial: int, wanted: Wanted, now: float) -> Holder:
    """Return a holder after its report with this serial; one that is overtaken changes nothing."""
    if serial <= holder.serial:
        return holder
    kept = tuple(each for each in holder.given if each.serial >= wanted.least and each.ends > now)
    return Holder(serial, now, wanted.most, wanted.in_flight, kept)


def lent(holder: Holder, replica: str, now: float) -> int:
    """Return the requests that a holder may have at a replica by what was granted to it."""
    return max(
        (each.credits.get(replica, 0) for each in holder.given if each.ends > now), default=0
    )


def running(holder: Holder, replica: str, now: float) -> int:
    """Return the requests that a holder has there, by its own last words."""
    return holder.in_flight.get(replica, 0) if now - holder.told < FORGOTTEN else 0


def counted(holder: Holder, replica: str, now: float) -> int:
    """Return the requests of a replica that a holder takes up, whether they are sent yet or not."""
    return max(lent(holder, replica, now), running(holder, replica, now))


def taken_up(holders: Iterable[Holder], replica: str, now: float) -> int:
    """Return how many requests of a replica all holders take up."""
    return sum(counted(each, replica, now) for each in holders)


def reported(holders: Iterable[Holder], replica: str, now: float) -> int:
    """Return how many requests holders have at a replica by their own last words."""
    return sum(running(each, replica, now) for each in holders)


def lendable(room: Room, holders: Holders, gateway: str, now: float) -> int:
    """Return the credits of a replica that a gateway gets now.

    Gateways share by what they want. None gets much more than that, and none gets what another one
    still holds, though its part has become smaller.
    """
    if room.limit < SMALL:
        return 0
    own = holders[gateway]
    whole = room.limit - max(1, int(room.limit * KEPT_BACK)) - room.busy
    if not own.most or whole <= 0:
        return 0
    active = {name: each for name, each in holders.items() if now - each.told < FORGOTTEN}
    wanted = sum(each.most for each in active.values())
    part = whole * own.most // max(1, wanted)
    free = whole - taken_up(
        (each for name, each in holders.items() if name != gateway), room.replica, now
    )
    return max(0, min(part, 2 * own.most + SPARE, free))


def granted(holder: Holder, lent: Mapping[str, int], now: float) -> Holder:
    """Return a holder that gets these credits in answer to its last report."""
    given = (*holder.given, Given(holder.serial, now + TERM, lent))
    return replace(holder, given=given)


def over(holder: Holder, now: float) -> bool:
    """Return whether nothing of a holder counts any more."""
    return now - holder.told >= FORGOTTEN and all(each.ends <= now for each in holder.given)
