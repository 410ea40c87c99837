"""Whether an engine gets on with its work: its silence is counted, and only progress ends it. Pure.

Progress is a token or an answer that its core made, or a step counter that moved. What clients do,
who come, give up and leave, is none: a request that left without an answer is owed, until anything
shows that the core works, which a probe of one token finds out. Time in which the observer itself
did not run (a stopped process, a paused machine, a laptop's lid) is not counted.
"""

from msgspec import Struct

LONGEST_STEP = 1.0
"""Seconds between two looks that count at most: what is beyond, the observer itself stood still."""

QUIET = 1.0
"""Seconds of silence up to which an engine that loses its last request is taken at its word."""

PROBE_AFTER = 5.0
"""Seconds of silence after which an engine that has work, or owes an answer, is probed."""

SLOWEST = 64.0
"""Bytes of a prompt that the slowest engine worth waiting for reads in a second."""

LONGEST_PREFILL = 1800.0
"""Seconds that a prompt's length buys at most."""


class EngineProgress(Struct, frozen=True):
    """What an engine tells its node of its progress.

    `silence`: as `Progress` counts it. `requests`: those that it has, or that left without an
    answer since its last progress. `probed`: seconds for which a probe of one token has waited; 0
    where none does. `allowance`: seconds that the longest prompt under way may take to be read.
    """

    silence: float = 0.0
    requests: int = 0
    probed: float = 0.0
    allowance: float = 0.0


class Progress:
    """What is known of one engine's progress; `now` is seconds of one monotonic clock.

    `silence`: seconds, as the observer has lived them, for which it had work, or owed an answer,
    and showed no progress. 0 for one that owes nothing.
    """

    def __init__(self, now: float) -> None:
        """Begin with an engine that has nothing to do."""
        self.silence = 0.0
        self._looked = now
        self._advanced = now
        self._working = 0
        self._owes = False
        self._abandoned = 0
        self._counters: tuple[float, ...] | None = None

    @property
    def requests(self) -> int:
        """How many requests it has, or has left without an answer since its last progress."""
        return self._working + self._abandoned

    def came(self, now: float) -> None:
        """Note a request for the engine's core."""
        self.look(now)
        self._working += 1
        self._owes = True

    def left(self, began: float, now: float) -> None:
        """Note that a request is over, however it ended; `began`: when it came."""
        self.look(now)
        self._working -= 1
        self._abandoned += self._advanced < began
        if not self._working and self._advanced >= began and self.silence <= QUIET:
            self._settle()

    def advanced(self, now: float) -> None:
        """Note progress."""
        self._looked = self._advanced = now
        self.silence, self._abandoned = 0.0, 0
        self._owes = self._working > 0

    def counted(self, counters: tuple[float, ...], now: float) -> None:
        """Take the core's step counters: one that moved is progress."""
        if self._counters is not None and counters != self._counters:
            self.advanced(now)
        self._counters = counters

    def unknowable(self) -> None:
        """Note that the engine takes no probe: what left without an answer is owed no longer."""
        if not self._working:
            self._settle()

    def look(self, now: float) -> float:
        """Return the silence until now; called often, for time between two looks is cut."""
        if self._owes:
            self.silence += min(max(0.0, now - self._looked), LONGEST_STEP)
        self._looked = now
        return self.silence

    def _settle(self) -> None:
        self.silence, self._abandoned, self._owes = 0.0, 0, False


def prefill_allowance(size: int) -> float:
    """Return the seconds for which a prompt of `size` bytes may be read without a sign of it.

    Where a prefill is cut in chunks, as vLLM does, each is a step that is seen; else its length is
    all there is to go by.
    """
    return min(size / SLOWEST, LONGEST_PREFILL)
