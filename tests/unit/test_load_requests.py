"""What a load request sets, and what it changes of the request before it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nebula.events.intents import ModelLoadRequested
from nebula.events.masking import MASK
from nebula.events.values import Adapter, Autoscale
from nebula.history.description import describe
from nebula.history.explanation import Chronicle
from nebula.history.load_requests import LONGEST_VALUE, changed, changes, settings
from nebula.http.views import event_view
from tests.unit.story import Story, cluster, load

WHOLE = ModelLoadRequested(
    "/m",
    "org/m",
    "chat",
    3,
    (Adapter("poet", "/poet"),),
    None,
    "6GiB",
    {"max-model-len": 4096, "enforce-eager": True, "hf-token": "hf_abcdefghijKLM1"},
    {"OMP_NUM_THREADS": "4", "API_KEY": "sk-12345678abcDEF"},
    max_in_flight=8,
    labels={"zone": "a"},
    apart=("other",),
    autoscale=Autoscale(1, 4),
    fallback=("small",),
)


def test_all_that_a_request_sets_is_told_without_secrets() -> None:
    assert settings(WHOLE) == (
        "name org/m",
        "memory 6GiB",
        "max in flight 8",
        "apart from other",
        "autoscale 1:4,in-flight=16,wait=2,calm=300",
        "fallback small",
        "option enforce-eager true",
        f"option hf-token {MASK}",
        "option max-model-len 4096",
        f"env API_KEY {MASK}",
        "env OMP_NUM_THREADS 4",
        "adapter poet /poet",
        "label zone a",
    )


def test_what_a_second_request_does_not_name_is_told_as_dropped() -> None:
    assert changes(WHOLE, ModelLoadRequested("/m", "org/m")) == (
        "replicas: 3 -> 1 (the default)",
        "memory: 6GiB -> not set",
        "max in flight: 8 -> 256 (the default)",
        "apart from: other -> not set",
        "autoscale: 1:4,in-flight=16,wait=2,calm=300 -> not set",
        "fallback: small -> not set",
        "option enforce-eager: true -> not set",
        f"option hf-token: {MASK} -> not set",
        "option max-model-len: 4096 -> not set",
        f"env API_KEY: {MASK} -> not set",
        "env OMP_NUM_THREADS: 4 -> not set",
        "adapter poet: /poet -> not set",
        "label zone: a -> not set",
    )


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"source": "/n"}, "source: /m -> /n"),
        ({"task": "embedding"}, "task: chat -> embedding"),
        ({"replicas": 5}, "replicas: 3 -> 5"),
        ({"memory": 2**30}, "memory: 6GiB -> 1073741824"),
        ({"lora": False}, "takes LoRA adapters: not set -> no"),
        ({"policy": "binpack"}, "policy: spread -> binpack"),
        ({"node": "n1", "devices": (0, 1)}, "only on: not set -> n1/0/1"),
        ({"on_request": True}, "on request: not set -> yes"),
        ({"idle_after": 60.0}, "idle after: not set -> 60.0"),
        ({"evictable": True}, "evictable: not set -> yes"),
        ({"env": {**WHOLE.env, "B": ""}}, "env B: not set -> "),
        ({"env": {**WHOLE.env, "API_KEY": "sk-other5678abcDEF"}}, "env API_KEY: another value"),
        ({"options": {**WHOLE.options, "x": None}}, "option x: not set -> null"),
        ({"adapters": (Adapter("poet", "/new"),)}, "adapter poet: /poet -> /new"),
    ],
)
def test_each_kind_of_change_has_its_line(fields: dict[str, object], line: str) -> None:
    (found,) = changes(WHOLE, replace(WHOLE, **fields))
    assert found.startswith(line)
    assert "sk-" not in found


def test_long_values_and_control_characters_do_not_get_into_a_line() -> None:
    odd = replace(WHOLE, options={"x": "a\x1b[31m\n" * 200}, env={})
    lines = changes(WHOLE, odd)
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines)) < 2 * LONGEST_VALUE + 100


_requests = st.builds(
    ModelLoadRequested,
    st.sampled_from(["/x", "/y"]),
    st.sampled_from(["", "a"]),
    replicas=st.integers(0, 3),
    adapters=st.lists(st.builds(Adapter, st.just("sql"), st.sampled_from("ab")), max_size=1).map(
        tuple
    ),
    lora=st.sampled_from([None, True, False]),
    memory=st.sampled_from([None, "1GiB", 5]),
    options=st.dictionaries(st.sampled_from(["a", "token"]), st.sampled_from([None, 1, "x", "y"])),
    env=st.dictionaries(st.sampled_from(["A", "API_KEY"]), st.sampled_from(["", "x", "y"])),
    max_waiting=st.sampled_from([1024, 0]),
    autoscale=st.sampled_from([None, Autoscale(), Autoscale(0, 2)]),
    idle_after=st.sampled_from([None, 0.0, 5.0]),
    evictable=st.booleans(),
    fallback=st.sampled_from([(), ("a",)]),
)


@given(_requests, _requests)
def test_requests_that_differ_have_a_line_and_equal_ones_have_none(
    one: ModelLoadRequested, other: ModelLoadRequested
) -> None:
    assert bool(changes(one, other)) == (one != other)
    assert len(changes(one, other)) == len(changes(other, one))


def changed_story() -> Story:
    story = cluster(alpha=[80]).given("chat", load(2, "8GiB", options={"seed": 1}, env={"A": "1"}))
    story.settles()
    return story.given("chat", load(2, "8GiB", options={"seed": 2}))


def test_events_and_why_tell_what_is_set_and_what_a_change_changes() -> None:
    story = changed_story()
    chronicle = Chronicle(lambda record, *_: record.type == "ModelLoadRequested")
    for record in story.log:
        chronicle.take(record)
    first, second = (line.text for line in chronicle.lines)
    assert first == ("asked to load /m for chat, 2 replicas, memory 8GiB, option seed 1, env A 1")
    assert second == (
        "asked to load /m for chat, 2 replicas, memory 8GiB, option seed 2; that changes: "
        "option seed: 1 -> 2; env A: 1 -> not set"
    )


def test_a_request_that_repeats_the_last_one_says_that_it_changes_nothing() -> None:
    story = changed_story()
    before = story.state
    story.given("chat", load(2, "8GiB", options={"seed": 2}))
    assert describe(story.log[-1], before).endswith("; that changes nothing")
    assert changed(before, story.state, "chat") == ()


def test_where_the_state_before_is_not_known_only_what_is_set_is_told() -> None:
    story = changed_story()
    assert event_view(story.log[-1]).text == (
        "asked to load /m for chat, 2 replicas, memory 8GiB, option seed 2"
    )
