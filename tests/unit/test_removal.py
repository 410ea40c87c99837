"""Which nodes can be let go."""

from __future__ import annotations

from nebula.actors.removal import stays
from nebula.events.memory import GIB
from nebula.events.values import Device
from nebula.events.vocabulary import NodeDeregistered, NodeLost, NodeRegistered
from tests.unit.story import Story, load

HERE = NodeRegistered((Device(0, "gpu", "x", 80 * GIB),))


def test_one_that_has_ended_and_has_nothing_may_go() -> None:
    state = Story().given("n1", HERE).state
    assert stays(state, "n1", lives=False) == ""
    assert "runs: end its process first" in stays(state, "n1", lives=True)
    assert "is unknown whether node 'n1' runs" in stays(state, "n1", lives=None)
    assert stays(state, "n2", lives=False) == "there is no node 'n2'"


def test_one_with_replicas_may_go_once_it_is_lost() -> None:
    story = Story().given("n1", HERE).given("a", load(7, memory="8GiB"))
    story.settles()
    reason = stays(story.state, "n1", lives=False)
    assert "has a-0, a-1, a-2, a-3, a-4 and 2 more: `nebula drain n1` moves them" in reason
    story.given("n1", NodeLost("silent")).settles()
    assert stays(story.state, "n1", lives=False) == ""
    assert "runs" in stays(story.state, "n1", lives=True)


def test_it_leaves_nothing_behind_and_may_come_again() -> None:
    story = Story().given("n1", HERE).given("a", load(memory="8GiB"))
    story.settles()
    story.runs("a-0").given("n1", NodeLost("silent"), NodeDeregistered()).settles()
    assert not story.state.nodes
    assert not story.state.replicas
    story.given("n1", HERE).settles()
    [replica] = story.state.replicas.values()
    assert replica.node == "n1"
