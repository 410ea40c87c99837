"""What a gateway counts of its requests: one narrow call for each that ends. Pure."""

from typing import Protocol

from nebula.actors.gateway.in_flight import InFlightRequest
from nebula.events.failures import Failure
from nebula.events.state import State
from nebula.metrics.counting import Counter, Histogram, Series
from nebula.metrics.metric import DURATION, FIRST_TOKEN, OTHER, OUTPUT_TOKEN

ROWS = 10_000
"""Combinations of model, adapter, path and tenant that are counted apart."""

SERVED = 1000
"""Combinations of model, adapter and path whose times are counted apart."""

REASONS = 2000
"""Combinations of a reason and what it is about that are counted apart."""

CLIENT_LEFT = 499
"""The status of requests whose client left, as proxies log it."""

_STATUS = {
    Failure.IDLE: 504,
    Failure.OVERDUE: 504,
    Failure.ENGINE_TIMED_OUT: 504,
    Failure.FATAL: 500,
    Failure.BEYOND: 400,
    Failure.CANCELLED: 409,
}


class TokenCounts(Protocol):
    """Tokens of one request: of its usage record, or of its answer."""

    @property
    def prompt(self) -> int:
        """Of the prompt."""

    @property
    def cached(self) -> int:
        """Those of them that came from the engine's cache."""

    @property
    def completion(self) -> int:
        """Of the answer."""


def status_of(failure: str, status: int) -> int:
    """Return the HTTP status of a failure; `status`: what its piece says."""
    if failure == Failure.REFUSED and status == 429:
        return 429
    return _STATUS.get(failure, 503)  # type: ignore[call-overload,no-any-return]


class Served:
    """Times of a model's answers on one path."""

    __slots__ = ("duration", "first_token", "output_token")

    def __init__(self) -> None:
        self.duration = Histogram(DURATION)
        self.first_token = Histogram(FIRST_TOKEN)
        self.output_token = Histogram(OUTPUT_TOKEN)


class Row:
    """The requests of one tenant for one model or adapter on one path."""

    __slots__ = ("cached", "completion", "prompt", "served", "statuses")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.prompt = self.cached = self.completion = 0
        self.served: Served | None = None


class RequestCounts:
    """What one gateway has counted since its start."""

    def __init__(self) -> None:
        self.rows: Series[Row] = Series(Row, ROWS, lambda key: (OTHER, OTHER, key[2], OTHER))
        self.served: Series[Served] = Series(Served, SERVED, lambda key: (OTHER, OTHER, key[2]))
        self.refused: Series[Counter] = Series(Counter, REASONS, lambda key: (key[0], OTHER, OTHER))
        self.failed: Series[Counter] = Series(Counter, REASONS, lambda key: (OTHER, key[1]))
        self.retried: Series[Counter] = Series(Counter, REASONS, lambda key: (OTHER, key[1]))
        self.continued: Series[Counter] = Series(Counter, SERVED, lambda _: (OTHER,))
        self.resumed = 0

    def ended(
        self,
        flight: InFlightRequest,
        told: tuple[int, str],
        tokens: TokenCounts | None,
        tenant: str,
    ) -> None:
        """Count a request that has ended.

        `told`: the status of what its client got first (0: nothing), and the failure that ended
        it, if any.
        """
        request = flight.answer.request
        key = (request.model, request.adapter, request.path, tenant)
        row = self.rows.get(key)
        status, failure = told
        if failure:
            status = status_of(failure, status)
            self.failed.get((request.model, failure)).add()
        elif not (status and flight.attached):
            status = CLIENT_LEFT
        statuses = row.statuses
        statuses[status] = statuses.get(status, 0) + 1
        if tokens is not None:
            row.prompt += tokens.prompt
            row.cached += tokens.cached
            row.completion += tokens.completion
        if status >= 400:
            return
        served = row.served
        if served is None:
            served = row.served = self._served(key)
        end = flight.heard_at
        served.duration.observe(end - flight.began)
        first = flight.first_at
        if flight.answer.streaming and first:
            served.first_token.observe(first - flight.began)
            if tokens is not None and tokens.completion > 1:
                served.output_token.observe((end - first) / (tokens.completion - 1))

    def turned_away(self, path: str, status: int, reason: str, tenant: str) -> None:
        """Count a request that was refused before it was sent."""
        row = self.rows.get(("", "", path, tenant))
        row.statuses[status] = row.statuses.get(status, 0) + 1
        if status != CLIENT_LEFT:
            self.refused.get((path, reason, tenant)).add()

    def again(self, model: str, reason: str, *, continues: bool) -> None:
        """Count a further attempt at a request, and what broke the last one."""
        self.retried.get((model, reason)).add()
        if continues:
            self.continued.get((model,)).add()

    def make_room(self, state: State) -> None:
        """Forget models that are no more, where there is no room for others."""

        def known(key: tuple[str, ...]) -> bool:
            return key[0] in state.models or key[0] in ("", OTHER)

        for series in (self.rows, self.served, self.failed, self.retried, self.continued):
            series.keep(known)

    def _served(self, key: tuple[str, ...]) -> Served:
        own = key in self.rows.known
        return self.served.get(key[:3] if own else (OTHER, OTHER, key[2]))
