"""Which requests a router refuses, or has wait while their model does not serve. Pure.

It is told of these only, and never of a request that an engine gets at once.
"""

from msgspec import Struct

from nebula.events.demand import MINUTE, DemandRecord, ModelDemand
from nebula.metrics.metric import OTHER

MODELS = 1000
"""Models that a record tells apart; those beyond are added up as `other`."""


class _Waiting(Struct):
    """A request that waits: since when, and up to when that was recorded."""

    model: str
    since: float
    told: float


class _Sum(Struct):
    refused: dict[str, int]
    requests: int = 0
    waited: float = 0.0
    longest: float = 0.0


class Demand:
    """What was refused and waited since it was last taken. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}
        self._sums: dict[str, _Sum] = {}

    def refused(self, model: str, reason: str) -> None:
        """Count a request that was refused."""
        refused = self._sum(model).refused
        refused[reason] = refused.get(reason, 0) + 1

    def waits(self, request: str, model: str, now: float) -> None:
        """Note a request that begins to wait while no replica of its model serves."""
        self._waiting[request] = _Waiting(model, now, now)
        self._sum(model).requests += 1

    def left(self, request: str, now: float) -> None:
        """Note that a request waits no more, if it was noted that it does."""
        waiting = self._waiting.pop(request, None)
        if waiting is not None:
            self._tell(waiting, now)

    def take(self, now: float, time: int) -> DemandRecord | None:
        """Return all since the last call, what waits still included; None for nothing.

        `time`: in ns since the epoch, in the minute that is over.
        """
        for waiting in self._waiting.values():
            self._tell(waiting, now)
        sums, self._sums = self._sums, {}
        if not sums:
            return None
        models = (
            ModelDemand(model, each.refused, each.requests, round(each.waited, 3), each.longest)
            for model, each in sorted(sums.items())
        )
        return DemandRecord(time // MINUTE * MINUTE, tuple(models))

    def _tell(self, waiting: _Waiting, now: float) -> None:
        found = self._sum(waiting.model)
        found.waited += now - waiting.told
        found.longest = round(max(found.longest, now - waiting.since), 3)
        waiting.told = now

    def _sum(self, model: str) -> _Sum:
        found = self._sums.get(model)
        if found is None:
            model = model if len(self._sums) < MODELS else OTHER
            found = self._sums.setdefault(model, _Sum({}))
        return found
