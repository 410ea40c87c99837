"""Which line is to be logged again: a line that is still true is logged once a minute. Pure."""

AGAIN = 60.0
"""Seconds after which a line that keeps repeating is written again."""

REMEMBERED = 500
"""How many different lines are remembered; the oldest line is forgotten first."""


class Repetitions:
    """Suppresses log lines that were logged recently."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[float, int]] = {}

    def due(self, line: str, now: float, again: float = AGAIN) -> bool:
        """Return whether to log it `now` (s): it was not logged in the last `again` seconds."""
        return self.since(line, now, again) is not None

    def since(self, line: str, now: float, again: float = AGAIN) -> int | None:
        """Return how often it was kept back since it was last logged; None to keep it back now.

        `now`: seconds of a monotonic clock; `again`: seconds that have to pass in between.
        """
        known = self._said.pop(line, None)
        if known is not None and now - known[0] < again:
            self._said[line] = (known[0], known[1] + 1)
            return None
        self._said[line] = (now, 0)
        if len(self._said) > REMEMBERED:
            del self._said[next(iter(self._said))]
        return known[1] if known is not None else 0
