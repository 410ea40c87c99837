"""How long a child process that has ended waits until it is started again. Pure."""

LONGEST = 10.0
"""Seconds that a pause lasts at most."""

_FIRST = 0.25
_LASTED = 30.0


def pause_after(lived: float, last: float = 0.0) -> float:
    """Return the seconds until the next start of a child that has lived so many seconds.

    `last`: the pause before, of which this one is the double, unless the child has lasted since.
    """
    return _FIRST if lived > _LASTED else min(max(last, _FIRST) * 2, LONGEST)
