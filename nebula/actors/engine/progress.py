"""Whether an engine makes progress: counts its silence, which only progress ends. Pure.

Progress is a token or an answer from its core, or a step counter that changed. What clients do is
not progress: a request that left without an answer stays owed until something shows that the core
works, which a probe of one token finds out. Time in which the observer itself did not run (a
stopped process, a suspended machine) is not counted.
"""

from msgspec import Struct

LONGEST_STEP = 1.0
"""Longest time between two looks that counts, in seconds; beyond it the observer was suspended."""

QUIET = 1.0
"""Seconds of silence up to which an engine that loses its last request counts as healthy."""

PROBE_AFTER = 5.0
"""Seconds of silence after which an engine with requests, or with an owed answer, is probed."""

SLOWEST = 64.0
"""Bytes of a prompt per second that the slowest acceptable engine reads."""

LONGEST_PREFILL = 1800.0
"""Longest allowance for a prompt's length, in seconds."""


class EngineProgress(Struct, frozen=True):
    """An engine's report to its node about its progress.

    `silence`: seconds as `Progress` counts them. `requests`: requests that it has, or that left
    without an answer since its last progress. `probed`: seconds for which a probe of one token has
    waited; 0 if there is none. `allowance`: seconds that the longest running prompt may take to be
    read. `whose`: as from `whose`; "" from an older bridge.
    """

    silence: float = 0.0
    requests: int = 0
    probed: float = 0.0
    allowance: float = 0.0
    whose: str = ""


def whose(folder: str, replica: str) -> str:
    """Return what tells an engine from all others of a machine: its node's folder and its replica.

    By it a node notices that something else answers on the port that it gave to an engine.
    """
    return f"{folder} {replica}"


class Progress:
    """The progress of one engine; `now` is seconds of one monotonic clock.

    `silence`: seconds of the observer's running time for which the engine had requests, or owed an
    answer, without progress; 0 if it owes nothing.
    """

    def __init__(self, now: float) -> None:
        """Begin with an idle engine."""
        self.silence = 0.0
        self._looked = now
        self._advanced = now
        self._working = 0
        self._owes = False
        self._abandoned = 0
        self._counters: tuple[float, ...] | None = None

    @property
    def requests(self) -> int:
        """Number of requests that it has, or has left without an answer since its last progress."""
        return self._working + self._abandoned

    def came(self, now: float) -> None:
        """Note a request for the engine's core."""
        if self._owes:
            self.look(now)
        self._looked = now
        self._working += 1
        self._owes = True

    def left(self, began: float, now: float) -> None:
        """Note that a request has ended in any way; `began`: when it arrived."""
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
        """Take the core's step counters: a changed counter is progress."""
        if self._counters is not None and counters != self._counters:
            self.advanced(now)
        self._counters = counters

    def unknowable(self) -> None:
        """Note that the engine takes no probes: no answer to a departed client is owed."""
        if not self._working:
            self._settle()

    def look(self, now: float) -> float:
        """Return the silence until now; call it often: the time between two looks is capped."""
        if self._owes:
            self.silence += min(max(0.0, now - self._looked), LONGEST_STEP)
        self._looked = now
        return self.silence

    def _settle(self) -> None:
        self.silence, self._abandoned, self._owes = 0.0, 0, False


def prefill_allowance(size: int) -> float:
    """Return the seconds that reading a prompt of `size` bytes may take without visible progress.

    With a chunked prefill, as in vLLM, each chunk is a visible step; otherwise only the length
    tells.
    """
    return min(size / SLOWEST, LONGEST_PREFILL)
