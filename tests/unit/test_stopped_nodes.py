"""A node that ended in good order: what the log makes of it, and where its replicas go."""

from __future__ import annotations

from nebula.actors.node.reconciliation import is_out
from nebula.actors.placement.planning import plan
from nebula.actors.removal import occupied
from nebula.actors.router.hearing import Silence
from nebula.actors.router.loss import decide_lost
from nebula.cli.tables import console, nodes
from nebula.events.model_status import model_status
from nebula.events.version import behind
from nebula.events.vocabulary import (
    ClusterFounded,
    EngineFailed,
    ModelAssigned,
    ModelUnschedulable,
    NodeDeregistered,
    NodeLost,
    NodeStopped,
    NodeSuspected,
)
from nebula.history.advice import advice
from nebula.history.description import describe
from nebula.history.difference import differences
from nebula.history.explanation import weighed
from nebula.history.outcome import lives
from tests.unit.story import Story, gpus, load


def two(version: int = 2, **sizes: float) -> Story:
    """Begin with a cluster of nodes with one GPU each, by default two of 20 GiB."""
    story = Story().given("c1", ClusterFounded("lab", version))
    for node, gib in (sizes or {"alpha": 20.0, "beta": 20.0}).items():
        story.given(node, gpus(gib))
    return story


def serving(story: Story, memory: str = "8GiB") -> tuple[Story, str]:
    """Load a model on one of the nodes and return on which."""
    story.given("chat", load(memory=memory)).settles()
    return story.runs("chat-0"), story.replica().node


def stops(story: Story, node: str) -> Story:
    return story.given(node, NodeStopped(story.state.nodes[node].registered))


def test_a_stopped_node_takes_no_replicas_until_it_registers_again() -> None:
    story = stops(two(alpha=20.0), "alpha")
    node = story.state.nodes["alpha"]
    assert (node.stopped, node.away, node.schedulable) == (True, True, False)
    assert node.closed == "stopped"
    assert is_out(story.state, "alpha")
    assert not lives(story.state, "alpha")
    story.given("chat", load(memory="8GiB")).settles()
    assert not story.model().assignments
    assert "alpha is stopped" in str(plan(story.state, story.model(), tell=True).choices)
    story.given("alpha", gpus(20)).settles()
    assert story.places() == {"chat-0": "alpha/0"}
    assert not is_out(story.state, "alpha")


def test_the_engines_of_a_stopped_node_have_ended_also_where_that_was_not_told() -> None:
    story, node = serving(two())
    stops(story, node)
    replica = story.replica()
    assert (replica.phase, replica.engine, replica.serving) == ("stopped", None, False)
    assert replica.reason == "its node was stopped"


def test_an_engine_that_still_ended_there_holds_no_room_any_more() -> None:
    story, node = serving(two(alpha=20.0))
    story.given("chat", load(0, "8GiB")).settles()
    assert story.state.occupancy.get(node) is not None
    stops(story, node)
    assert story.state.occupancy.get(node) is None


def test_replicas_of_a_stopped_node_go_elsewhere_at_once_where_there_is_room() -> None:
    story, node = serving(two())
    other = "beta" if node == "alpha" else "alpha"
    before = story.state.seq
    decided = stops(story, node).settles()
    assert [type(each) for each in decided] == [ModelAssigned]
    assert story.places() == {"chat-1": f"{other}/0"}
    basis = story.state.seq - 1
    assert basis == before + 1, "nothing had to happen in between"


def test_a_plan_without_a_stopped_node_says_why_its_replica_goes() -> None:
    story, node = serving(two())
    basis = stops(story, node).state
    [decision] = story.decides()
    assert f"chat-0 goes: {node} was stopped" in weighed(basis, "chat", decision.event)


def test_what_fits_nowhere_else_waits_for_its_node_and_is_where_it_was_when_that_is_back() -> None:
    story, node = serving(two(alpha=20.0, beta=4.0))
    places = story.places()
    assert stops(story, node).settles() == []
    stands = model_status(story.state, story.model())
    assert (stands.phase, stands.detail) == (
        "loading",
        "chat-0 on alpha waits for alpha, which was stopped",
    )
    assert "node --name alpha" in advice(story.state, story.model())
    assert story.given("alpha", gpus(20)).settles() == []
    assert story.places() == places
    assert model_status(story.state, story.model()).detail == "chat-0 on alpha waits to be started"


def test_it_moves_as_soon_as_another_node_has_room() -> None:
    story, node = serving(two(alpha=20.0, beta=4.0))
    stops(story, node).settles()
    story.given("gamma", gpus(20)).settles()
    assert story.places() == {"chat-1": "gamma/0"}


def test_a_failed_replica_waits_for_its_stopped_node_and_for_no_moment() -> None:
    story, node = serving(two(alpha=20.0))
    story.fails("chat-0")
    stops(story, node)
    assert "waits for alpha, which was stopped" in model_status(story.state, story.model()).detail


def test_what_was_given_up_stays_so_and_a_missing_replica_is_told_all_the_same() -> None:
    story, node = serving(two(alpha=20.0))
    story.given("chat-0", EngineFailed("no", 1, attempt=3))
    assert story.replica().given_up
    assert stops(story, node).replica().given_up
    story.given("more", load(memory="9GiB"))
    describe = [each for each in story.settles() if isinstance(each, ModelUnschedulable)]
    assert describe[-1].missing == 1


def test_the_end_of_an_earlier_process_says_nothing_of_the_running_one() -> None:
    story, node = serving(two(alpha=20.0))
    earlier = story.state.nodes[node].registered
    story.given(node, gpus(20))
    before = story.state
    story.given(node, NodeStopped(earlier))
    assert story.state.nodes[node] == before.nodes[node]
    assert story.replica().serving
    assert story.given(node, NodeStopped()).state.nodes[node].stopped, "written by hand"


def test_before_cluster_version_2_it_is_answered_and_changes_nothing() -> None:
    story, node = serving(two(1, alpha=20.0))
    stops(story, node)
    assert not story.state.nodes[node].stopped
    [decision] = story.decides()
    assert "NodeStopped needs cluster version 2" in str(decision.event)
    assert story.replica().serving


def test_a_stopped_node_is_not_suspected_and_not_lost() -> None:
    story = stops(two(), "alpha")
    assert list(decide_lost(story.state, {"alpha": Silence(99.0)}, 30.0)) == []
    assert list(decide_lost(story.state, {"beta": Silence(99.0)}, 30.0))
    story.given("alpha", NodeSuspected("by hand"))
    assert not story.state.nodes["alpha"].suspected
    assert stops(two().given("alpha", NodeSuspected("x")), "alpha").state.nodes["alpha"].stopped


def test_a_stopped_node_keeps_no_cluster_version_back() -> None:
    story = two()
    assert behind(story.state, 3) == ["alpha", "beta"]
    assert behind(stops(story, "alpha").state, 3) == ["beta"]


def test_a_stopped_node_can_be_lost_by_hand_drained_and_removed() -> None:
    story, node = serving(two())
    stops(story, node).settles()
    assert occupied(story.state, node) == ""
    assert story.given(node, NodeLost()).state.nodes[node].closed == "lost"
    assert node not in story.given(node, NodeDeregistered()).state.nodes


def test_a_stopped_node_is_told_in_plain_words() -> None:
    story = two()
    before = story.state
    after = stops(story, "alpha").state
    assert describe(story.log[-1]).startswith("stopped on request")
    [change] = [each for each in differences(before, after) if each.field == "stopped"]
    assert (change.before, change.after) == ("no", "yes")
    output = console()
    with output.capture() as printed:
        output.print(nodes(after))
    assert "alpha  stopped" in printed.get()
