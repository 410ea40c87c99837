"""Whose fault a failed request is: its replica's, or its own. Pure.

A property of a request must not count as the health of whoever received it. So a replica is avoided
only when different requests failed there, one after the other, with no success between. A request
that fails on two engines is itself at fault, and is no evidence against either; nor does one
request count twice, whoever tells of it. Only an engine that is gone without a word is avoided
for one request.
"""

from collections import OrderedDict
from typing import TypeAlias

from msgspec import Struct

RECOVERY = 2.0
"""Seconds for which an engine is avoided; twice as long with each further request that it fails."""

LONGEST_RECOVERY = 60.0

REMEMBERED = 4096
"""Requests whose failure is remembered; the oldest are forgotten first."""

Engine: TypeAlias = tuple[str, int]
"""A replica's id and the pid of its engine: the next engine of a replica begins without guilt."""


class _Suspicion(Struct):
    """The requests that an engine has failed since its last success, and whether each time it was
    `gone` without a word. It is avoided until `until`, if they are enough.
    """

    cases: dict[str, bool] = {}
    until: float = 0.0

    @property
    def weight(self) -> int:
        """By how much the cases exceed what may be chance."""
        return len(self.cases) - 1 + any(self.cases.values())


class Blame:
    """The evidence against engines. Times are seconds of a monotonic clock, which callers read."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._suspicions: dict[Engine, _Suspicion] = {}
        self._failed: OrderedDict[str, tuple[Engine, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failed)

    def failed(self, engine: Engine, request: str, now: float, *, gone: bool = False) -> None:
        """Note that an engine has failed a request; `gone`: it died, or is silent, with it."""
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
            return  # it has had a success since
        suspicion.cases[request] = gone
        if suspicion.weight > 0:
            pause = RECOVERY * 2 ** min(suspicion.weight - 1, 16)
            suspicion.until = now + min(pause, LONGEST_RECOVERY)

    def succeeded(self, engine: Engine) -> None:
        """Note that an engine has answered a request: whatever there was against it is over."""
        self._suspicions.pop(engine, None)

    def avoids(self, engine: Engine, now: float) -> bool:
        """Return whether others are to be preferred to an engine."""
        suspicion = self._suspicions.get(engine)
        return suspicion is not None and suspicion.weight > 0 and suspicion.until > now

    def forget(self, engine: Engine) -> None:
        """Let go of an engine that is no more."""
        self._suspicions.pop(engine, None)

    def _acquit(self, engines: tuple[Engine, ...], request: str) -> None:
        for engine in engines:
            suspicion = self._suspicions.get(engine)
            if suspicion is not None:
                suspicion.cases.pop(request, None)
                if not suspicion.cases:
                    del self._suspicions[engine]
