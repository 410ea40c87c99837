"""Which path a request for an unknown one was meant for: most often a client's base URL is wrong.

It is told, never assumed: such a request is refused. Pure.
"""

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from functools import lru_cache

from msgspec import Struct

ALIKE = 0.84
"""Part of two segments' characters that agree, from which on one is a misspelling of the other."""

_SURPLUS = 1.0
"""What each segment costs that only one of two paths has."""

_ANY_NAME = 0.25
"""What each segment costs that stands for a name: a path that has it literally is preferred."""

_TOLD = 60
"""Characters of a wrong base that are repeated."""

_MOST = 12
"""Segments of a path that are looked at: its last ones, since a wrong base URL is at its front."""


class NearMiss(Struct, frozen=True):
    """The path that was `meant`, and by which base instead of which it was reached.

    `base` and `wrong_base` are what stands before the part that both paths have in common: an API's
    version at most. Both are empty if a wrong base URL is not the reason.
    """

    meant: str
    base: str
    wrong_base: str


def nearest(path: str, served: Iterable[str]) -> NearMiss | None:
    """Return the one served path that is nearest to an unknown one; None if there is none.

    A served path is near if its last segment is that of the unknown one, perhaps misspelled. Which
    other segments are missing or too many decides between several. `{…}` in a served path stands
    for any name. Paths below /admin are meant only where `admin` is named.
    """
    asked = _segments(path)
    if not asked:
        return None
    admin = "admin" in asked
    costs = [
        (cost, each)
        for each in served
        if each.startswith("/admin/") == admin
        and (cost := _cost(asked, _segments(each))) is not None
    ]
    if not costs:
        return None
    meant = min(costs)[1]
    return NearMiss(meant, *_bases(asked, _segments(meant)))


def advice(miss: NearMiss, root: str = "") -> str:
    """Return what is wrong with the base URL of a client; "" if that is not the reason.

    `root`: what stands before both paths.
    """
    right, wrong = miss.base, miss.wrong_base
    if right and wrong and root:
        right, wrong = root + right, root + wrong
    said = repr(wrong if len(wrong) <= _TOLD else f"{wrong[:_TOLD]}…")
    if right and wrong:
        return f"the client's base URL has {said} in place of {right!r}"
    if wrong:
        return f"the client's base URL has {said} too much"
    return f"the client's base URL lacks {right!r}" if right else ""


def _segments(path: str) -> tuple[str, ...]:
    return tuple([each for each in path.split("/") if each][-_MOST:])


def _cost(asked: Sequence[str], wanted: Sequence[str]) -> float | None:
    """Return how far one path is from another; None if it is another one altogether."""
    if not wanted or wanted[-1].startswith("{"):
        near = len(wanted) > 1 and len(asked) > 1 and _difference(asked[-2], wanted[-2]) is not None
    else:
        near = _difference(asked[-1], wanted[-1]) is not None
    if not near:
        return None
    # The edit distance of the segments, from the end, so that the last ones belong together.
    row = [_SURPLUS * number for number in range(len(wanted) + 1)]
    for count, mine in enumerate(reversed(asked), 1):
        before, row = row, [_SURPLUS * count]
        for number, theirs in enumerate(reversed(wanted), 1):
            difference = _difference(mine, theirs)
            kept = before[number - 1] + difference if difference is not None else float("inf")
            row.append(min(kept, before[number] + _SURPLUS, row[-1] + _SURPLUS))
    return row[-1]


def _difference(mine: str, theirs: str) -> float | None:
    """Return what it costs to take one segment for another; None if they have nothing in common."""
    if theirs.startswith("{"):
        return _ANY_NAME
    return None if len(mine) > 2 * len(theirs) else _misspelling(mine.lower(), theirs.lower())


@lru_cache(1024)
def _misspelling(mine: str, theirs: str) -> float | None:
    same = SequenceMatcher(None, mine, theirs, autojunk=False).ratio()
    return 1.0 - same if same >= ALIKE else None


def _bases(asked: Sequence[str], wanted: Sequence[str]) -> tuple[str, str]:
    """Return what stands before the segments that two paths have in common at their ends."""
    same = 0
    for mine, theirs in zip(reversed(asked), reversed(wanted), strict=False):
        if mine != theirs and not theirs.startswith("{"):
            break
        same += 1
    right, wrong = (each[: len(each) - same] for each in (wanted, asked))
    if not same or len(right) > 1:
        return "", ""
    return _joined(right), _joined(wrong)


def _joined(segments: Sequence[str]) -> str:
    return "".join(f"/{each}" for each in segments)
