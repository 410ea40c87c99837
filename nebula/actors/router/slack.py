"""How much spare capacity of a replica a router gives to slack. Pure.

A request of slack slows down all that its engine works on beside it, since an engine computes the
next token of all its requests in one step. So of the slots of a replica that has requests of
clients, slack gets the part BESIDE at most: none of a small engine's, where each request counts.
Once it has no requests of clients, that part doubles every DOUBLES seconds, up to all but a
reserve: a replica whose clients come now and then is not full when the next one comes.

All routers divide that number evenly, without a word between them, so that its sum holds.
"""

from msgspec import Struct

from nebula.events.state import Model

BESIDE = 1 / 64
"""The part of a replica's slots that slack may have while the replica has requests of clients."""

DOUBLES = 2.0
"""Seconds without requests of clients in which that part doubles."""

RESERVE = 1 / 8
"""The part of a replica's slots that slack leaves free for requests of clients that come."""

CACHE = 0.8
"""Part of a replica's KV cache in use above which it gets no more slack: what does not fit into it
makes others wait, or is computed twice."""

TAKEN_BACK = 3
"""The attempt of a request of slack from which on it is not taken back any more."""


class Others(Struct, frozen=True):
    """What other routers tell: how many there are, and whether clients wait for a model there."""

    routers: int = 0
    waiting: bool = False


class Spare(Struct, frozen=True):
    """What is known of a replica: its requests, those of them that are slack, and our own of these.

    `calm`: seconds for which it has had no requests of clients; 0 while it has some. `waiting`:
    requests that wait inside the engine. `cache`: the part of its KV cache in use.
    """

    in_flight: int
    slack: int
    own: int
    calm: float
    waiting: int = 0
    cache: float = 0.0


def slots(model: Model) -> int:
    """Return the number of requests that a replica works on at once, as far as it is known."""
    limit = model.spec.max_in_flight
    told = model.spec.options.get("max-num-seqs")
    return min(limit, told) if isinstance(told, int) and told > 0 else limit


def share(slots: int, calm: float) -> int:
    """Return how much slack a replica may have, of all routers together."""
    most = max(1, slots - max(1, int(slots * RESERVE)))
    doubled = min(calm / DOUBLES, 16.0)  # beyond any number of slots
    return min(most, int(slots * BESIDE * 2**doubled))


def own_share(slots: int, calm: float, routers: int) -> int:
    """Return one router's part of it: at least one request, if there is any for all of them."""
    whole = share(slots, calm)
    return max(min(1, whole), whole // (routers + 1))


def has_room(spare: Spare, slots: int, routers: int) -> bool:
    """Return whether a replica may get one more request of slack from this router."""
    if spare.waiting or spare.cache > CACHE:
        return False
    reserve = max(1, int(slots * RESERVE)) if slots > 1 else 0
    if spare.in_flight >= slots - reserve:
        return False
    most = share(slots, spare.calm)
    return spare.slack < most and spare.own < own_share(slots, spare.calm, routers)


def excess(spare: Spare, slots: int, routers: int) -> int:
    """Return how much slack of its own a router should take back from a replica."""
    return max(0, spare.own - own_share(slots, 0.0, routers)) if spare.calm == 0 else 0
