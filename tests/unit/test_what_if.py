"""What-if: the same wishes decided again under other conditions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events.intents import (
    AliasRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
    NodeUndrainRequested,
)
from nebula.events.memory import GIB
from nebula.events.values import Target
from nebula.events.vocabulary import Event, ModelMeasured, NodeLost
from nebula.history.what_if import (
    BadCondition,
    Condition,
    Outcome,
    Under,
    WhatIf,
    With,
    Without,
    parse,
)
from tests.unit import corpus
from tests.unit.story import Story, cluster, intents, load


def outcomes(story: Story, *conditions: Condition) -> dict[str, Outcome]:
    what_if = WhatIf(conditions)
    for record in story.log:
        what_if.take(record)
    return {each.model: each for each in what_if.outcomes()}


def lost_node(*conditions: Condition) -> dict[str, Outcome]:
    what_if = WhatIf(conditions)
    for record in corpus.records("lost-node")[:18]:
        what_if.take(record)
    return {each.model: each for each in what_if.outcomes() if each.differs}


# What would have been


def test_a_node_more_would_have_held_what_was_squeezed_out() -> None:
    assert lost_node(With("n9", (80 * GIB,))) == {
        "chat": Outcome("chat", ("n1/gpu0",), ("n9/gpu0",), 0, 0),
        "poet": Outcome("poet", (), ("n9/gpu0",), 1, 0),
        "search": Outcome("search", ("n1/gpu0",), ("n9/gpu0",), 0, 0),
    }


def test_a_node_less_would_have_left_models_out() -> None:
    story = cluster(n1=[80], n2=[80]).given("chat", load(2, "60GiB"))
    story.settles()
    found = outcomes(story, Without("n1"))["chat"]
    assert (found.actual, found.missing) == (("n1/gpu0", "n2/gpu0"), 0)
    assert (found.otherwise, found.otherwise_missing) == (("n2/gpu0",), 1)


def test_every_device_of_a_replica_is_told() -> None:
    story = cluster(n1=[80, 80], n2=[24, 24])
    story.given("chat", load(1, "20GiB", options={"tensor-parallel-size": 2})).settles()
    assert outcomes(story, Without("n1"))["chat"] == Outcome(
        "chat", ("n1/gpu0", "n1/gpu1"), ("n2/gpu0", "n2/gpu1"), 0, 0
    )


def test_another_policy_would_have_packed_them() -> None:
    story = cluster(n1=[80], n2=[80]).given("chat", load(2, "10GiB"))
    story.settles()
    found = outcomes(story, Under("binpack"))["chat"]
    assert found.actual == ("n1/gpu0", "n2/gpu0")
    assert found.otherwise == ("n1/gpu0", "n1/gpu0")
    assert found.differs


def test_another_size_of_a_node_takes_its_place() -> None:
    story = cluster(n1=[8]).given("chat", load(1, "10GiB"))
    story.settles()
    found = outcomes(story, With("n1", (80 * GIB,)))["chat"]
    assert (found.missing, found.otherwise_missing) == (1, 0)


def test_drains_that_were_undone_and_measures_count_there_too() -> None:
    story = cluster(n1=[80]).given("n1", NodeDrainRequested(), NodeUndrainRequested())
    story.given("chat", load(), ModelMeasured("/m", GIB, 1024, 4096)).settles()
    found = outcomes(story, Under("spread"))["chat"]
    assert not found.differs
    assert found.otherwise == ("n1/gpu0",)


def test_a_model_that_was_unloaded_is_not_missed() -> None:
    story = cluster(n1=[80]).given("chat", load(1, "10GiB"))
    story.settles()
    story.given("chat", ModelUnloadRequested())
    assert not any(each.missing for each in outcomes(story, Without("n1")).values())


@given(st.lists(st.one_of(intents, st.just(("n2", NodeLost()))), max_size=15))
def test_without_conditions_nothing_would_have_been_otherwise(
    said: list[tuple[str, Event]],
) -> None:
    story = cluster(n1=[16], n2=[24])
    for identity, event in said:
        story.append(identity, event)
        story.settles()
    for each in outcomes(story).values():
        if each.model in story.state.models and not story.state.models[each.model].unloading:
            assert (each.actual, each.missing) == (each.otherwise, each.otherwise_missing)


def test_a_name_that_an_alias_has_is_taken_otherwise_too() -> None:
    story = cluster(n1=[80]).given("prod", AliasRequested((Target("a", 1),), "name"))
    story.given("a", load(0)).settles()
    story.given("a", load(1, name="name")).settles()
    assert not outcomes(story)["a"].differs


def test_scaling_is_a_wish_too() -> None:
    story = cluster(n1=[80]).given("chat", load(1, "10GiB"), ModelScaleRequested(3))
    story.settles()
    assert outcomes(story, Without("n9"))["chat"].otherwise == ("n1/gpu0",) * 3


# How conditions are written


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("policy=binpack", Under("binpack")),
        ("policy = spread", Under("spread")),
        ("without n3", Without("n3")),
        ("with n4:80GiB", With("n4", (80 * GIB,))),
        (" with n4:80GiB,24GiB ", With("n4", (80 * GIB, 24 * GIB))),
    ],
)
def test_a_condition_is_read(text: str, condition: Condition) -> None:
    assert parse(text) == condition


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a condition"),
        ("n4:80GiB", "is not a condition"),
        ("without", "is not a condition"),
        ("without a b", "is not a condition"),
        ("with n4", "n4"),
        ("with n4:lots", "lots"),
        ("with *:80GiB", "is not a condition"),
        ("policy=best", "there is no policy 'best': take spread or binpack"),
    ],
)
def test_what_is_not_a_condition_is_answered(text: str, message: str) -> None:
    with pytest.raises(BadCondition, match=message):
        parse(text)


# What can't have been


def test_a_node_that_never_was_can_t_be_absent() -> None:
    story = cluster(n1=[80], n2=[80])
    what_if = WhatIf([Without("n2"), Without("n99")])
    for record in story.log:
        what_if.take(record)
    with pytest.raises(BadCondition, match=r"without n99: .* no such node; there were: n1, n2"):
        what_if.check()


def test_nodes_that_were_can_be_absent() -> None:
    what_if = WhatIf([Without("n1"), With("n9", (80 * GIB,))])
    for record in cluster(n1=[80]).log:
        what_if.take(record)
    what_if.check()


def test_a_model_that_has_one_replica_more_while_it_changes_lacks_none() -> None:
    story = cluster(n1=[80]).given("chat", load(1, "8GiB"))
    story.settles()
    story.runs("chat-0").given("chat", load(1, "8GiB", options={"max-model-len": 512})).settles()
    assert len(story.places()) == 2
    assert outcomes(story)["chat"].missing == 0
