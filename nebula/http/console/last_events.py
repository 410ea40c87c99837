"""The last events of one aggregate, for its page."""

from collections import deque

from nebula.events.state import State
from nebula.http.errors import unavailable
from nebula.http.history import reading
from nebula.http.scanning import Scans
from nebula.http.shown_log import ShownLog
from nebula.http.views import EventView, event_view
from nebula.store.connection import Unavailable

LAST = 20
"""Events that are listed."""


async def last_events(
    past: ShownLog, scans: Scans, state: State, kind: str, identity: str
) -> tuple[list[EventView], int]:
    """Return the last events of an aggregate up to a state, the newest first.

    The number is that of earlier ones. Raise ApiError.
    """
    last: deque[EventView] = deque(maxlen=LAST)
    number = 0
    try:
        async with reading(scans) as scan:
            async for record in past.events_of(kind, identity, state.seq, scan.worked):
                last.append(event_view(record))
                number += 1
    except Unavailable as error:
        raise unavailable(str(error), 1) from error
    return list(reversed(last)), number - len(last)
