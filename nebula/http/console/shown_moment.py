"""The moment that a page of the console shows: the present, or any event of the log."""

import time

from msgspec import Struct

from nebula.events.state import State
from nebula.http.history import read_moment, state_at
from nebula.http.scanning import Scan, Scans
from nebula.http.shown_log import ShownLog
from nebula.http.views import moment


class Shown(Struct, frozen=True, kw_only=True):
    """The moment that is shown: the event at `seq`, and the newest event `last` with its time.

    `log`: the file that the log is in; "" for that of a cluster.
    """

    seq: int
    time: str
    last: int
    last_time: str
    live: bool
    log: str = ""


async def state_shown(past: ShownLog, scans: Scans, at: str | None) -> State:
    """Return the state at a moment; without one, the newest. Raise ApiError."""
    return past.state if not at else await state_at(past, scans, read_moment(at))


def moment_fields(past: ShownLog, state: State) -> dict[str, object]:
    """Return the fields of `Shown` for a state."""
    newest = past.state
    return {
        "seq": state.seq,
        "time": moment(state.time),
        "last": newest.seq,
        "last_time": moment(newest.time),
        "live": past.live,
        "log": past.file,
    }


def reader_time(at: str | None, past: ShownLog) -> int | None:
    """Return the time (ns) now for what is shown of the present; None for the past."""
    return time.time_ns() if not at and past.live else None


class Pace:
    """Lets other tasks run after each piece of a pass."""

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self._began = time.monotonic()

    async def pause(self) -> None:
        """Let other tasks run."""
        await self._scan.worked(time.monotonic() - self._began)
        self._began = time.monotonic()
