"""The figures of one scrape, held to the table of metrics, as families of Prometheus's library."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from prometheus_client import Metric as Family
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.samples import Sample

from nebula.metrics.counting import Histogram
from nebula.metrics.metric import OTHER, OWN, ActorKind, Metric
from nebula.metrics.table import rows

SUBJECTS = 10_000
"""Models, replicas or limits that a scrape lists each; those beyond are added up as `other`."""


BEGUN = 1000
"""Models or replicas whose counters are 0 before anything was counted; those beyond appear then."""


class Sheet:
    """The figures of one actor. `identity`: the labels that say which one it is.

    A name that the table does not have for this actor and path, or other labels, are a KeyError or
    a ValueError.
    """

    def __init__(self, actor: ActorKind, identity: Mapping[str, str], path: str = OWN) -> None:
        self._actor = actor
        self._identity = dict(identity)
        self._rows: dict[str, Metric] = {row.name: row for row in rows(actor, path)}
        self._families: dict[str, Family] = {}

    def add(self, name: str, value: float, *labels: str) -> None:
        """Add a sample; the labels are those of the table, in its order."""
        row, values = self._row(name, labels)
        self._plain(row).add_metric(values, value)

    def add_all(self, name: str, found: Iterable[tuple[tuple[str, ...], float]]) -> None:
        """Add samples by their labels; of more than SUBJECTS the rest are added up."""
        row = self._rows[name]
        own, family = self._values(row), None
        rest: float | None = None
        for number, (labels, value) in enumerate(found):
            if number < SUBJECTS:
                family = family or self._plain(row)
                family.add_metric([*own, *labels], value)
            else:
                rest = (rest or 0) + value
        if rest is not None:
            self.add(name, rest, *(OTHER,) * len(row.labels))

    def add_histogram(self, name: str, histogram: Histogram, *labels: str) -> None:
        """Add a histogram."""
        row, values = self._row(name, labels)
        family = self._family(row)
        assert isinstance(family, HistogramMetricFamily)
        family.add_metric(values, histogram.buckets, histogram.sum)

    def begin(self, subjects: Iterable[tuple[str, ...]]) -> None:
        """Add 0 for what is not counted yet of these models or replicas, as the table has it.

        So the first that is counted is an increase. Call it when all that was counted is added.
        """
        found = list(islice(subjects, BEGUN))
        for row in self._rows.values():
            if not row.begins:
                continue
            of_all = len(row.begins[0]) == len(row.labels)
            before = self._families.get(row.name)
            samples = before.samples if before is not None else ()
            there = {tuple(each.labels[name] for name in row.labels) for each in samples}
            for subject in [()] if of_all else found:
                for rest in row.begins:
                    if (*subject, *rest) not in there:
                        self.add(row.name, 0, *subject, *rest)

    def families(self) -> Iterator[Family]:
        """Yield all that has samples, in the order of the table."""
        for name in self._rows:
            if name in self._families:
                yield self._families[name]

    def own(self, families: Iterable[Family]) -> Iterator[Family]:
        """Yield families of others with the labels that say which actor this is."""
        for family in families:
            family.samples = [
                Sample(each.name, {**self._identity, **each.labels}, each.value)
                for each in family.samples
            ]
            yield family

    def _row(self, name: str, labels: tuple[str, ...]) -> tuple[Metric, list[str]]:
        row = self._rows[name]
        if len(labels) != len(row.labels):
            raise ValueError(f"{name} has the labels {row.labels}")
        return row, [*self._values(row), *labels]

    def _values(self, row: Metric) -> list[str]:
        """Return the values of the labels that say which actor this is."""
        labels = row.labels_of(self._actor)
        return [self._identity[label] for label in labels[: len(labels) - len(row.labels)]]

    def _plain(self, row: Metric) -> CounterMetricFamily | GaugeMetricFamily:
        family = self._family(row)
        assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
        return family

    def _family(self, row: Metric) -> Family:
        family = self._families.get(row.name)
        if family is None:
            kinds = {
                "counter": CounterMetricFamily,
                "gauge": GaugeMetricFamily,
                "histogram": HistogramMetricFamily,
            }
            family = kinds[row.kind](row.name, row.help, labels=row.labels_of(self._actor))
            self._families[row.name] = family
        return family
