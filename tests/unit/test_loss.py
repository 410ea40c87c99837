"""Which nodes are suspected, vouched for and lost: a loss harms, so no router decides it alone."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nebula.actors.placement.decision import Decision
from nebula.actors.router.guards import Guards
from nebula.actors.router.hearing import Silence
from nebula.actors.router.loss import ASK, CALM, LOST_AFTER, MOST_DOUBLED, decide_lost
from nebula.events import subjects
from nebula.events.evolve_node import CALM as CALM_IN_LOG
from nebula.events.vocabulary import NodeHeard, NodeLost, NodeSuspected
from tests.unit.story import SECOND, Story, cluster, gpus

LONG = 9e9


def due(story: Story, lost_after: float = LOST_AFTER, **seen: Silence) -> list[Decision]:
    return list(decide_lost(story.state, seen, lost_after))


def kinds(story: Story, lost_after: float = LOST_AFTER, **seen: Silence) -> list[tuple[str, type]]:
    return kinds_of(due(story, lost_after, **seen))


def kinds_of(decisions: Iterable[Decision]) -> list[tuple[str, type]]:
    return [(each.id, type(each.event)) for each in decisions]


def asked(story: Story, node: str = "alpha") -> Story:
    return story.given(node, NodeSuspected())


def silent(story: Story, seconds: float, node: str = "alpha", waited: float = ASK) -> Silence:
    """A silence after the node was asked for so long."""
    return Silence(seconds, "its heartbeat", story.state.nodes[node].suspected, waited, LONG)


def reason(decision: Decision) -> str:
    assert isinstance(decision.event, NodeSuspected | NodeHeard | NodeLost)
    return decision.event.reason


def test_no_node_is_lost_unasked() -> None:
    story = cluster(alpha=[80])
    assert kinds(story, alpha=Silence(LOST_AFTER - ASK)) == []
    assert kinds(story, alpha=Silence(LONG)) == [("alpha", NodeSuspected)]


def test_a_node_that_has_not_answered_in_time_is_lost_and_the_reason_has_the_figures() -> None:
    story = asked(cluster(alpha=[80], beta=[80]))
    assert kinds(story, alpha=silent(story, 31, waited=ASK - 1)) == []
    assert kinds(story, alpha=silent(story, 30)) == []
    seen = replace(silent(story, 30.5), routers={"r2": 29.04, "r3": None})
    [lost] = due(story, alpha=seen, beta=Silence(2.0))
    assert lost.event == NodeLost(
        "not heard from for 30.5 s, more than 30 s; asked in the log 10.0 s ago, without an "
        "answer; last sign of life: its heartbeat; silent to other routers: r2 (29.0 s), "
        "r3 (has told nothing); 1 of 2 nodes silent: no brake"
    )
    assert lost.cause == story.state.nodes["alpha"].suspected


def test_an_answer_or_a_registration_ends_the_suspicion_and_the_next_one_counts_anew() -> None:
    for event in (NodeHeard(), gpus(80)):
        story = asked(cluster(alpha=[80]))
        old = silent(story, LONG)
        story.given("alpha", event)
        assert kinds(story, alpha=Silence(0.1, "", 0, 0, 0)) == []
        asked(story)
        assert kinds(story, alpha=old) == [], "that was another suspicion"


def test_a_router_that_hears_a_suspected_node_vouches_for_it() -> None:
    story = asked(cluster(alpha=[80]))
    seen = replace(silent(story, 1.2), sign="its heartbeat")
    [heard] = due(story, alpha=seen)
    assert heard.event == NodeHeard("heard 1.2 s ago: its heartbeat")
    assert heard.cause == story.state.seq
    assert kinds(story, 0, alpha=seen) == [("alpha", NodeHeard)], "one that loses none does too"
    assert kinds(story, alpha=replace(seen, sign="")) == [], "it has just begun to listen"


def test_what_is_said_of_a_node_is_refused_when_another_was_quicker() -> None:
    story = asked(cluster(alpha=[80]))
    for seen in (silent(story, 1.0), silent(story, 31.0)):
        [decision] = due(story, alpha=seen)
        guard = Guards(story.state).of(decision).guard
        assert guard is not None
        assert (guard.subject, guard.seq) == (subjects.NODE_EVENTS, story.state.nodes_seq)


def test_no_node_is_lost_where_that_is_switched_off() -> None:
    story = cluster(alpha=[80])
    assert kinds(story, 0, alpha=Silence(LONG)) == []
    asked(story)
    assert kinds(story, 0, alpha=silent(story, LONG)) == []


def test_a_lost_node_is_not_lost_again_until_it_has_registered() -> None:
    story = cluster(alpha=[80]).given("alpha", NodeLost())
    assert kinds(story, alpha=Silence(LONG)) == []
    story.given("alpha", gpus(80))
    assert kinds(story, alpha=Silence(LONG, calm=LONG)) == [("alpha", NodeSuspected)]


# The brake


@pytest.mark.parametrize(
    ("many", "nodes", "braked"),
    [(1, 1, False), (2, 2, False), (3, 3, True), (3, 5, True), (3, 6, False), (9, 10, True)],
)
def test_most_of_three_nodes_or_more_that_fall_silent_get_twice_the_time(
    many: int, nodes: int, braked: bool
) -> None:
    names = [f"n{number}" for number in range(nodes)]
    story = cluster(**{name: [80] for name in names})
    for name in names[:many]:
        asked(story, name)

    def seen(seconds: float) -> dict[str, Silence]:
        return {
            name: silent(story, seconds, name) if name in names[:many] else Silence(1.0)
            for name in names
        }

    lost = [(name, NodeLost) for name in names[:many]]
    assert kinds_of(decide_lost(story.state, seen(31), LOST_AFTER)) == ([] if braked else lost)
    assert kinds_of(decide_lost(story.state, seen(61), LOST_AFTER)) == lost, (
        "truly dead ones are lost all the same"
    )
    words = f"{many} of {nodes} nodes silent: {'twice the time for each' if braked else 'no brake'}"
    assert words in reason(next(iter(decide_lost(story.state, seen(61), LOST_AFTER))))


# A pause that grows


def test_a_node_that_was_lost_lately_gets_twice_the_time_and_falls_back_after_calm() -> None:
    story = asked(cluster(alpha=[80]).given("alpha", NodeLost(), gpus(80)))
    recent = replace(silent(story, 31), calm=1.0)
    assert kinds(story, alpha=recent) == []
    [lost] = due(story, alpha=replace(recent, seconds=61))
    assert "lost or suspected in vain 1 times lately: more patience" in reason(lost)
    assert kinds(story, alpha=replace(recent, calm=CALM)) == [("alpha", NodeLost)]


@given(st.lists(st.sampled_from(["lost", "vain"]), max_size=8))
def test_the_patience_with_a_node_doubles_up_to_a_bound(doubts: list[str]) -> None:
    story = cluster(alpha=[80])
    for doubt in doubts:
        asked(story)
        story.given("alpha", NodeHeard() if doubt == "vain" else NodeLost())
        story.given("alpha", gpus(80))
    asked(story)
    most = LOST_AFTER * 2 ** min(len(doubts), MOST_DOUBLED)
    assert kinds(story, alpha=replace(silent(story, most), calm=0.0)) == []
    assert kinds(story, alpha=replace(silent(story, most + 1), calm=0.0)) == [("alpha", NodeLost)]


def test_doubts_are_counted_in_a_row_by_the_times_of_the_log() -> None:
    story = cluster(alpha=[80])
    for expected in (1, 2):
        asked(story).given("alpha", NodeHeard())
        assert story.state.nodes["alpha"].doubts == expected
    calm = CALM_IN_LOG // SECOND
    assert calm == CALM
    for number in range(int(calm)):
        story.given(f"x{number}", NodeHeard())
    asked(story).given("alpha", NodeHeard())
    assert story.state.nodes["alpha"].doubts == 1


def test_a_suspicion_makes_no_room_and_moves_nothing() -> None:
    story = cluster(alpha=[80])
    before = story.state
    asked(story)
    assert story.state.capacity_seq == before.capacity_seq
    assert story.state.nodes["alpha"].changed == before.nodes["alpha"].changed
    assert story.state.nodes["alpha"].schedulable
    story.given("alpha", NodeHeard())
    assert story.state.capacity_seq == before.capacity_seq
    story.given("nobody", NodeHeard(), NodeSuspected())
    assert set(story.state.nodes) == {"alpha"}


@given(st.floats(0, 200), st.floats(0, 30), st.floats(0, 900), st.booleans())
def test_upon_one_observation_decisions_die_down(
    seconds: float, waited: float, calm: float, suspected: bool
) -> None:
    story = cluster(alpha=[80], beta=[80])
    if suspected:
        asked(story)
    seen = replace(silent(story, seconds, waited=waited), calm=calm)
    for _ in range(3):
        for each in due(story, alpha=seen):
            story.append(each.id, each.event, each.cause)
    assert due(story, alpha=seen) == []
