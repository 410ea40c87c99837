"""When the answer to "which nodes could not be lost" is worked out, and when it is recorded."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from nebula.actors.placement.decision import Decision
from nebula.actors.placement.resilience import Resilience
from nebula.actors.router import loss_watch, standing_check
from nebula.actors.router.guards import Guards
from nebula.actors.router.loss_watch import LossWatch, losses
from nebula.actors.router.standing_check import APART, NODES, STEADY, StandingCheck, risks_of
from nebula.events.cluster import Risks, at_risk
from nebula.events.decisions import NodeRisk
from nebula.events.intents import ModelScaleRequested
from nebula.events.memory import GIB
from nebula.events.state import State
from nebula.events.version import RESILIENCE
from nebula.events.vocabulary import (
    ClusterFounded,
    NodeHeard,
    NodeLost,
    NodeSuspected,
    ResilienceChanged,
)
from nebula.history.description import describe
from nebula.history.node_story import node_verdict
from nebula.history.replay import Replay
from tests.unit.story import Story, cluster, gpus, load


def founded(version: int = RESILIENCE) -> Story:
    """Return a cluster of two nodes, one of which can't be lost."""
    story = Story().given("c1", ClusterFounded("lab", version))
    story.given("n1", gpus(80)).given("n2", gpus(40)).given("chat", load(1, "60GiB"))
    story.settles()
    return story


class Watched:
    """A standing check whose clock is set by the test."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.check = StandingCheck(0.0)
        self.looked = 0

    def at(self, now: float) -> Decision | None:
        state = self.story.state
        if self.check.wanted(state):
            self.looked += 1
            self.check.take(state, Resilience(state).losses(), now)
        return self.check.due(state, now)

    def recorded(self, now: float) -> Story:
        found = self.at(now)
        assert found is not None
        return self.story.append(found.id, found.event, found.cause)


def test_an_answer_is_recorded_once_it_stood_for_a_while() -> None:
    watched = Watched(founded())
    assert watched.at(0.0) is None
    assert watched.at(STEADY - 1) is None
    found = watched.at(STEADY)
    assert found is not None
    assert found.id == "c1"
    assert found.event == ResilienceChanged(
        (NodeRisk("n1", ("chat",), 1, 60 * GIB),),
        1,
        1,
        "1 of 2 nodes can't be lost without leaving replicas of 1 model without a place",
    )
    assert watched.looked == 1


def test_what_is_recorded_is_not_recorded_again() -> None:
    watched = Watched(founded())
    watched.at(0.0)
    story = watched.recorded(STEADY)
    assert story.state.cluster.risks == Risks(
        (NodeRisk("n1", ("chat",), 1, 60 * GIB),), 1, 1, story.state.seq, story.state.time
    )
    assert watched.at(STEADY + 500) is None
    assert Watched(story).at(500.0) is None


def test_an_answer_that_changes_back_at_once_is_not_recorded() -> None:
    watched = Watched(founded())
    watched.at(0.0)
    story = watched.recorded(STEADY)
    story.given("chat", ModelScaleRequested(0)).settles()
    assert watched.at(100.0) is None
    story.given("chat", ModelScaleRequested(1)).settles()
    assert watched.at(105.0) is None
    assert watched.at(300.0) is None


def test_records_are_apart_however_often_the_answer_changes() -> None:
    watched, times = Watched(founded()), []
    for now in range(0, 600, 15):
        watched.story.given("chat", ModelScaleRequested(now // 15 % 2)).settles()
        for later in (0, STEADY):
            found = watched.at(float(now + later))
            if found is not None:
                watched.story.append(found.id, found.event, found.cause)
                times.append(now + later)
                watched.at(float(now + later))
    assert len(times) > 3
    assert all(later - sooner >= APART for sooner, later in itertools.pairwise(times))


def test_an_answer_of_a_busy_cluster_is_recorded_once_two_looks_agree() -> None:
    watched = Watched(founded())
    watched.at(0.0)
    watched.story.given("chat", ModelScaleRequested(1)).settles()
    assert watched.at(STEADY / 2) is None
    watched.story.given("chat", ModelScaleRequested(1)).settles()
    assert watched.at(STEADY) is not None
    assert watched.looked == 3


def test_events_that_move_nothing_need_no_new_answer() -> None:
    watched = Watched(founded())
    watched.at(0.0)
    watched.story.given("n1", NodeSuspected(), NodeHeard())
    watched.at(1.0)
    assert watched.looked == 1


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_cluster_that_has_only_ever_had_one_node_is_not_looked_at(nodes: int) -> None:
    story = Story().given("c1", ClusterFounded("lab", RESILIENCE))
    for number in range(nodes):
        story.given(f"n{number}", gpus(80))
    assert StandingCheck(0.0).wanted(story.state) == (nodes == 2)


def test_nothing_is_recorded_before_all_would_understand_it() -> None:
    assert not StandingCheck(0.0).wanted(founded(RESILIENCE - 1).state)
    story = founded(RESILIENCE - 1).given("c1", ResilienceChanged((), 3, 1))
    assert story.state.cluster.risks == Risks()
    assert story.state.rejections


def test_an_answer_of_another_cluster_is_rejected() -> None:
    story = founded().given("c2", ResilienceChanged((), 3, 1))
    assert story.state.cluster.risks == Risks()


def test_of_several_routers_one_record_is_stored() -> None:
    story = founded()
    found = Decision("c1", ResilienceChanged((), 1, 1), 1)
    first = Guards(story.state).of(found)
    assert first.guard is None
    assert Guards(story.state).of(Decision("c1", ResilienceChanged((), 2, 1), 1)) == first
    story.append("c1", found.event)
    assert Guards(story.state).of(found) != first


def test_a_record_is_bounded_and_names_the_worst() -> None:
    story = cluster(**{f"n{number:03}": [80] for number in range(NODES + 20)})
    for number in range(NODES + 20):
        story.given(f"m{number:03}", load(1, f"{50 + number % 7}GiB", node=f"n{number:03}"))
    story.settles()
    found = risks_of(Resilience(story.state).losses(), len(story.state.nodes))
    assert len(found.nodes) == NODES
    assert (found.count, found.models) == (NODES + 20, NODES + 20)
    assert found.nodes[0].memory == 56 * GIB


def test_a_loss_that_leaves_nothing_out_is_told_in_words_and_for_its_node() -> None:
    story = founded()
    watched = Watched(story)
    watched.at(0.0)
    watched.recorded(STEADY)
    lines = node_verdict(story.state, "n1").behind
    assert any("its loss would leave 1 replica without a place, of chat" in each for each in lines)
    assert "of chat" not in "".join(node_verdict(story.state, "n2").behind)
    text = at_risk(story.state.cluster.risks)
    assert text == "the loss of n1 would leave replicas of 1 model without a place"
    assert at_risk(Risks()) == ""
    assert describe(story.log[-1]).endswith("of 1 model without a place: n1")
    watched.at(STEADY + 1)
    story.given("n3", gpus(80))
    watched.at(100.0)
    watched.recorded(100.0 + STEADY)
    assert at_risk(story.state.cluster.risks) == ""
    assert describe(story.log[-1]) == (
        "any one of 3 nodes can be lost: everything has a place elsewhere"
    )


def test_a_replay_accepts_what_was_recorded() -> None:
    watched = Watched(founded())
    watched.at(0.0)
    story = watched.recorded(STEADY)
    replay = Replay()
    for record in story.log:
        replay.take(record)
    assert replay.differences == []


@pytest.mark.anyio
async def test_a_router_finds_between_its_other_work_what_is_found_at_once() -> None:
    story = founded()
    story.given("n3", gpus(16)).given("small", load(2, "8GiB")).settles()
    expected = [each for each in Resilience(story.state).losses() if each.missing]
    assert [each for each in await losses(story.state) if each.missing] == expected


@pytest.mark.anyio
async def test_only_the_chosen_router_looks_and_adds_to_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loss_watch, "LOOK", 0.0)
    monkeypatch.setattr(standing_check, "STEADY", 0.0)
    story = founded()
    added: asyncio.Queue[ResilienceChanged] = asyncio.Queue()
    chosen, looks = asyncio.Event(), asyncio.Event()

    def choose(_: State) -> bool:
        looks.set()
        return chosen.is_set()

    async def append(state: State, due: tuple[Decision, ...]) -> None:
        assert state is story.state
        [decision] = due
        story.append(decision.id, decision.event, decision.cause)
        assert isinstance(decision.event, ResilienceChanged)
        await added.put(decision.event)

    running = asyncio.create_task(LossWatch(lambda: story.state, choose, append).run())
    await looks.wait()
    assert added.empty()
    chosen.set()
    assert (await added.get()).count == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert story.state.cluster.risks.count == 1


def test_a_lost_node_is_not_asked_about() -> None:
    story = founded().given("n1", NodeLost())
    story.settles()
    watched = Watched(story)
    watched.at(0.0)
    assert watched.at(STEADY) is None
