"""Which replicas would be better placed elsewhere, and that they move by surge on request."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.actors.placement import rebalancing
from nebula.actors.placement.rebalancing import rebalance, requests
from nebula.events.intents import ModelRebalanceRequested
from nebula.events.validation import rejection_reason
from nebula.events.vocabulary import ModelAssigned, NodeLost
from nebula.history.subject import Subject, verdict
from tests.unit.story import Story, cluster, gpus, load


def settled(story: Story) -> Story:
    """Let everything that is planned start, and everything that is retired end."""
    for _ in range(60):
        if not story.settles():
            idle = True
            for replica in sorted(story.state.replicas.values(), key=lambda each: each.id):
                if replica.retired:
                    story.stops(replica.id)
                    idle = False
                elif not replica.serving:
                    story.runs(replica.id)
                    idle = False
            if idle:
                return story
    raise AssertionError("it does not come to rest")


def crowded() -> Story:
    """All on n1, because n2 was lost for a while."""
    story = cluster(n1=[80], n2=[80]).given("n2", NodeLost())
    story.given("chat", load(2, "8GiB"))
    return settled(story).given("n2", gpus(80))


def places(story: Story) -> list[str]:
    return sorted(place.node for place in story.model().assignments)


def test_nothing_moves_by_itself() -> None:
    assert places(settled(crowded())) == ["n1", "n1"]


def test_replicas_that_lie_together_since_a_loss_are_shown_with_where_they_would_go() -> None:
    [move] = rebalance(crowded().state).moves
    assert (move.model, move.source, move.target) == ("chat", "n1", "n2")
    assert move.reason == "2 replicas of chat share n1, n2 has 0"


def test_each_goes_once_another_serves_in_its_place() -> None:
    story = crowded()
    [(identity, event)] = requests(rebalance(story.state).moves)
    story.given(identity, event)
    [plan] = story.settles()
    assert isinstance(plan, ModelAssigned)
    assert len(plan.replicas) == 3, "the old ones serve until the new one does"
    settled(story)
    assert places(story) == ["n1", "n2"]
    assert story.model().moving == ()
    assert rebalance(story.state).moves == ()


def test_what_can_t_move_stays_and_is_told_and_asked_for_once() -> None:
    story = settled(cluster(n1=[10]).given("chat", load(1, "8GiB")))
    story.given("chat", ModelRebalanceRequested(("chat-0",)))
    told = [type(event).__name__ for event in story.settles()]
    assert told == ["ModelUnschedulable", "ModelAssigned"]
    assert story.model().moving == ()
    assert story.replica("chat-0").serving
    assert not story.model().unschedulable


def test_replicas_that_are_spread_evenly_are_not_moved() -> None:
    assert rebalance(settled(cluster(n1=[80], n2=[80]).given("chat", load(2, "8GiB"))).state) == (
        rebalance(cluster().state)
    )


def test_a_model_that_is_to_be_packed_or_changes_is_passed_over() -> None:
    story = settled(cluster(n1=[80], n2=[80]).given("chat", load(2, "8GiB", policy="binpack")))
    assert rebalance(story.state).passed == ("chat: its policy is binpack",)
    story = crowded().given("chat", load(3, "8GiB"))
    story.settles()
    assert rebalance(story.state).passed == ("chat: its replicas are changing now",)


def test_what_is_not_there_can_t_be_moved() -> None:
    state = crowded().state
    wish = ModelRebalanceRequested(("chat-7",))
    assert rejection_reason(state, "chat", wish) == "model 'chat' has no replica 'chat-7'"
    assert rejection_reason(state, "none", wish) == "there is no model 'none'"


def test_why_says_that_replicas_lie_together_and_what_to_do() -> None:
    said = verdict(crowded().state, Subject("model", "chat"))
    assert "2 of its replicas are together on n1" in said.headline
    assert "`nebula rebalance`" in said.todo


def test_a_plan_has_no_more_moves_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    story = cluster(n1=[80], n2=[80], n3=[80]).given("n2", NodeLost()).given("n3", NodeLost())
    story.given("chat", load(3, "8GiB"))
    settled(story).given("n2", gpus(80)).given("n3", gpus(80))
    assert len(rebalance(story.state).moves) == 2
    monkeypatch.setattr(rebalancing, "MOST_MOVES", 1)
    assert len(rebalance(story.state).moves) == 1


def test_what_is_to_move_already_is_not_asked_for_again() -> None:
    story = crowded()
    for identity, event in requests(rebalance(story.state).moves):
        story.given(identity, event)
    found = rebalance(story.state)
    assert found.moves == ()
    assert found.passed == ("chat: its replicas are changing now",)


def test_no_replica_moves_to_a_node_that_has_as_many_already() -> None:
    story = cluster(n1=[80, 80], n2=[80]).given("other", load(1, "40GiB", node="n1", devices=(0,)))
    story.given("chat", load(2, "30GiB"))
    assert places(settled(story)) == ["n1", "n2"]
    assert rebalance(story.state).moves == ()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([16, 24, 80]), min_size=2, max_size=4),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
def test_moves_come_to_an_end_and_none_is_undone(sizes: list[int], replicas: list[int]) -> None:
    names = [f"n{number}" for number in range(len(sizes))]
    story = cluster(**{name: [size] for name, size in zip(names, sizes, strict=True)})
    for name in names[1:]:
        story.given(name, NodeLost())
    for number, many in enumerate(replicas):
        story.given(f"m{number}", load(many, "8GiB"))
    settled(story)
    for name, size in zip(names[1:], sizes[1:], strict=True):
        story.given(name, gpus(size))
    settled(story)
    for _ in range(6):
        moves = rebalance(story.state).moves
        if not moves:
            return
        for identity, event in requests(moves):
            story.given(identity, event)
        settled(story)
    raise AssertionError(moves)
