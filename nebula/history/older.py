"""What an older Nebula answered because it did not know an event yet. Pure.

While two versions run on one log, the older one rejects what is new to it, although the event
counts for all that know it. Such an answer is not a change of behaviour.
"""

import re

from nebula.events.vocabulary import TYPES, EventRejected

_UNKNOWN = re.compile(
    r"'\w+' is none of model, "
    r"|'\w+' is no event type of Nebula"
    r"|\w+ of version \d+ is newer than this Nebula"
    r"|\w+: Object contains unknown field "
)
"""How every Nebula so far has begun to say that it does not know something (`events/record.py`)."""


def did_not_know(answer: EventRejected) -> bool:
    """Return whether an answer says that its writer did not know an event which is known today."""
    return (
        not TYPES.keys().isdisjoint(answer.subject.split(".")[4:5])
        and _UNKNOWN.match(answer.reason) is not None
    )
