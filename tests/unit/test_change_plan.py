"""The plan of a change says what a router then decides, and writes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events.intents import (
    AliasRequested,
    ModelRebalanceRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
)
from nebula.events.limit_events import LimitsSet
from nebula.events.usage_limits import UsageLimits
from nebula.events.validation import rejection_reason
from nebula.events.values import Autoscale, Target
from nebula.events.version import VERSION
from nebula.events.vocabulary import ClusterFounded, Event, NodeDeregistered, NodeRegistered
from nebula.history.change_plan import (
    MOST_CALLING,
    ChangePlan,
    Displacement,
    Effect,
    Lack,
    Refusal,
    plan_change,
    sentences,
)
from tests.unit.story import Story, cluster, facts, gpus, intents, load


def serving(replicas: int = 2, memory: str = "60GiB", **fields: object) -> Story:
    story = cluster(n1=[80], n2=[80]).given("chat", load(replicas, memory, **fields))
    story.settles()
    for number in range(replicas):
        story.runs(f"chat-{number}")
    return story


def planned(story: Story, *wishes: tuple[str, Event]) -> ChangePlan:
    return plan_change(story.state, wishes)


def told(effects: tuple[Effect, ...]) -> list[tuple[str, str, str]]:
    return [(each.kind, each.replica, each.node) for each in effects]


# Where replicas would go


def test_a_plan_places_what_is_asked_for_and_names_its_event() -> None:
    story = serving(1)
    found = planned(story, ("chat", ModelScaleRequested(2)))
    assert found.at == story.state.seq
    assert told(found.effects) == [("place", "chat-1", "n2")]
    assert [(each.field, each.before, each.after) for each in found.changes] == [
        ("replicas", "1", "2")
    ]
    assert found.possible


def test_a_changed_model_is_followed_to_the_end() -> None:
    """No place is free for a successor, so that one engine ends before the other one starts."""
    found = planned(serving(), ("chat", load(2, "60GiB", options={"seed": 1})))
    assert [each.kind for each in found.effects] == ["restart", "restart"]
    assert {each.replica for each in found.effects} == {"chat-0", "chat-1"}


def test_a_drained_node_is_emptied_onto_another() -> None:
    found = planned(serving(1, "20GiB"), ("n1", NodeDrainRequested()))
    assert told(found.effects) == [("place", "chat-1", "n2"), ("end", "chat-0", "n1")]
    assert found.effects[1].reason == "n1 is draining"


def test_what_has_no_room_is_told_with_the_figures() -> None:
    found = planned(serving(), ("chat", ModelScaleRequested(3)))
    [lack] = found.lacks
    assert (lack.model, lack.missing, lack.anyway) == ("chat", 1, False)
    assert "no device has room: n1/gpu0 has 13.6 GiB left, needs 60.0 GiB" in lack.reason
    assert not found.possible


def test_what_lacks_room_already_does_not_make_a_change_impossible() -> None:
    story = serving()
    story.given("poet", load(1, "60GiB")).settles()
    found = planned(story, ("search", load(1, "5GiB")))
    assert [(each.model, each.anyway) for each in found.lacks] == [("poet", True)]
    assert found.possible


def test_room_that_a_change_makes_goes_to_what_waits_for_it() -> None:
    story = serving()
    story.given("poet", load(1, "60GiB")).settles()
    found = planned(story, ("chat", ModelScaleRequested(1)))
    assert told(found.effects) == [("end", "chat-1", "n2"), ("place", "poet-0", "n2")]
    assert found.effects[0].reason == "1 replica of chat is wanted"
    assert not found.lacks


def test_what_is_due_anyway_is_marked() -> None:
    story = serving(1, "20GiB").given("poet", load(1, "20GiB", node="n2"))
    found = planned(story, ("chat", ModelScaleRequested(2)))
    assert {(each.replica, each.anyway) for each in found.effects} == {
        ("poet-0", True),
        ("chat-1", False),
    }


def test_what_is_due_anyway_may_come_to_another_place() -> None:
    story = serving(1, "20GiB").given("poet", load(1, "20GiB"))
    found = planned(story, ("chat", ModelScaleRequested(2)))
    [effect] = [each for each in found.effects if each.replica == "poet-0"]
    assert (effect.node, effect.anyway) == ("n1", False)
    assert effect.reason == "without the change it would be on n2"


def test_several_intents_are_planned_together() -> None:
    found = planned(serving(), ("chat", ModelUnloadRequested()), ("poet", load(1, "70GiB")))
    assert told(found.effects) == [
        ("end", "chat-0", "n1"),
        ("end", "chat-1", "n2"),
        ("place", "poet-0", "n1"),
    ]
    assert found.effects[0].reason == "its model is unloaded"


def test_a_moved_replica_is_planned_as_it_would_move() -> None:
    story = cluster(n1=[80]).given("chat", load(2, "8GiB"))
    story.settles()
    story.runs("chat-0").runs("chat-1").given("n2", gpus(80)).settles()
    found = planned(story, ("chat", ModelRebalanceRequested(("chat-1",))))
    assert told(found.effects) == [("place", "chat-2", "n2"), ("end", "chat-1", "n1")]
    assert found.effects[1].reason == "it was asked to move to another node"


# What is refused


def test_what_would_be_refused_is_told_with_its_reason_and_the_rest_is_planned() -> None:
    found = planned(serving(1), ("gone", ModelUnloadRequested()), ("chat", ModelScaleRequested(2)))
    assert found.refused == (Refusal("gone", "ModelUnloadRequested", "there is no model 'gone'"),)
    assert told(found.effects) == [("place", "chat-1", "n2")]
    assert not found.possible


def test_a_node_with_replicas_is_not_removed_unless_it_is_emptied_first() -> None:
    story = serving(1, "20GiB")
    [refusal] = planned(story, ("n1", NodeDeregistered())).refused
    assert refusal.reason.startswith("node 'n1' has chat-0")
    found = planned(story, ("n1", NodeDrainRequested()), ("n1", NodeDeregistered()))
    assert not found.refused
    assert [(each.sign, each.aggregate, each.id) for each in found.changes] == [("-", "node", "n1")]
    assert told(found.effects) == [("place", "chat-1", "n2"), ("end", "chat-0", "n1")]


# What the log does not know


def test_a_model_that_may_sleep_makes_room_when_requests_come() -> None:
    story = serving(evictable=True)
    found = planned(story, ("poet", load(1, "60GiB")))
    assert [each.model for each in found.lacks] == ["poet"]
    assert found.displaced == (Displacement("poet", ("chat",)),)


def test_what_only_live_actors_know_is_named() -> None:
    story = cluster().given("n1", NodeRegistered(gpus(80).devices, measures=True))
    wishes = (
        ("heavy", load(1)),
        ("busy", load(1, "1GiB", autoscale=Autoscale(1, 3))),
        ("idle", load(1, "1GiB", on_request=True)),
        ("brief", load(1, "1GiB", idle_after=60.0)),
    )
    unknown = "\n".join(planned(story, *wishes).unknown)
    assert "heavy: how much memory it needs is not known before a node has measured" in unknown
    assert "busy: its number of replicas follows its load" in unknown
    assert "idle: it starts with its first request" in unknown
    assert "brief: when it goes to sleep depends on its requests" in unknown
    assert "every engine is taken to start" in unknown


def test_files_that_a_node_has_not_told_of_are_to_be_fetched() -> None:
    event = load(1, "1GiB")
    hub = type(event)("org/chat", memory="1GiB")
    [_, text] = planned(cluster(n1=[80]), ("chat", hub)).unknown
    assert text == "n1 has not told that it has the files of org/chat: it gets them"


# Other things than models


def test_names_and_limits_are_planned_without_effects() -> None:
    wishes = (
        ("best", AliasRequested((Target("chat"),))),
        ("lab", LimitsSet("tenant", UsageLimits(in_flight=4))),
    )
    found = planned(serving(1).given("c1", ClusterFounded("lab", VERSION)), *wishes)
    assert [(each.sign, each.aggregate) for each in found.changes] == [
        ("+", "alias"),
        ("+", "limits"),
    ]
    assert not found.effects


def test_a_secret_is_refused_and_not_shown() -> None:
    token = "hf_" + "a" * 34
    found = planned(cluster(n1=[80]), ("chat", load(1, "1GiB", env={"HF_TOKEN": token})))
    assert [each.id for each in found.refused] == ["chat"]
    assert token not in "\n".join(sentences(found))


def test_a_plan_reads_as_lines() -> None:
    lines = list(sentences(planned(serving(), ("chat", ModelScaleRequested(1)))))
    assert lines == [
        "The plan, on event 8 of the log:",
        "  ~ model chat: replicas: 2 -> 1",
        "What follows:",
        "  chat-1 on n2 ends: 1 replica of chat is wanted",
        "Not in the log:",
        "  every engine is taken to start, and to end as soon as its requests have ended",
    ]


def test_no_change_is_told_as_none() -> None:
    assert list(sentences(planned(serving(), ("chat", ModelScaleRequested(2))))) == [
        "The plan, on event 8 of the log:",
        "  nothing is asked for otherwise than now",
    ]


# Laws


@given(st.lists(st.one_of(intents, facts), max_size=20), st.lists(intents, min_size=1, max_size=3))
def test_a_plan_says_what_then_happens(
    history: list[tuple[str, Event]], wishes: list[tuple[str, Event]]
) -> None:
    """The first decisions need no engine: they are exactly those that the plan begins with."""
    story = cluster(n1=[16], n2=[16])
    for identity, event in history:
        story.append(identity, event)
    story.settles()
    before = story.state
    found = plan_change(before, wishes)
    assert story.state is before
    assert found.at == before.seq
    refused = []
    for identity, event in wishes:
        if rejection_reason(story.state, identity, event) is None:
            story.append(identity, event)
        else:
            refused.append((identity, type(event).__name__))
    assert [(each.id, each.type) for each in found.refused] == refused
    had = set(before.replicas)
    story.settles()
    placed = {
        (place.replica, place.node)
        for model in story.state.models.values()
        for place in model.assignments
        if place.replica not in had
    }
    assert placed <= {(each.replica, each.node) for each in found.effects if each.kind == "place"}


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_end_of_a_plan_is_where_engines_would_come_to(replicas: int) -> None:
    story = serving(replicas, "20GiB")
    found = planned(story, ("chat", load(replicas, "20GiB", options={"seed": 1})))
    story.given("chat", load(replicas, "20GiB", options={"seed": 1}))
    for _ in range(4):
        story.settles()
        for replica in list(story.state.replicas.values()):
            if replica.retired:
                story.stops(replica.id)
            elif not replica.serving:
                story.runs(replica.id)
    assert set(story.places()) == {each.replica for each in found.effects if each.kind == "place"}


def test_a_lack_has_the_models_own_words() -> None:
    story = serving()
    [lack] = planned(story, ("chat", ModelScaleRequested(4))).lacks
    story.given("chat", ModelScaleRequested(4)).settles()
    assert lack == Lack("chat", story.model().missing, story.model().unschedulable)


def test_an_unloaded_model_is_told_as_a_change() -> None:
    lines = list(sentences(planned(serving(1), ("chat", ModelUnloadRequested()))))
    assert lines[1:4] == [
        "  - model chat: it is unloaded",
        "What follows:",
        "  chat-0 on n1 ends: its model is unloaded",
    ]


def test_many_models_without_a_place_are_planned_without_looking_for_room_for_each() -> None:
    """A plan asks for each such model which others would make room, but not for all of many."""
    story = serving(evictable=True)
    wishes = tuple((f"m{number}", load(1, "60GiB")) for number in range(MOST_CALLING + 20))
    found = planned(story, *wishes)
    assert len(found.lacks) == MOST_CALLING + 20
    assert len(found.displaced) == MOST_CALLING
