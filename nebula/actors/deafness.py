"""When an actor that does not hear what others hear listens at other NATS servers, and moves. Pure.

The servers of a NATS cluster pass a message on over one hop. Where the path between two of them is
cut, the clients of one hear nothing of the clients of the other, although both may reach a third
server. Silence alone does not tell this from a death. So an actor that misses another listens
through each of the other servers for a moment, and moves only to a server through which it hears
more. The pauses grow as long as nothing better is found, and after each move.
"""

import math
from collections.abc import Iterable, Mapping, Set

from msgspec import Struct
from msgspec.structs import replace

from nebula.events import subjects

SILENT = 5.0
"""Seconds without a heartbeat after which an actor is missed: more than two heartbeats."""

FIRST, LONGEST = 10.0, 300.0
"""Seconds between two times of listening: at least, and at most if no new actor is missed; they
double until no actor was missed for LONGEST seconds."""

MOVED = 15.0
"""Seconds after a first move in which there is no other; each further move doubles them, up to
LONGEST."""

CALM = 600.0
"""Seconds without a move after which the next one counts as the first."""

ANY_ROUTER = subjects.ROUTER_STATUS.encode()
"""Stands for a router, whichever it is, among what should be heard."""

MOST_MISSED = 10_000
"""Number of missed actors that are remembered; if there are more, only those missed now."""

_ROUTERS = ANY_ROUTER.removesuffix(b"*")
_NAMED = 3


class Past(Struct, frozen=True):
    """When an actor listened elsewhere and moved; times in seconds of a monotonic clock.

    `missed`: the actors that it missed then. `listened`: how often, without a long calm between.
    `rests`: until when it does not move again.
    """

    listened_at: float = -math.inf
    listened: int = 0
    missed: Set[bytes] = frozenset()
    moved_at: float = -math.inf
    moves: int = 0
    rests: float = -math.inf


class Heard(Struct, frozen=True):
    """What is heard through one server: subjects of heartbeats, and whether the log answers."""

    subjects: Set[bytes]
    log: bool


def missed(
    expected: Iterable[bytes], heard: Mapping[bytes, float], since: float, now: float
) -> frozenset[bytes]:
    """Return the actors that should be heard and have not been for SILENT seconds.

    Args:
        expected: subjects of heartbeats, or ANY_ROUTER.
        heard: when each was heard last, or came to be expected.
        since: when the actor began to listen, here.
        now: seconds of the same monotonic clock.
    """
    oldest = now - SILENT
    if since >= oldest:
        return frozenset()
    return frozenset(each for each in expected if heard.get(each, since) < oldest)


def due(missing: Set[bytes], past: Past, now: float) -> bool:
    """Return whether to listen at other servers: one is missed, and the last time is long ago."""
    if not missing or now < past.rests:
        return False
    return now - past.listened_at >= _pause(missing, past)


def _pause(missing: Set[bytes], past: Past) -> float:
    if not missing <= past.missed:
        return FIRST
    return min(FIRST * 2.0 ** min(max(past.listened - 1, 0), 10), LONGEST)


def listened(missing: Set[bytes], past: Past, now: float) -> Past:
    """Return the past of an actor that listens elsewhere now."""
    known = past.missed | missing
    if len(known) > MOST_MISSED:
        known = missing
    return replace(past, listened_at=now, listened=past.listened + 1, missed=known)


def heard_all(past: Past, now: float) -> Past:
    """Return the past of an actor that misses no other now; after a long calm it starts again."""
    if not past.listened or now - past.listened_at <= LONGEST:
        return past
    return replace(past, listened=0, missed=frozenset())


def better(here: Heard, there: Mapping[str, Heard]) -> str | None:
    """Return the server through which more is heard than here; None if there is none.

    The log goes first, then that a router is heard at all, then the number of heard actors.
    """
    best, found = _worth(here), None
    for server, heard in there.items():
        worth = _worth(heard)
        if worth > best:
            best, found = worth, server
    return found


def _worth(heard: Heard) -> tuple[bool, bool, int]:
    router = any(each.startswith(_ROUTERS) for each in heard.subjects)
    return heard.log, router, len(heard.subjects)


def moved(past: Past, now: float, draw: float) -> Past:
    """Return the past of an actor that moves now.

    `draw`, from 0 to 1, lengthens its rest by up to a half, so that two do not move in step.
    """
    moves = 1 if now - past.moved_at > CALM else past.moves + 1
    rest = min(MOVED * 2.0 ** min(moves - 1, 10), LONGEST) * (1 + draw / 2)
    return replace(past, moved_at=now, moves=moves, rests=now + rest)


def covered(wanted: Iterable[bytes], heard: Set[bytes]) -> bool:
    """Return whether all those wanted are heard."""
    return all(
        each in heard or (each == ANY_ROUTER and any(other.startswith(_ROUTERS) for other in heard))
        for each in wanted
    )


def told(missing: Set[bytes]) -> str:
    """Return in words which actors are missed."""
    names = sorted(_name(each) for each in missing if each != ANY_ROUTER)
    if ANY_ROUTER in missing:
        names.insert(0, "any router")
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _name(subject: bytes) -> str:
    tokens = subject.decode("utf-8", "replace").split(".")
    return f"node {tokens[-1]}" if "node" in tokens[:-1] else tokens[-1]
