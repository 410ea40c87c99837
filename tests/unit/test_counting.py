"""Counters, histograms and sheets: Prometheus reads what was counted, and all of it is bounded."""

import math
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as LibraryHistogram
from prometheus_client import Metric as Family
from prometheus_client.openmetrics.exposition import generate_latest as open_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse
from prometheus_client.registry import Collector

from nebula.actors.gateway.request_counts import status_of
from nebula.actors.router.request_counts import Reason
from nebula.events.failures import Failure
from nebula.events.inference import Piece
from nebula.http.relay import error_of
from nebula.metrics import sheet as sheets
from nebula.metrics.counting import Counter, Histogram, Series
from nebula.metrics.exposition import exposition, of_actor, plain
from nebula.metrics.metric import OUTPUT_TOKEN, Metric
from nebula.metrics.sheet import Sheet
from nebula.metrics.table import TABLE

NAME = "nebula_time_per_output_token_seconds"


def read(text: bytes) -> dict[tuple[Any, ...], float]:
    return {
        (each.name, *sorted(each.labels.items())): each.value
        for family in parse(text.decode())
        for each in family.samples
    }


@given(st.lists(st.floats(0, 100)))
def test_a_histogram_is_written_as_the_library_writes_its_own(observed: list[float]) -> None:
    registry = CollectorRegistry()
    library = LibraryHistogram(
        NAME, "h", ["model", "adapter", "path"], registry=registry, buckets=OUTPUT_TOKEN
    ).labels("chat", "", "/p")
    own = Histogram(OUTPUT_TOKEN)
    for each in observed:
        library.observe(each)
        own.observe(each)
    sheet = Sheet("gateway", {})
    sheet.add_histogram(NAME, own, "chat", "", "/p")
    wanted = read(generate_latest(registry))
    assert {key: n for key, n in wanted.items() if not key[0].endswith("_created")} == read(
        exposition(sheet.families()).body
    )


@given(st.lists(st.text(max_size=3)))
def test_series_beyond_the_bound_count_together(values: list[str]) -> None:
    series: Series[Counter] = Series(Counter, 4, lambda _: ("other",))
    for each in values:
        series.get((each,)).add()
    assert len(series.known) <= 5
    assert sum(counter.value for counter in series.known.values()) == len(values)


def test_room_is_made_only_where_there_is_none() -> None:
    series: Series[Counter] = Series(Counter, 2, lambda _: ("other",))
    series.get(("a",)).add()
    series.keep(lambda key: key == ("b",))
    assert set(series.known) == {("a",)}
    series.get(("b",)).add()
    series.keep(lambda key: key == ("b",))
    assert set(series.known) == {("b",)}


def test_what_the_table_does_not_have_is_not_emitted() -> None:
    sheet = Sheet("gateway", {})
    with pytest.raises(KeyError):
        sheet.add("nebula_invented", 1)
    with pytest.raises(KeyError):
        sheet.add("nebula_engines", 1)
    with pytest.raises(ValueError, match="has the labels"):
        sheet.add("nebula_requests_in_flight", 1)


def test_every_figure_of_a_router_says_which_router_it_is() -> None:
    sheet = Sheet("router", {"router": "r1"})
    sheet.add("nebula_nats_connected", 1)
    found = read(of_actor(sheet).body)
    assert all(("router", "r1") in key for key in found)
    assert any(key[0].startswith("process_") for key in found)


def test_of_very_many_subjects_the_rest_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "SUBJECTS", 2)
    sheet = Sheet("gateway", {})
    sheet.add_all("nebula_requests_in_flight", (((f"m{n}",), n) for n in range(5)))
    assert read(exposition(sheet.families()).body) == {
        ("nebula_requests_in_flight", ("model", "m0")): 0,
        ("nebula_requests_in_flight", ("model", "m1")): 1,
        ("nebula_requests_in_flight", ("model", "other")): 9,
    }


def test_a_counter_is_0_before_its_first_event() -> None:
    sheet = Sheet("router", {"router": "r1"})
    sheet.add("nebula_router_requests_refused_total", 3, "a", "queue-full")
    sheet.begin([("a",), ("b",)])
    found = {
        (each.labels["model"], each.labels["reason"]): each.value
        for family in sheet.families()
        for each in family.samples
        if family.name == "nebula_router_requests_refused"
    }
    reasons = get_args(Reason)
    assert found == {(m, reason): 0 for m in "ab" for reason in reasons} | {("a", "queue-full"): 3}


def test_a_counter_of_no_subject_is_0_where_there_is_none() -> None:
    sheet = Sheet("router", {"router": "r1"})
    sheet.begin([])
    assert [family.name for family in sheet.families()] == ["nebula_decisions"]


def test_only_so_many_subjects_begin_at_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "BEGUN", 2)
    sheet = Sheet("node", {"node": "n1"})
    sheet.begin(("chat", f"chat-{number}") for number in range(5))
    for family in sheet.families():
        assert [each.labels["replica"] for each in family.samples] == ["chat-0", "chat-1"]


@pytest.mark.parametrize("metric", [each for each in TABLE if each.begins], ids=lambda m: m.name)
def test_what_begins_at_0_are_counters_with_known_values(metric: Metric) -> None:
    assert metric.kind == "counter"
    of_all = len(metric.labels) - len(metric.begins[0])
    assert metric.labels[:of_all] in ((), ("model",), ("model", "replica"))
    assert {len(each) for each in metric.begins} == {len(metric.begins[0])}
    assert len(set(metric.begins)) == len(metric.begins) <= 20


@given(st.text(max_size=20))
def test_any_label_value_can_be_read_again(model: str) -> None:
    sheet = Sheet("gateway", {})
    sheet.add("nebula_requests_in_flight", 3, model)
    text = exposition(sheet.families()).body.decode()
    (family,) = parse(text)
    assert [each.labels for each in family.samples] == [{"model": model}]


@pytest.mark.parametrize(
    "accept",
    ["", "*/*", "\x00;q=x", "text/html;q=0.1, " * 1000, "text/plain; version=a"]
    + [f"application/openmetrics-text; version={each}" for each in ("x", "1.x", "0.0.1")],
)
def test_any_accept_gets_some_format(accept: str) -> None:
    sheet = Sheet("gateway", {})
    sheet.add("nebula_nats_connected", 1)
    found = exposition(sheet.families(), accept)
    assert found.media_type.startswith("text/plain")
    assert b"nebula_nats_connected 1\n" in found.body


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("failure", list(Failure))
def test_a_failure_is_counted_with_the_status_that_its_client_gets(
    failure: Failure, status: int
) -> None:
    piece = Piece(0, b"engine-failed: x", status=status, end=True, failure=failure)
    assert status_of(failure, status) == error_of(piece).status


@given(
    st.sampled_from(["gauge", "counter"]),
    st.dictionaries(st.sampled_from(["a", "b"]), st.text(max_size=9)),
    st.one_of(st.integers(-(2**60), 2**60), st.floats()),
    st.text(max_size=9),
)
def test_a_text_says_what_the_librarys_own_says(
    kind: str, labels: dict[str, str], number: float, about: str
) -> None:
    family = Family("some", about, kind)
    family.add_sample("some_total" if kind == "counter" else "some", labels, number)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Same(family))
    (own,), (library,) = (
        list(parse(text.decode())) for text in (plain([family]), generate_latest(registry))
    )
    assert (own.name, own.type, own.documentation) == (
        library.name,
        library.type,
        library.documentation,
    )
    (sample,), (wanted,) = own.samples, library.samples
    assert sample.labels == wanted.labels == labels
    assert float(sample.value) == float(wanted.value) or math.isnan(wanted.value)


class Same(Collector):
    def __init__(self, family: Family) -> None:
        self.family = family

    def collect(self) -> list[Family]:
        return [self.family]


@given(st.text(max_size=9), st.floats(allow_nan=False), st.text(max_size=9))
def test_openmetrics_reads_what_is_written_for_it(value: str, number: float, about: str) -> None:
    sheet = Sheet("gateway", {})
    sheet.add("nebula_requests_in_flight", number, value)
    sheet.add("nebula_answers_resumed_total", 3)
    histogram = Histogram(OUTPUT_TOKEN)
    histogram.observe(0.3)
    sheet.add_histogram(NAME, histogram, "chat", "", "/p")
    families = list(sheet.families())
    families[0].documentation = about
    accept = "application/openmetrics-text; version=1.0.0, text/plain;q=0.5"
    found = exposition(families, accept)
    assert found.media_type.startswith("application/openmetrics-text; version=1.0.0")
    registry = CollectorRegistry(auto_describe=False)
    for each in families:
        registry.register(Same(each))
    latest = open_latest(registry, version="1.0.0")  # type: ignore[no-untyped-call]
    own, library = (
        [(each.name, each.type, each.documentation, each.samples) for each in read_open(text)]
        for text in (found.body, latest)
    )
    assert own == library


def read_open(text: bytes) -> list[Family]:
    return list(parse_open(text.decode()))  # type: ignore[no-untyped-call]
