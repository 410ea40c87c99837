"""The time slider: where a moment is on it, and which moment a step leads to. Pure."""

from msgspec import Struct

KNOB, TRACK = "●", "─"

STEPS = 50
"""Wide steps from the beginning of a log to its end."""


class Timeline(Struct, frozen=True):
    """A log of `last` events, shown as it was after event `seq`; `live` follows its end."""

    seq: int
    last: int
    live: bool = True

    def moved(self, events: int) -> "Timeline":
        """Return the timeline some events later, or earlier for a negative number.

        At the end of the log it is live again.
        """
        return self.at(self.seq + events)

    def at(self, seq: int) -> "Timeline":
        """Return the timeline at a sequence, or at the nearest one that the log has."""
        seq = max(min(1, self.last), min(seq, self.last))
        return Timeline(seq, self.last, seq >= self.last)

    def newest(self) -> "Timeline":
        """Return the timeline at the end of the log."""
        return Timeline(self.last, self.last, True)

    def grown(self, last: int) -> "Timeline":
        """Return the timeline of a log that now ends with `last`: live stays at the end."""
        return Timeline(last if self.live else self.seq, max(last, self.seq), self.live)

    @property
    def wide(self) -> int:
        """The events of a wide step."""
        return max(10, self.last // STEPS)


def track(line: Timeline, width: int) -> str:
    """Return the slider as a line of `width` characters."""
    if width < 1:
        return ""
    knob = place(line, width)
    return TRACK * knob + KNOB + TRACK * (width - knob - 1)


def place(line: Timeline, width: int) -> int:
    """Return at which of `width` characters the knob is."""
    if line.last <= 1:
        return width - 1
    return (line.seq - 1) * (width - 1) // (line.last - 1)


def pointed(line: Timeline, column: int, width: int) -> int:
    """Return the sequence at a character of a slider of `width` characters."""
    if width <= 1:
        return line.last
    return 1 + column * (line.last - 1) // (width - 1)
