"""The figures of a gateway: what it has counted, what it has in flight, and the limits."""

from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, ClassVar

from nebula.actors.figures import Figures
from nebula.actors.gateway.delivery import Delivery
from nebula.actors.gateway.in_flight import Send
from nebula.actors.gateway.metrics_gathering import MetricsGathering
from nebula.actors.gateway.request_counts import RequestCounts
from nebula.events.key import OF_KEY, tenant_of
from nebula.events.ledger import Meter
from nebula.events.state import State
from nebula.events.usage import UsageRecord
from nebula.events.usage_limits import UsageLimits
from nebula.metrics.counting import Counter, Series
from nebula.metrics.exposition import Exposition
from nebula.metrics.metric import ActorKind
from nebula.metrics.sheet import Sheet

if TYPE_CHECKING:
    from nebula.actors.gateway.actor import Gateway

FAILED = 503
"""The status of most requests that fail: 0 of them are told with the first of any other."""


WORKER_UP = "nebula_worker_up"


class GatewayFigures(Figures):
    """The figures of one gateway. `routers_alive` returns the routers that it hears.

    `worker`: its number, where one gateway has several workers, and `together` returns the metrics
    of all of them.
    """

    kind: ClassVar[ActorKind] = "gateway"

    def __init__(self, gateway: "Gateway", routers_alive: Callable[[], tuple[str, ...]]) -> None:
        super().__init__(gateway)
        self._gateway = gateway
        self.worker = 1
        self.together: Callable[[], Awaitable[Exposition]] | None = None
        self.counts = RequestCounts()
        self.gathering = MetricsGathering(gateway, routers_alive)

    def ended(self, delivery: Delivery, record: UsageRecord | None) -> None:
        """Count a request that has ended; `record`: what it used, if this gateway records it."""
        flight = delivery.flight
        if record is None:
            keys = self._gateway.projection.state.keys
            tenant = tenant_of(keys, flight.request.user)
            self.counts.ended(flight, delivery.told, flight.answer.tokens, tenant)
        else:
            self.counts.ended(flight, delivery.told, record, record.tenant)

    def again(self, send: Send) -> None:
        """Count a further attempt at a request."""
        request = send.request
        self.counts.again(request.model, send.after, continues=bool(request.continues))

    def now(self, sheet: Sheet) -> None:
        """Add what the gateway has and has counted."""
        gateway, counts = self._gateway, self.counts
        counts.make_room(gateway.projection.state)
        self._add_requests(sheet, counts)
        for name, series in (
            ("nebula_requests_refused_total", counts.refused),
            ("nebula_requests_failed_total", counts.failed),
            ("nebula_request_retries_total", counts.retried),
            ("nebula_streams_continued_total", counts.continued),
        ):
            _add_counters(sheet, name, series)
        for model, sent in gateway.leasing.leases.sent.items():
            sheet.add("nebula_requests_sent_total", sent.directly, model, "direct")
            sheet.add("nebula_requests_sent_total", sent.by_routers, model, "router")
        sheet.add("nebula_answers_resumed_total", counts.resumed)
        flights = gateway.core.flights.values()
        in_flight = Tally(flight.request.model for flight in flights if not flight.asked_by)
        sheet.add_all(
            "nebula_requests_in_flight", (((model,), n) for model, n in in_flight.items())
        )
        bodies, answers = gateway.bodies, gateway.unread
        sheet.add("nebula_request_memory_bytes", bodies.used)
        sheet.add("nebula_request_memory_limit_bytes", bodies.limit)
        sheet.add("nebula_answer_memory_bytes", answers.used)
        sheet.add("nebula_answer_memory_limit_bytes", answers.limit)
        sheet.add(WORKER_UP, 1, str(self.worker))
        sheet.add("nebula_ready", int(not gateway.log_watch.readiness().reasons))
        sheet.add("nebula_usage_records_waiting", gateway.usage.waiting)
        store = gateway.log_watch.store
        if store is not None:
            sheet.add("nebula_store_disk_bytes", store.size)
            sheet.add("nebula_store_disk_free_bytes", store.free)
        sheet.add_all(
            "nebula_limit_used",
            (((*subject, meter), used) for subject, meter, used in gateway.limiting.in_use()),
        )

    def folded(self, sheet: Sheet, state: State) -> None:
        """Add the limits of tenants, models and keys, and what is not counted yet."""
        sheet.add_all("nebula_limit", _limits(state))
        sheet.begin((model,) for model in sorted(state.models))

    def _add_requests(self, sheet: Sheet, counts: RequestCounts) -> None:
        tokens: Tally[tuple[str, ...]] = Tally()
        cached: Tally[tuple[str, ...]] = Tally()
        for (model, adapter, path, tenant), row in counts.rows.known.items():
            statuses = {FAILED: 0, **row.statuses} if model else row.statuses
            for status, number in statuses.items():
                name = "nebula_requests_total"
                sheet.add(name, number, model, adapter, path, str(status), tenant)
            if model:
                tokens[model, adapter, tenant, "input"] += row.prompt
                tokens[model, adapter, tenant, "output"] += row.completion
                cached[model, adapter, tenant] += row.cached
        for labels, number in tokens.items():
            sheet.add("nebula_tokens_total", number, *labels)
        for key, number in cached.items():
            sheet.add("nebula_cached_tokens_total", number, *key)
        for labels, served in counts.served.known.items():
            sheet.add_histogram("nebula_request_duration_seconds", served.duration, *labels)
            if any(served.first_token.counts):
                sheet.add_histogram(
                    "nebula_time_to_first_token_seconds", served.first_token, *labels
                )
            if any(served.output_token.counts):
                sheet.add_histogram(
                    "nebula_time_per_output_token_seconds", served.output_token, *labels
                )


def _add_counters(sheet: Sheet, name: str, series: Series[Counter]) -> None:
    for labels, counter in series.known.items():
        sheet.add(name, counter.value, *labels)


def _limits(state: State) -> Iterator[tuple[tuple[str, str, str], float]]:
    """Yield each limit by kind, subject and meter."""
    for place in sorted(state.limits):
        kind, identity = place.split(".", 1)
        yield from _of_one(kind, identity, state.limits[place])
    for identity, key in sorted(state.keys.items()):
        if not key.revoked_ns and not key.limits.empty:
            yield from _of_one(OF_KEY.rstrip(":"), identity, key.limits)


def _of_one(
    kind: str, identity: str, limits: UsageLimits
) -> Iterator[tuple[tuple[str, str, str], float]]:
    for meter in Meter:
        value = getattr(limits, meter)
        if value is not None:
            yield (kind, identity, meter.value), value
