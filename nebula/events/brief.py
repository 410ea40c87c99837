"""Reasons are cut: text that comes from elsewhere must not make an event too large to append.

An event that NATS does not take can't be appended at all, and one that answers it must fit too. So
every reason that Nebula writes, or keeps in its state, is cut where it is made. Pure.
"""

LONGEST = 1000
"""Characters of a reason that are kept: 6,000 bytes of JSON at most, as a control character takes
six."""

_HEAD = 800


def brief(reason: str) -> str:
    """Return a reason cut to `LONGEST` characters: its beginning, its end, and its length.

    The end is kept because errors of parsers and tracebacks say there what was wrong.
    """
    if len(reason) <= LONGEST:
        return reason
    note = f" … ({len(reason)} characters) … "
    return reason[:_HEAD] + note + reason[len(reason) - (LONGEST - _HEAD - len(note)) :]
