"""Blames a failed request on its replica or on the request itself. Pure.

A fault of a request must not count against the replica that received it. So a replica is avoided
only after different requests failed there in a row, with no success in between. A request that
fails on two engines is itself at fault, and is not evidence against either; and one request counts
only once, however many actors report it. Only an engine that vanished is avoided for one request.
"""

from collections import OrderedDict
from typing import TypeAlias

from msgspec import Struct

RECOVERY = 2.0
"""Seconds for which an engine is avoided; doubled with each further request that it fails."""

LONGEST_RECOVERY = 60.0

REMEMBERED = 4096
"""Number of remembered failures; the oldest are forgotten first."""

Engine: TypeAlias = tuple[str, int]
"""A replica's id and the pid of its engine: the next engine of a replica starts with a clean
record."""


class _Suspicion(Struct):
    """The requests that an engine has failed since its last success, each with `gone` or not."""

    cases: dict[str, bool] = {}
    until: float = 0.0

    @property
    def weight(self) -> int:
        """By how much the cases exceed what chance explains."""
        return len(self.cases) - 1 + any(self.cases.values())


class Blame:
    """The evidence against engines. Times are seconds of the caller's monotonic clock."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._suspicions: dict[Engine, _Suspicion] = {}
        self._failed: OrderedDict[str, tuple[Engine, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failed)

    def failed(self, engine: Engine, request: str, now: float, *, gone: bool = False) -> None:
        """Note that an engine has failed a request; `gone`: it died or fell silent."""
        engines = self._failed.pop(request, ())
        known = engine in engines
        engines = engines if known else (*engines, engine)
        self._failed[request] = engines
        if len(self._failed) > self._remembered:
            oldest, where = self._failed.popitem(last=False)
            self._acquit(where, oldest)
        if len(engines) > 1:
            self._acquit(engines, request)
            return
        suspicion = self._suspicions.setdefault(engine, _Suspicion())
        if request in suspicion.cases and suspicion.cases[request] >= gone:
            return
        if known and request not in suspicion.cases:
            return  # it has succeeded since
        suspicion.cases[request] = gone
        if suspicion.weight > 0:
            pause = RECOVERY * 2 ** min(suspicion.weight - 1, 16)
            suspicion.until = now + min(pause, LONGEST_RECOVERY)

    def succeeded(self, engine: Engine) -> None:
        """Note that an engine has answered a request, which clears all evidence against it."""
        self._suspicions.pop(engine, None)

    @property
    def suspected(self) -> bool:
        """Whether there is evidence against any engine."""
        return bool(self._suspicions)

    def avoids(self, engine: Engine, now: float) -> bool:
        """Return whether an engine is to be avoided."""
        suspicion = self._suspicions.get(engine)
        return suspicion is not None and suspicion.weight > 0 and suspicion.until > now

    def forget(self, engine: Engine) -> None:
        """Forget an engine that no longer exists."""
        self._suspicions.pop(engine, None)

    def _acquit(self, engines: tuple[Engine, ...], request: str) -> None:
        for engine in engines:
            suspicion = self._suspicions.get(engine)
            if suspicion is not None:
                suspicion.cases.pop(request, None)
                if not suspicion.cases:
                    del self._suspicions[engine]
