"""Which replica goes where: stories of a cluster, and laws that hold in every one of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hypothesis import given
from msgspec.structs import replace
from rpds import HashTrieMap

from nebula.actors.placement.decision import decide
from nebula.actors.placement.sizing import usable
from nebula.events.intents import (
    AdapterLoadRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
)
from nebula.events.memory import GIB
from nebula.events.state import Replica, State
from nebula.events.values import Assignment, Device
from nebula.events.vocabulary import (
    EventRejected,
    ModelAssigned,
    ModelUnloaded,
    ModelUnschedulable,
    NodeDeregistered,
    NodeLost,
    NodeRegistered,
)
from tests.unit.story import Story, cluster, fair_messages, gpus, load, messages

UNLOAD = ModelUnloadRequested()


def test_a_cluster_at_rest_decides_nothing() -> None:
    assert Story().decides() == ()
    assert cluster(alpha=[80]).decides() == ()


def test_a_first_load_is_placed_where_there_is_room() -> None:
    story = cluster(alpha=[80]).given("chat", load())
    (decision,) = story.decides()
    share = int(80 * GIB * 0.45)
    assert decision.event == ModelAssigned(1, (Assignment("chat-0", "alpha", (0,), share, 1),))
    assert (decision.id, decision.cause) == ("chat", 2)
    assert story.decides() == ()


def test_two_models_share_a_device() -> None:
    story = cluster(alpha=[80]).given("chat", load()).given("embed", load(task="embedding"))
    story.settles()
    assert story.places("chat") == {"chat-0": "alpha/0"}
    assert story.places("embed") == {"embed-0": "alpha/0"}


def test_one_plan_is_made_at_a_time() -> None:
    story = cluster(alpha=[80]).given("a", load()).given("b", load())
    assert [decision.id for decision in story.decides()] == ["a"]
    assert [decision.id for decision in story.decides()] == ["b"]


def test_replicas_are_spread_over_nodes_before_devices() -> None:
    story = cluster(alpha=[80, 80], beta=[40]).given("chat", load(3, "8GiB"))
    story.settles()
    assert story.places() == {"chat-0": "alpha/0", "chat-1": "beta/0", "chat-2": "alpha/1"}


def test_the_device_with_the_most_room_is_taken() -> None:
    story = cluster(alpha=[16, 80, 40]).given("chat", load(memory="8GiB"))
    story.settles()
    assert story.places() == {"chat-0": "alpha/1"}


def test_where_nothing_fits_the_model_is_told_what_is_missing() -> None:
    story = cluster(alpha=[8]).given("chat", load(2, "16GiB"))
    (refusal,) = story.settles()
    assert refusal == ModelUnschedulable(
        "no device has room: alpha/gpu0 has 7.4 GiB left, needs 16.0 GiB", missing=2
    )


def test_where_there_is_no_node_the_model_is_told_so() -> None:
    (refusal,) = Story().given("chat", load()).settles()
    assert isinstance(refusal, ModelUnschedulable)
    assert "start one with `nebula node`" in refusal.reason


def test_what_fits_is_placed_and_the_rest_is_told_to_be_missing() -> None:
    story = cluster(alpha=[20]).given("chat", load(3, "8GiB"))
    plan, refusal = story.settles()
    assert isinstance(plan, ModelAssigned)
    assert isinstance(refusal, ModelUnschedulable)
    assert (len(plan.replicas), refusal.missing) == (2, 1)


def test_a_model_that_found_no_room_is_placed_when_a_node_comes() -> None:
    story = Story().given("chat", load())
    story.settles()
    story.given("alpha", gpus(80))
    (decision,) = story.decides()
    assert isinstance(decision.event, ModelAssigned)
    assert decision.cause == story.state.nodes["alpha"].changed
    assert story.model().unschedulable == ""


def test_a_model_that_found_no_room_is_placed_when_another_has_left() -> None:
    story = cluster(alpha=[16]).given("old", load(memory="12GiB"))
    story.settles()
    story.runs("old-0").given("new", load(memory="12GiB"))
    assert [type(event) for event in story.settles()] == [ModelUnschedulable]
    story.given("old", UNLOAD).settles()
    assert story.places("new") == {}
    story.stops("old-0").settles()
    assert story.places("new") == {"new-0": "alpha/0"}


def test_the_refusal_is_renewed_only_when_something_else_is_missing() -> None:
    story = Story().given("chat", load(memory="16GiB"))
    story.settles()
    story.given("alpha", gpus(8))
    (renewed,) = story.settles()
    assert isinstance(renewed, ModelUnschedulable)
    assert renewed.reason == "no device has room: alpha/gpu0 has 7.4 GiB left, needs 16.0 GiB"
    story.given("beta", gpus(4))
    assert story.settles() == []
    story.given("alpha", NodeDrainRequested()).given("beta", NodeLost())
    (renewed,) = story.settles()
    assert isinstance(renewed, ModelUnschedulable)
    assert renewed.reason.startswith("no node takes replicas")


def test_scaling_up_leaves_the_others_where_they_are() -> None:
    story = cluster(alpha=[80], beta=[40]).given("chat", load(2, "8GiB"))
    story.settles()
    before = story.model().assignments
    story.given("chat", ModelScaleRequested(3)).settles()
    assert story.model().assignments[:2] == before
    assert story.places()["chat-2"] == "alpha/0"


def test_scaling_down_retires_the_last_ones() -> None:
    story = cluster(alpha=[80]).given("chat", load(3, "8GiB"))
    story.settles()
    before = story.model().assignments
    for number in range(3):
        story.runs(f"chat-{number}")
    story.given("chat", ModelScaleRequested(1)).settles()
    assert story.model().assignments == before[:1]
    assert [story.replica(f"chat-{number}").retired for number in range(3)] == [False, True, True]


def test_scaling_to_none_and_back_is_possible() -> None:
    story = cluster(alpha=[80]).given("chat", load())
    story.settles()
    story.given("chat", ModelScaleRequested(0)).settles()
    assert story.places() == {}
    story.given("chat", ModelScaleRequested(1)).settles()
    assert story.places() == {"chat-0": "alpha/0"}


def test_a_number_is_not_used_again_while_its_engine_still_ends() -> None:
    story = cluster(alpha=[80]).given("chat", load(2, "8GiB"))
    story.settles()
    story.runs("chat-0").runs("chat-1")
    story.given("chat", ModelScaleRequested(1)).settles()
    story.given("chat", ModelScaleRequested(2)).settles()
    assert story.places().keys() == {"chat-0", "chat-2"}
    assert story.replica("chat-1").retired


def test_a_plan_lists_its_replicas_by_number_whichever_came_last() -> None:
    story = cluster(alpha=[80]).given("chat", load(2, "8GiB"))
    story.settles()
    story.runs("chat-1").given("chat", ModelScaleRequested(1)).settles()
    story.given("chat", ModelScaleRequested(2)).settles()
    story.stops("chat-1").given("chat", ModelScaleRequested(3)).settles()
    assert list(story.places()) == ["chat-0", "chat-1", "chat-2"]


def test_a_change_of_what_is_launched_is_a_new_version_in_the_same_place() -> None:
    story = cluster(alpha=[80], beta=[80]).given("chat", load(2, "8GiB"))
    story.settles()
    before = story.places()
    story.given("chat", load(2, "8GiB", options={"max-model-len": 512})).settles()
    assert story.places() == before
    assert {place.version for place in story.model().assignments} == {2}


def test_a_change_of_memory_is_planned_with_the_new_amount() -> None:
    story = cluster(alpha=[80]).given("chat", load(memory="8GiB"))
    story.settles()
    story.given("chat", load(memory="16GiB")).settles()
    (place,) = story.model().assignments
    assert (place.memory, place.version) == (16 * GIB, 2)


def test_scaling_changes_no_version_of_what_runs() -> None:
    story = cluster(alpha=[80]).given("chat", load(memory="8GiB"))
    story.settles()
    story.given("chat", ModelScaleRequested(2)).settles()
    assert [place.version for place in story.model().assignments] == [1, 2]


def test_an_adapter_needs_no_new_plan() -> None:
    story = cluster(alpha=[80]).given("chat", load(lora=True))
    story.settles()
    story.given("chat", AdapterLoadRequested("sql", "/a"))
    assert story.settles() == []


def test_a_repeated_load_is_answered_with_the_same_places() -> None:
    story = cluster(alpha=[80]).given("chat", load(2, "8GiB"))
    (first,) = story.settles()
    (second,) = story.given("chat", load(2, "8GiB")).settles()
    assert isinstance(first, ModelAssigned)
    assert second == ModelAssigned(2, first.replicas)


def test_a_repeated_load_tries_again_what_was_given_up() -> None:
    story = cluster(alpha=[80]).given("chat", load(2, "8GiB"))
    story.settles()
    story.runs("chat-0").runs("chat-1", ready=False).gives_up("chat-1")
    assert story.settles() == []
    story.given("chat", load(2, "8GiB")).settles()
    assert [place.version for place in story.model().assignments] == [1, 2]
    assert not story.replica("chat-1").given_up


def test_what_was_given_up_is_not_tried_again_by_itself_because_another_has_no_room() -> None:
    story = cluster(alpha=[20]).given("chat", load(3, "8GiB"))
    story.settles()
    story.runs("chat-0", ready=False).gives_up("chat-0")
    story.settles()
    assert story.model().unschedulable == ""  # the third one has the room that this one had
    story.given("beta", gpus(4)).settles()
    assert story.replica("chat-0").given_up


def test_others_may_have_the_room_of_what_was_given_up() -> None:
    story = cluster(alpha=[20]).given("bad", load(memory="12GiB"))
    story.given("good", load(memory="12GiB")).settles()
    assert story.places("good") == {}
    story.runs("bad-0", ready=False).gives_up("bad-0").settles()
    assert story.places("good") == {"good-0": "alpha/0"}
    assert story.state.occupancy["alpha"].used == {0: 12 * GIB}
    assert story.replica("bad-0").given_up
    story.given("bad", load(memory="12GiB")).settles()
    assert story.places("bad") == {}  # asked for once more, it has no room now
    story.given("good", load(memory="12GiB", replicas=0)).settles()
    assert story.places("bad") == {"bad-0": "alpha/0"}


def test_what_is_tried_again_in_its_place_has_its_share_again() -> None:
    story = cluster(alpha=[20]).given("chat", load(memory="12GiB"))
    story.settles()
    story.runs("chat-0", ready=False).gives_up("chat-0")
    assert story.replica("chat-0").memory == 0
    story.given("chat", load(memory="12GiB")).settles()
    assert story.replica("chat-0").memory == 12 * GIB
    assert story.state.occupancy["alpha"].used == {0: 12 * GIB}


def test_what_a_failed_change_had_is_kept_for_what_worked_before() -> None:
    story = cluster(alpha=[20]).given("chat", load(memory="12GiB"))
    story.settles()
    story.runs("chat-0").given("all", load(memory="12GiB")).settles()
    story.given("chat", load(memory="12GiB", options={"seed": 1})).settles()
    story.stops("chat-0").runs("chat-0", ready=False).gives_up("chat-0").settles()
    assert story.places("all") == {}
    assert story.model().rolled_back
    assert story.replica("chat-0").memory == 12 * GIB


def test_what_has_outgrown_its_node_moves_as_another_replica() -> None:
    story = (
        cluster(alpha=[20]).given("other", load(memory="8GiB")).given("chat", load(memory="4GiB"))
    )
    story.settles()
    story.runs("chat-0").given("beta", gpus(40))
    story.given("chat", load(memory="16GiB")).settles()
    assert story.places() == {"chat-0": "alpha/0", "chat-1": "beta/0"}
    story.runs("chat-1").settles()
    assert story.places() == {"chat-1": "beta/0"}
    assert story.replica("chat-0").retired
    assert story.replica("chat-0").node == "alpha"


def test_an_unloaded_model_is_gone_once_its_engines_are() -> None:
    story = cluster(alpha=[80]).given("chat", load(2, "8GiB"))
    story.settles()
    story.runs("chat-0").runs("chat-1").given("chat", UNLOAD)
    assert story.settles() == []
    story.stops("chat-0")
    assert story.settles() == []
    story.stops("chat-1")
    assert story.settles() == [ModelUnloaded()]
    assert "chat" not in story.state.models


def test_a_model_without_engines_is_unloaded_at_once() -> None:
    story = Story().given("chat", load())
    story.settles()
    assert story.given("chat", UNLOAD).settles() == [ModelUnloaded()]


def test_a_load_while_the_engines_still_end_brings_the_model_back() -> None:
    story = cluster(alpha=[80]).given("chat", load())
    story.settles()
    story.runs("chat-0").given("chat", UNLOAD, load()).settles()
    assert story.places() == {"chat-1": "alpha/0"}
    story.stops("chat-0")
    assert story.settles() == []


def test_a_plan_by_hand_for_a_model_that_is_unloaded_is_refused() -> None:
    story = cluster(alpha=[80]).given("chat", load())
    story.settles()
    plan = ModelAssigned(2, story.model().assignments)
    story.runs("chat-0").given("chat", UNLOAD, plan).stops("chat-0")
    assert [type(event) for event in story.settles()] == [ModelUnloaded, EventRejected]


def test_a_plan_by_hand_with_a_version_beyond_the_next_is_refused() -> None:
    story = cluster(alpha=[80]).given("chat", load()).given("chat", ModelAssigned(2**62 - 1, ()))
    assert [type(event) for event in story.settles()] == [ModelAssigned, EventRejected]


def test_a_retired_replica_holds_its_memory_until_its_engine_has_ended() -> None:
    story = cluster(alpha=[20]).given("chat", load(memory="16GiB"))
    story.settles()
    story.runs("chat-0").given("chat", ModelScaleRequested(0)).settles()
    story.given("next", load(memory="16GiB"))
    assert [type(event) for event in story.settles()] == [ModelUnschedulable]
    story.stops("chat-0").settles()
    assert story.places("next") == {"next-0": "alpha/0"}


def test_a_draining_node_keeps_what_it_has_and_gets_nothing_new() -> None:
    story = cluster(alpha=[80], beta=[8]).given("chat", load(memory="4GiB"))
    story.settles()
    story.given("alpha", NodeDrainRequested())
    story.given("chat", ModelScaleRequested(3)).settles()
    assert story.places() == {"chat-0": "alpha/0", "chat-1": "beta/0"}
    assert story.model().missing == 1


def test_a_lost_node_gets_nothing_until_it_is_back() -> None:
    story = cluster(alpha=[80]).given("alpha", NodeLost()).given("chat", load())
    story.settles()
    assert story.places() == {}
    story.given("alpha", gpus(80)).settles()
    assert story.places() == {"chat-0": "alpha/0"}


def test_replicas_of_a_lost_node_are_placed_elsewhere_and_end_where_they_were() -> None:
    story = cluster(alpha=[80], beta=[40]).given("chat", load())
    story.settles()
    story.runs("chat-0").given("alpha", NodeLost("silent")).settles()
    assert story.places() == {"chat-1": "beta/0"}
    assert story.replica("chat-0").retired
    story.given("alpha", gpus(80)).stops("chat-0").settles()
    assert story.places() == {"chat-1": "beta/0"}
    assert "chat-0" not in story.state.replicas


def test_what_a_lost_node_held_and_no_other_can_take_waits_for_room() -> None:
    story = cluster(alpha=[80], beta=[40]).given("chat", load(memory="60GiB"))
    story.settles()
    story.given("alpha", NodeLost("silent")).settles()
    assert story.places() == {}
    assert story.model().missing == 1
    story.given("alpha", gpus(80)).settles()
    assert story.places() == {"chat-0": "alpha/0"}


def test_replicas_of_a_node_that_has_left_for_good_are_placed_anew() -> None:
    story = cluster(alpha=[80], beta=[40]).given("chat", load())
    story.settles()
    story.runs("chat-0").given("alpha", NodeDeregistered()).settles()
    assert story.places() == {"chat-1": "beta/0"}
    story.given("chat", UNLOAD)
    assert story.settles() == [ModelUnloaded()]


def test_a_malformed_entry_is_answered_once() -> None:
    story = Story().publish("nebula.events.model.chat.ModelLoadRequested", b'{"sauce": 1}')
    (decision,) = story.decides()
    assert (decision.id, decision.cause) == ("1", 1)
    assert isinstance(decision.event, EventRejected)
    assert decision.event.subject == "nebula.events.model.chat.ModelLoadRequested"
    assert decision.event.reason
    assert story.decides() == ()


def test_a_bad_entry_holds_up_no_plan() -> None:
    story = cluster(alpha=[80]).publish("nebula.events.nonsense", b"").given("chat", load())
    assert [type(each.event) for each in story.decides()] == [ModelAssigned, EventRejected]


def test_a_device_that_a_node_lists_twice_is_one_device() -> None:
    twice = NodeRegistered((Device(0, "gpu", "x", 20 * GIB), Device(0, "gpu", "x", 40 * GIB)))
    story = Story().given("alpha", twice).given("chat", load(2, "16GiB"))
    story.settles()
    assert story.places() == {"chat-0": "alpha/0"}


def told(said: list[tuple[str, bytes]]) -> Story:
    """Return the story of messages alone, without a router."""
    story = Story()
    for subject, payload in said:
        story.publish(subject, payload)
    return story


@given(messages)
def test_deciding_comes_to_an_end_whatever_has_been_said(said: list[tuple[str, bytes]]) -> None:
    told(said).settles()


@given(messages)
def test_deciding_comes_to_an_end_after_every_single_message(
    said: list[tuple[str, bytes]],
) -> None:
    story = Story()
    for subject, payload in said:
        story.publish(subject, payload).settles()


@given(messages)
def test_every_decision_names_a_cause_that_has_happened(said: list[tuple[str, bytes]]) -> None:
    story = Story()
    for subject, payload in said:
        story.publish(subject, payload)
        seq = story.state.seq
        assert all(1 <= decision.cause <= seq for decision in decide(story.state))
        story.decides()


@given(messages)
def test_no_decision_of_a_router_is_refused(said: list[tuple[str, bytes]]) -> None:
    story = told(said)
    for decision in iter(lambda: next(iter(story.decides()), None), None):
        pending = [refused.subject for refused in story.state.rejections.values()]
        assert not any(subject.endswith("ModelAssigned") for subject in pending), decision


@given(messages)
def test_a_plan_never_promises_more_of_a_device_than_there_is(
    said: list[tuple[str, bytes]],
) -> None:
    story = Story()
    for subject, payload in said:
        story.publish(subject, payload)
        for decision in story.decides():
            if isinstance(decision.event, ModelAssigned):
                within_bounds(story.state, decision.event)


def within_bounds(state: State, plan: ModelAssigned) -> None:
    """Check each device of a new plan, with what all planned replicas hold of it.

    Those that were given up hold nothing.
    """
    for node, index in {(place.node, each) for place in plan.replicas for each in place.devices}:
        device = next(each for each in state.nodes[node].devices if each.index == index)
        promised = sum(
            state.replicas[place.replica].memory * place.devices.count(index)
            for model in state.models.values()
            for place in model.assignments
            if place.node == node
        )
        assert promised <= usable(device), (node, index)


@given(fair_messages)
def test_no_replica_changes_its_node_as_long_as_it_lives(said: list[tuple[str, bytes]]) -> None:
    story = Story()
    nodes: dict[str, str] = {}
    for subject, payload in said:
        story.publish(subject, payload).settles()
        replicas: list[Replica] = list(story.state.replicas.values())
        now = {replica.id: replica.node for replica in replicas}
        assert {key: nodes[key] for key in now if key in nodes} == {
            key: now[key] for key in now if key in nodes
        }
        nodes = now


@given(messages)
def test_equal_states_decide_alike_in_whatever_order_their_maps_were_built(
    said: list[tuple[str, bytes]],
) -> None:
    state = told(said).state
    assert decide(reordered(state)) == decide(state)


def reordered(state: State) -> State:
    """Build the same state with its maps filled backwards."""

    def backwards(known: HashTrieMap) -> HashTrieMap:  # type: ignore[type-arg]
        return HashTrieMap(dict(reversed(list(known.items()))))

    return replace(
        state,
        models=backwards(state.models),
        replicas=backwards(state.replicas),
        nodes=backwards(state.nodes),
        names=backwards(state.names),
        rejections=backwards(state.rejections),
    )


BUSY = """
import sys
from tests.unit.story import cluster, load
story = cluster(alpha=[80, 80], beta=[80], gamma=[24, 24, 24])
for name in "dbcaef":
    story.given(name, load(3, "7GiB"))
    story.publish("nebula.events.model.x." + name, b"")
story.settles()
print(repr([story.log, story.places("a")]))
"""


def test_the_seed_of_pythons_hashes_changes_no_decision() -> None:
    printed = {
        subprocess.run(
            [sys.executable, "-c", BUSY],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    (same,) = printed
    assert b"ModelAssigned" in same
