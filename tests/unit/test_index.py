"""What the fold keeps beside the aggregates, and that decisions may rely on it."""

from __future__ import annotations

from hypothesis import given
from msgspec.structs import replace

from nebula.actors.placement.candidates import best, weigh
from nebula.actors.placement.capacity import Capacity
from nebula.actors.placement.decision import Decider, decide
from nebula.actors.placement.requirements import Requirements
from nebula.actors.placement.sizing import usable
from nebula.events.index import indexed
from nebula.events.intents import NodeDrainRequested, NodeUndrainRequested
from nebula.events.state import State
from nebula.events.vocabulary import NodeRegistered
from tests.unit.story import Story, cluster, gpus, load, messages, promised


def test_what_a_node_holds_is_counted_until_the_engine_is_gone() -> None:
    story = cluster(alpha=[80, 80]).given("chat", load(2, "8GiB"))
    story.settles()
    story.runs("chat-0").runs("chat-1").given("chat", load(0, "8GiB")).settles()
    held = story.state.occupancy["alpha"]
    assert held.replicas == {"chat-0", "chat-1"}
    assert held.used == {0: 8 * 2**30, 1: 8 * 2**30}
    story.stops("chat-0").stops("chat-1")
    assert "alpha" not in story.state.occupancy


def test_a_model_that_is_as_wanted_is_looked_at_no_more_until_its_node_is_to_be_empty() -> None:
    story = cluster(alpha=[80], beta=[80]).given("chat", load(1, "8GiB"))
    assert set(story.state.unsettled) == {"chat"}
    story.settles()
    assert set(story.state.unsettled) == set()
    story.given("beta", NodeDrainRequested())
    assert set(story.state.unsettled) == set()
    story.given("alpha", NodeDrainRequested())
    assert set(story.state.unsettled) == {"chat"}


def test_a_model_that_another_is_to_be_kept_apart_from_knows_of_it() -> None:
    story = cluster(alpha=[80]).given("chat", load(apart=("other",)))
    assert story.state.apart["other"] == {"chat"}
    story.given("chat", load())
    assert "other" not in story.state.apart


@given(messages)
def test_all_of_it_can_be_made_anew(said: list[tuple[str, bytes]]) -> None:
    story = Story()
    for subject, payload in said:
        story.publish(subject, payload).decides()
        assert indexed(story.state) == story.state
    sums = {
        (node, index): size
        for node, held in story.state.occupancy.items()
        for index, size in held.used.items()
    }
    assert sums == {place: size for place, size in promised(story.state).items() if size}


@given(messages)
def test_no_other_model_than_an_unsettled_one_calls_for_a_decision(
    said: list[tuple[str, bytes]],
) -> None:
    story = Story()
    for subject, payload in said:
        story.publish(subject, payload)
        state = story.state
        everyone = replace(state, unsettled=state.unsettled.update(state.models))
        # What stands on a device that has shrunk moves with the next plan, which nothing hurries.
        assert decide(everyone) == decide(state) or overfull(state)
        story.decides()


def overfull(state: State) -> bool:
    return any(
        size > usable(device)
        for (node, index), size in promised(state).items()
        for device in (state.nodes[node].devices if node in state.nodes else ())
        if device.index == index
    )


@given(messages)
def test_a_decider_with_memory_decides_as_one_without(said: list[tuple[str, bytes]]) -> None:
    story, decider = Story(), Decider()
    for subject, payload in said:
        story.publish(subject, payload)
        # A plan by hand may promise more of a device than there is. What stands on it moves with
        # the next plan, which nothing hurries.
        while decided := decide(story.state):
            assert decider.decide(story.state) == decided or overfull(story.state)
            story.decides()
        assert decider.decide(story.state) == () or overfull(story.state)


@given(messages)
def test_the_quick_choice_is_the_explained_one(said: list[tuple[str, bytes]]) -> None:
    story = cluster(n1=[16, 16], n2=[24, 24, 8]).given("n3", gpus(16, 16, zone="a"))
    story.given("n4", NodeRegistered(gpus(16).devices, weights=()))
    capacity = Capacity()
    for subject, payload in said:
        story.publish(subject, payload)
        story.decides()
        rooms = capacity.of(story.state)
        for model in story.state.models.values():
            required = Requirements(story.state, model)
            same: dict[str, int] = {}
            for place in model.assignments:
                same[place.node] = same.get(place.node, 0) + 1
            for delta in ({}, {("n1", 0): 5 * 2**30, ("n2", 1): -(2**30)}):
                first = weigh(rooms, required, same, delta)[0]
                assert best(rooms, required, same, delta) == (None if first.unfit else first)


def test_a_replica_moves_when_its_machine_comes_back_with_less_than_it_was_promised() -> None:
    story = cluster(alpha=[40], beta=[24]).given("chat", load(1, "20GiB"))
    story.settles()
    story.given("alpha", gpus(16)).settles()
    assert story.places() == {"chat-1": "beta/0"}


def test_only_as_many_replicas_move_off_a_smaller_device_as_must() -> None:
    story = cluster(alpha=[80], beta=[24]).given("beta", NodeDrainRequested())
    story.given("chat", load(3, "20GiB")).settles()
    for replica in story.places():
        story.runs(replica)
    story.given("beta", NodeUndrainRequested()).given("alpha", gpus(50))
    story.given("chat", load(3, "20GiB")).settles()
    assert sorted(story.places().values()) == ["alpha/0", "alpha/0", "beta/0"]


def test_a_replica_that_is_pinned_to_a_full_device_keeps_no_other_model_from_the_next_one() -> None:
    story, decider = (
        cluster(alpha=[16, 16]).given("a", load(1, "12GiB", node="alpha", devices=(0,))),
        Decider(),
    )
    for pinned in ((0,), ()):
        story.given("chat" if pinned else "free", load(1, "12GiB", node="alpha", devices=pinned))
    for _ in range(4):
        for each in decider.decide(story.state):
            story.append(each.id, each.event, each.cause)
    assert story.places("free") == {"free-0": "alpha/1"}
    assert story.places("chat") == {}


def test_a_router_that_found_no_room_looks_again_once_there_is_some() -> None:
    story, decider = cluster(alpha=[8]).given("chat", load(1, "12GiB")), Decider()
    for _ in range(2):
        for each in decider.decide(story.state):
            story.append(each.id, each.event, each.cause)
    assert decider.decide(story.state) == ()
    story.given("beta", gpus(16))
    assert decider.decide(story.state) == decide(story.state) != ()
