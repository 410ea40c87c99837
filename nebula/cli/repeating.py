"""A repeated log line is written once a minute, with the number of repetitions."""

import logging
import time
from collections.abc import Callable

from nebula.store.repetitions import Repetitions


class Repeating(logging.Filter):
    """Keeps back warnings and errors that were written not long ago, whatever repeats them.

    So a loop that keeps failing does not fill a log. `now`: seconds of a
    monotonic clock.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._said = Repetitions()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write a line; add the count of its suppressed repetitions."""
        if record.levelno < logging.WARNING:
            return True
        line = f"{record.name}: {record.getMessage()}"
        if record.exc_info and record.exc_info[1] is not None:
            line += f": {record.exc_info[1]!r}"
        more = self._said.since(line, self._now())
        if more:
            record.msg, record.args = f"{record.getMessage()} (said {more} times more)", ()
        return more is not None
