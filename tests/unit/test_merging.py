"""Texts of several sources become one, in which each says where it is from, and none lies."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families as parse

from nebula.metrics.merging import Merged, pack, unpack

ENGINE = """\
# HELP vllm:num_requests_running Number of requests.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="org/chat"} 2.0
# HELP vllm:ttft_seconds Histogram.
# TYPE vllm:ttft_seconds histogram
vllm:ttft_seconds_bucket{le="0.5",model_name="org/chat"} 1.0
vllm:ttft_seconds_bucket{le="+Inf",model_name="org/chat"} 1.0
vllm:ttft_seconds_count{model_name="org/chat"} 1.0
vllm:ttft_seconds_sum{model_name="org/chat"} 0.25
# HELP vllm:tokens_total Tokens.
# TYPE vllm:tokens_total counter
vllm:tokens_total 7.0
"""


def labels(number: int) -> dict[str, str]:
    return {"node": "n1", "replica": f"chat-{number}", "model": "chat"}


def test_families_of_several_engines_come_once_with_where_each_sample_is_from() -> None:
    merged = Merged(10_000)
    assert all(merged.add(ENGINE, labels(number)) for number in range(2))
    text = merged.text()
    assert text.count("# TYPE vllm:num_requests_running gauge") == 1
    families = {family.name: family for family in parse(text)}
    assert set(families) == {"vllm:num_requests_running", "vllm:ttft_seconds", "vllm:tokens"}
    assert families["vllm:ttft_seconds"].type == "histogram"
    assert len(families["vllm:ttft_seconds"].samples) == 8
    for family in families.values():
        assert {each.labels["replica"] for each in family.samples} == {"chat-0", "chat-1"}
        assert all(each.labels["node"] == "n1" for each in family.samples)
    (running, _) = families["vllm:num_requests_running"].samples
    assert running.labels == {"engine": "0", "model_name": "org/chat", **labels(0)}


def test_a_label_of_a_source_does_not_hide_where_it_is_from() -> None:
    merged = Merged(10_000)
    merged.add('a{node="other",x="1"} 1\nb{node="n1"} 2\n', {"node": "n1"})
    found = {each.name: each.labels for family in parse(merged.text()) for each in family.samples}
    assert found == {
        "a": {"node": "n1", "exported_node": "other", "x": "1"},
        "b": {"node": "n1"},
    }


@pytest.mark.parametrize(
    "line",
    [
        "no value",
        'a{b="} 1',
        "a{b=c} 1",
        "a 1 2 3",
        "a one",
        "9a 1",
        'a{b="c"} 1 # {trace="x"} 1',
        "\x00",
        '{a="b"} 1',
    ],
)
def test_a_line_that_is_not_a_sample_is_left_out(line: str) -> None:
    merged = Merged(10_000)
    assert merged.add(f"good 1\n{line}\ngood_too 2\n", {"node": "n1"})
    names = [each.name for family in parse(merged.text()) for each in family.samples]
    assert names == ["good", "good_too"]


def test_samples_of_one_name_and_two_kinds_are_not_mixed() -> None:
    merged = Merged(10_000)
    merged.add("# TYPE a gauge\na 1\n", {"node": "n1"})
    merged.add("# TYPE a counter\na 2\n", {"node": "n2"})
    (family,) = parse(merged.text())
    assert [each.labels["node"] for each in family.samples] == ["n1"]


def test_only_families_that_are_taken_come_through() -> None:
    merged = Merged(10_000)
    text = "# TYPE nebula_models gauge\nnebula_models 1\nnebula_nodes 1\n"
    merged.add(text, {}, lambda name: name == "nebula_nodes")
    assert [family.name for family in parse(merged.text())] == ["nebula_nodes"]


def test_what_is_beyond_the_room_is_left_out() -> None:
    merged = Merged(10)
    assert merged.add("a 1\n", {})
    assert not merged.add("b 1\nc 1\n", {})
    assert merged.add("d 1\n", {})
    assert [family.name for family in parse(merged.text())] == ["a", "d"]


@given(st.text(max_size=20), st.text(max_size=20), st.floats())
def test_any_label_and_value_of_the_library_comes_through(
    value: str, own: str, number: float
) -> None:
    registry = CollectorRegistry()
    Gauge("a", "About\\ \n a.", ["x"], registry=registry).labels(value).set(number)
    Counter("b", "B.", ["node"], registry=registry).labels(value).inc(2)
    Histogram("c", "C.", registry=registry).observe(0.1)
    merged = Merged(1_000_000)
    assert merged.add(generate_latest(registry).decode(), {"node": own})
    found = {family.name: family for family in parse(merged.text())}
    (sample,) = found["a"].samples
    assert sample.labels == {"x": value, "node": own}
    assert sample.value == number or math.isnan(number)
    (counted,) = [each for each in found["b"].samples if each.name == "b_total"]
    kept = {} if value == own else {"exported_node": value}
    assert counted.labels == {"node": own, **kept}
    assert len(found["c"].samples) == len(Histogram.DEFAULT_BUCKETS) + 2


@given(st.binary(max_size=200))
def test_what_does_not_unpack_is_passed_over(packed: bytes) -> None:
    text = unpack(packed)
    assert text is None or unpack(pack(text.encode())) == text


@given(st.text(max_size=200))
def test_a_text_travels_unchanged_unless_it_is_too_long(text: str) -> None:
    packed = pack(text.encode())
    assert unpack(packed) == text
    assert unpack(pack(text.encode() + b"x" * 100), 50) is None
