"""Figures of memory that people read: each says what it is, and they add up."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.node.launch import cpu_cache
from nebula.actors.placement.sizing import need, need_in_words, parts, sized_by
from nebula.events import memory
from nebula.events.memory import GIB
from nebula.events.values import Device
from nebula.events.vocabulary import ModelMeasured, NodeRegistered
from nebula.history.description import describe
from nebula.history.explanation import Chronicle
from nebula.history.subject import Subject, verdict
from tests.unit.story import Story, cluster, load

_FIGURE = re.compile(r"(\d+)\.(\d) GiB")


def figures(text: str) -> list[int]:
    """Return the tenths of a GiB that a text names, in their order."""
    return [int(whole) * 10 + int(tenth) for whole, tenth in _FIGURE.findall(text)]


@given(st.integers(GIB, 2**45), st.lists(st.integers(0, 2**42), max_size=6))
def test_parts_as_they_are_written_add_up_to_the_whole(more: int, sizes: list[int]) -> None:
    whole = sum(sizes) + more
    (total,) = figures(memory.text(whole))
    texts = memory.shares(whole, *sizes)
    assert sum(figures(", ".join(texts))) == total
    assert len(texts) == len(sizes) + 1


def measured(kind: str, weights: int, per_token: int, context: int, **fields: Any) -> Story:
    device = Device(0, kind, "x", 80 * GIB)  # type: ignore[arg-type]
    story = Story().given("n1", NodeRegistered((device,)))
    return story.given("chat", load(1, **fields), ModelMeasured("/m", weights, per_token, context))


@given(
    st.sampled_from(["cpu", "gpu"]),
    st.integers(1, 60 * GIB),
    st.integers(0, 2**18),
    st.integers(0, 2**17),
    st.sampled_from(["chat", "embedding"]),
    st.sampled_from([{}, {"kv-cache-memory-bytes": 2**30}, {"max-model-len": 512}]),
)
def test_what_a_replica_needs_is_the_sum_of_what_it_is_told_to_be_for(
    kind: str, weights: int, per_token: int, context: int, task: str, options: dict[str, int]
) -> None:
    story = measured(kind, weights, per_token, context, task=task, options=options)
    model, (device,) = story.model(), story.state.nodes["n1"].devices
    made_of = parts(model, device)
    assert made_of is not None
    assert made_of.total == need(model, device)
    assert min(made_of.weights, made_of.cache, made_of.engine) >= 0
    if kind == "cpu" and made_of.tokens and per_token:
        assert abs(cpu_cache(made_of.total) - made_of.cache) <= 1, "what its engine is told"
        assert made_of.cache + 1 >= made_of.tokens * per_token
    whole, *rest = figures(need_in_words(model, device))
    assert sum(rest) == whole


def test_each_figure_says_what_it_is() -> None:
    story = measured("cpu", 270 * 2**20, 23_040, 8192)
    model, (device,) = story.model(), story.state.nodes["n1"].devices
    assert describe(story.log[-1]) == (
        "measured /m: 270.0 MiB of weights, its KV cache takes 22.5 KiB for each token, a request "
        "may have 8192 tokens"
    )
    assert sized_by(model) == (
        "measured: its files hold 270.0 MiB of weights; its KV cache takes 22.5 KiB for a token, "
        "and is to hold 32768 tokens"
    )
    assert need_in_words(model, device) == (
        "2.8 GiB: 0.3 GiB for weights, 0.7 GiB for a KV cache of at least 32768 tokens, 1.8 GiB "
        "for the engine itself"
    )


def test_a_model_that_keeps_no_cache_has_no_figure_for_one() -> None:
    story = measured("cpu", 90 * 2**20, 0, 512, task="embedding")
    model, (device,) = story.model(), story.state.nodes["n1"].devices
    assert "it keeps no KV cache, a request may have 512 tokens" in describe(story.log[-1])
    assert "it keeps no KV cache" in sized_by(model)
    assert "KV cache" not in need_in_words(model, device)


def test_why_tells_the_room_that_is_left_now_as_the_advice_does() -> None:
    story = cluster(n1=[10]).given("big", load(1, "9.5GiB"))
    story.settles()
    story.given("small", load(1, "3GiB")).settles()
    assert "n1/gpu0 has 9.2 GiB left" in story.model("big").unschedulable, "it was so then"
    found = verdict(story.state, Subject("model", "big"))
    assert "n1/gpu0 has 6.2 GiB left, needs 9.5 GiB" in found.headline
    assert "as n1/gpu0 has left now (`nebula load /m --id big --memory 6.19GiB`)" in found.todo


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_what_is_left_and_what_others_have_is_all_that_there_is(tenths: list[int]) -> None:
    story = cluster(n1=[10])
    for number, size in enumerate(tenths):
        story.given(f"m{number}", load(1, f"{size / 10}GiB"))
        story.settles()
    story.given("late", load(1, "9.3GiB"))
    chronicle = Chronicle(lambda record, *_: record.id == "late")
    story.decides()
    for record in story.log:
        chronicle.take(record)
    line = chronicle.lines[-1].reasons[-1]
    left, whole, *others, needed = figures(line)
    assert left + sum(others) == whole == 92
    assert needed == 93 > left
