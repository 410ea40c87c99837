"""Schedules a node's downloads: which run now, and which wait. Pure.

More than a few downloads would only share the same bandwidth. A slow download leaves most of it
unused, so others run beside it; if there are too many, the slowest makes way for those that have
waited for long.
"""

from msgspec import Struct

QUICK = 2
"""Downloads that run at a time, without slow ones."""

ALL = 10
"""Downloads that run at a time, including slow ones."""

SLOW = 256 * 1024
"""Bytes per second below which a download is slow."""

SPAN = 10.0
"""Seconds over which a download's speed is measured."""

PATIENCE = 30.0
"""Seconds that a download waits before a slow one must make way for it."""


class Turns(Struct, frozen=True):
    """The sources whose turn has come, and the download that must make way."""

    begin: tuple[str, ...] = ()
    end: str | None = None


class _Running(Struct):
    """`done` bytes were there at `at`; `pace`: bytes per second of the last complete span."""

    at: float
    done: int | None = None
    pace: float | None = None

    @property
    def slow(self) -> bool:
        return self.pace is not None and self.pace < SLOW


class Slots:
    """The downloads of one node. Times are seconds of any one clock."""

    def __init__(self) -> None:
        self._running: dict[str, _Running] = {}
        self._waiting: dict[str, float] = {}

    @property
    def running(self) -> tuple[str, ...]:
        """The sources whose turn it is, those that delay others first."""
        return tuple(sorted(self._running, key=lambda source: self._running[source].slow))

    def wait(self, source: str, now: float) -> None:
        """Add a source at the end of the queue."""
        self._waiting[source] = now

    def leave(self, source: str) -> None:
        """Forget a source: it is complete, has failed, or is no longer wanted."""
        self._waiting.pop(source, None)
        self._running.pop(source, None)

    def came(self, source: str, done: int, now: float) -> None:
        """Note how many bytes of a source are there."""
        running = self._running.get(source)
        if running is None:
            return
        if running.done is None:
            running.at, running.done = now, done
        elif now - running.at >= SPAN:
            running.pace = (done - running.done) / (now - running.at)
            running.at, running.done = now, done

    def pace(self, source: str) -> float:
        """Return the speed of a source's download, in bytes per second; 0 if unknown."""
        running = self._running.get(source)
        return running.pace or 0.0 if running is not None else 0.0

    def turns(self, now: float) -> Turns:
        """Start the turns of waiting sources, the oldest first."""
        begun: list[str] = []
        quick = sum(not running.slow for running in self._running.values())
        for source in list(self._waiting):
            if quick >= QUICK or len(self._running) >= ALL:
                break
            del self._waiting[source]
            self._running[source] = _Running(now)
            begun.append(source)
            quick += 1
        longest = min(self._waiting.values(), default=now)
        slow = [source for source, running in self._running.items() if running.slow]
        if len(self._running) < ALL or quick >= QUICK or now - longest < PATIENCE or not slow:
            return Turns(tuple(begun))
        return Turns(tuple(begun), min(slow, key=self.pace))
