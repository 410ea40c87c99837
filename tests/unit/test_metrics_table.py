"""The table of metrics follows Prometheus's rules for names."""

import re

import pytest

from nebula.metrics.metric import ACTORS, IDENTITY, OWN, Metric
from nebula.metrics.table import TABLE, rows


@pytest.mark.parametrize("metric", TABLE, ids=lambda metric: metric.name)
def test_a_metric_is_named_as_prometheus_wants_it(metric: Metric) -> None:
    assert re.fullmatch(r"nebula_[a-z]+(_[a-z]+)*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert not re.search(r"_(count|sum|bucket|info_total)$", metric.name)
    for label in metric.labels:
        assert re.fullmatch(r"[a-z]+", label)
        assert label not in ("le", "quantile", "instance", "job")
    if metric.kind == "histogram":
        assert metric.name.endswith("_seconds")
        assert list(metric.buckets) == sorted(set(metric.buckets))
    else:
        assert metric.buckets == ()


@pytest.mark.parametrize("metric", TABLE, ids=lambda metric: metric.name)
def test_a_metric_says_what_it_is_in_a_sentence(metric: Metric) -> None:
    assert re.fullmatch(r"[A-Z][^|\n]+\.", metric.help)
    assert set(metric.actors) <= set(ACTORS)
    for actor in metric.actors:
        assert metric.path != OWN or not set(IDENTITY[actor]) & set(metric.labels)


def test_no_name_stands_for_two_metrics() -> None:
    names = [metric.name for metric in TABLE]
    assert sorted(set(names)) == sorted(names)


def test_every_metric_is_a_row_of_each_of_its_actors() -> None:
    found = {(actor, each.name) for actor in ACTORS for each in rows(actor)}
    assert found == {
        (actor, each.name) for each in TABLE if each.path == OWN for actor in each.actors
    }
