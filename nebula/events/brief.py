"""Shortens reasons: text from elsewhere must not make an event too large to append.

NATS refuses an event that is too large, and the event that rejects another must fit too. So every
reason that Nebula writes, or keeps in its state, is shortened where it is made. Pure.
"""

LONGEST = 1000
"""Longest reason in characters: at most 6,000 bytes of JSON, since a control character takes
six."""

_HEAD = 800


def brief(reason: str) -> str:
    """Return a reason shortened to `LONGEST` characters: its beginning, its end, and its length.

    The end is kept because errors of parsers and tracebacks say what was wrong there.
    """
    if len(reason) <= LONGEST:
        return reason
    note = f" … ({len(reason)} characters) … "
    return reason[:_HEAD] + note + reason[len(reason) - (LONGEST - _HEAD - len(note)) :]
