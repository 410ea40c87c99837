"""What a router decides from what it sees beside the log: loss, sleep, turns, more and fewer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from nebula.actors.placement.decision import Decision
from nebula.actors.router.eviction import LINGER, TURN, ModelUsage
from nebula.actors.router.hearing import Silence
from nebula.actors.router.lifecycle import Observation, decide_lifecycle
from nebula.events.intents import (
    ModelLoadRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
)
from nebula.events.values import Autoscale
from nebula.events.vocabulary import (
    EngineFailed,
    Event,
    ModelAssigned,
    ModelScaled,
    ModelSlept,
    ModelWoken,
    NodeLost,
)
from tests.unit.story import ROUNDS, Story, cluster, facts, gpus, intents, load

CALLED = ModelUsage(waiting=2, longest=1.5)
QUIET_NOW = ModelUsage(idle=60, serving=60)
BUSY = ModelUsage(in_flight=3, serving=TURN - 1)


def due(story: Story, **uses: ModelUsage) -> list[Decision]:
    return list(decide_lifecycle(story.state, Observation({}, uses)))


def events(story: Story, **uses: ModelUsage) -> list[tuple[str, type[Event]]]:
    """What is decided, without the reasons."""
    return [(each.id, type(each.event)) for each in due(story, **uses)]


def sees(story: Story, **uses: ModelUsage) -> None:
    """Append what a router decides from what it sees and from the state, until it is quiet."""
    seen = Observation({}, uses)
    for _ in range(ROUNDS):
        decisions = decide_lifecycle(story.state, seen)
        for each in decisions:
            story.append(each.id, each.event, each.cause)
        if not story.settles() and not decisions:
            return
    raise AssertionError("it decides for ever")


def served(story: Story, *models: str, memory: str = "8GiB", **fields: Any) -> Story:
    """Load models that then serve with one replica each."""
    for model in models:
        story.given(model, load(memory=memory, **fields)).settles()
        story.runs(f"{model}-0")
    return story


def reason(decision: Decision) -> str:
    event = decision.event
    assert isinstance(event, NodeLost | ModelSlept | ModelWoken | ModelScaled)
    return event.reason


# Loss: see also test_loss.py


def test_what_a_lost_node_had_is_placed_elsewhere() -> None:
    story = served(cluster(alpha=[80], beta=[80]), "chat")
    node = story.replica().node
    story.given(node, NodeLost())
    [plan] = story.settles()
    assert isinstance(plan, ModelAssigned)
    assert [place.node for place in plan.replicas] == [{"alpha": "beta", "beta": "alpha"}[node]]
    assert story.replica("chat-0").retired, "its engine may still run there"


# Sleep


def test_a_model_sleeps_after_long_enough_without_requests() -> None:
    story = served(cluster(alpha=[80]), "chat", idle_after=60.0)
    assert due(story, chat=ModelUsage(idle=59.9, serving=100)) == []
    [slept] = due(story, chat=ModelUsage(idle=60.5, serving=100))
    assert isinstance(slept.event, ModelSlept)
    assert reason(slept) == "no request for 60.5 s: it sleeps after 60 s"


@pytest.mark.parametrize("use", [ModelUsage(in_flight=1, idle=99), ModelUsage(waiting=1, idle=99)])
def test_a_model_that_is_in_use_does_not_sleep(use: ModelUsage) -> None:
    story = served(cluster(alpha=[80]), "chat", idle_after=60.0)
    assert due(story, chat=use) == []


def test_a_model_that_has_not_served_yet_does_not_sleep() -> None:
    story = cluster(alpha=[80]).given("chat", load(idle_after=1.0))
    story.settles()
    story.runs("chat-0", ready=False)
    assert due(story, chat=ModelUsage(idle=99)) == []


def test_a_model_without_an_idle_time_never_sleeps_by_itself() -> None:
    assert due(served(cluster(alpha=[80]), "chat", evictable=True), chat=ModelUsage(idle=9e9)) == []


def test_a_request_wakes_a_model_that_sleeps_where_there_is_room() -> None:
    story = cluster(alpha=[80]).given("chat", load(on_request=True))
    assert story.settles() == [ModelAssigned(1, ())]
    assert due(story, chat=ModelUsage()) == []
    [woken] = due(story, chat=CALLED)
    assert isinstance(woken.event, ModelWoken)
    assert reason(woken) == "2 requests wait, for 1.5 s"
    story.append(woken.id, woken.event)
    story.settles()
    assert story.places() == {"chat-0": "alpha/0"}


def test_a_model_that_fits_nowhere_is_woken_all_the_same_and_says_what_is_missing() -> None:
    story = cluster(alpha=[8]).given("chat", load(memory="80GiB", on_request=True))
    story.settles()
    assert events(story, chat=CALLED) == [("chat", ModelWoken)]
    sees(story, chat=CALLED)
    assert "needs 80.0 GiB" in story.model().unschedulable


# Turns


def sleeper(story: Story, identity: str, memory: str = "8GiB", **fields: Any) -> Story:
    story.given(identity, load(memory=memory, on_request=True, **fields)).settles()
    return story


def tight(*models: str, **fields: Any) -> Story:
    """A device with room for these models, which serve and may be ended, and for no other."""
    return served(cluster(alpha=[10 * len(models)]), *models, evictable=True, **fields)


def test_the_least_recently_used_model_makes_room() -> None:
    story = sleeper(tight("a", "b", "c"), "new")
    uses = {"a": ModelUsage(idle=50), "b": ModelUsage(idle=90), "c": ModelUsage(idle=70)}
    decided = due(story, **uses, new=CALLED)
    assert [(each.id, type(each.event)) for each in decided] == [
        ("b", ModelSlept),
        ("new", ModelWoken),
    ]
    assert reason(decided[0]) == (
        "it makes room for new, for which 2 requests wait, for 1.5 s; its own last request was "
        "90.0 s ago (0 requests in flight, 0 waiting), it has served 0.0 s"
    )


def test_of_models_that_are_idle_for_equally_long_the_one_asked_longer_ago_makes_room() -> None:
    story = sleeper(tight("new", "old"), "third")
    uses = {"new": ModelUsage(idle=5, asked=6), "old": ModelUsage(idle=5, asked=7)}
    assert events(story, **uses, third=CALLED) == [("old", ModelSlept), ("third", ModelWoken)]


def test_room_that_is_being_made_is_counted_before_any_plan_says_so() -> None:
    story = sleeper(tight("a", "b"), "new")
    uses = {"a": ModelUsage(idle=90), "b": ModelUsage(idle=50), "new": CALLED}
    for each in due(story, **uses):
        story.append(each.id, each.event, each.cause)
    assert events(story, **uses) == []


def test_no_more_models_are_ended_than_it_takes() -> None:
    story = served(cluster(alpha=[10]), "small", evictable=True).given("beta", gpus(40))
    served(story, "large", memory="36GiB", evictable=True)
    assert story.places("large") == {"large-0": "beta/0"}
    sleeper(story, "new", memory="30GiB")
    uses = {"small": ModelUsage(idle=900), "large": ModelUsage(idle=90)}
    assert events(story, **uses, new=CALLED) == [("large", ModelSlept), ("new", ModelWoken)]


def test_several_models_make_room_for_a_large_one() -> None:
    story = sleeper(tight("a", "b", "c"), "new", memory="16GiB")
    uses = {name: ModelUsage(idle=idle) for name, idle in (("a", 50), ("b", 90), ("c", 70))}
    decided = events(story, **uses, new=CALLED)
    assert decided == [("b", ModelSlept), ("c", ModelSlept), ("new", ModelWoken)]


def test_a_model_that_may_not_be_ended_stays() -> None:
    story = sleeper(served(cluster(alpha=[10]), "a"), "new")
    assert events(story, a=QUIET_NOW, new=CALLED) == [("new", ModelWoken)]
    sees(story, a=QUIET_NOW, new=CALLED)
    assert story.model("new").unschedulable
    assert not story.model("a").asleep


def test_a_model_keeps_its_place_for_a_turn_while_requests_come() -> None:
    story = sleeper(tight("a"), "new")
    assert events(story, a=BUSY, new=CALLED) == []
    swap = [("a", ModelSlept), ("new", ModelWoken)]
    assert events(story, a=replace(BUSY, serving=TURN), new=CALLED) == swap
    slow = replace(BUSY, serving=TURN, started=2 * TURN)
    assert events(story, a=slow, new=CALLED) == []
    assert events(story, a=replace(slow, serving=2 * TURN), new=CALLED) == swap


def test_a_model_whose_line_is_served_makes_room_before_its_turn_is_over() -> None:
    story = sleeper(tight("a"), "new")
    assert events(story, a=ModelUsage(idle=LINGER / 2, serving=5), new=CALLED) == []
    assert events(story, a=ModelUsage(idle=LINGER, serving=5), new=CALLED) != []


def test_a_model_that_loads_for_a_waiting_request_is_not_ended() -> None:
    story = cluster(alpha=[10]).given("a", load(memory="8GiB", evictable=True))
    story.settles()
    sleeper(story.runs("a-0", ready=False), "new")
    assert events(story, a=CALLED, new=replace(CALLED, longest=20.0)) == []
    assert events(story, a=ModelUsage(), new=CALLED) == [("a", ModelSlept), ("new", ModelWoken)]


def test_a_model_that_gave_up_its_place_does_not_take_it_back_before_the_other_had_it() -> None:
    story = sleeper(tight("a"), "new", evictable=True)
    uses = {"a": ModelUsage(in_flight=3, waiting=5, longest=30.0, serving=TURN), "new": CALLED}
    sees(story, **uses)
    assert story.model("a").asleep
    assert story.model("new").unschedulable, "the engine of a still ends"
    story.stops("a-0")
    sees(story, **uses)
    assert story.places("new") == {"new-0": "alpha/0"}
    assert story.model("a").asleep, "its turn comes again"
    story.runs("new-0")
    assert events(story, a=uses["a"], new=BUSY) == []


def test_models_that_take_turns_swap_once_a_turn() -> None:
    story = sleeper(tight("a"), "b", evictable=True)
    crowd = ModelUsage(in_flight=3, waiting=5, longest=30.0, serving=TURN)
    for serves, waits in (("a", "b"), ("b", "a"), ("a", "b")):
        replica = f"{serves}-0"
        early = {serves: replace(crowd, serving=TURN / 2), waits: CALLED}
        assert events(story, **early) == []
        sees(story, **{serves: crowd, waits: CALLED})
        story.stops(replica)
        sees(story, **{serves: crowd, waits: CALLED})
        story.runs(f"{waits}-0")
        assert (story.model(serves).asleep, story.model(waits).asleep) == (True, False)


def test_the_model_whose_requests_wait_longest_is_woken_first() -> None:
    story = sleeper(sleeper(cluster(alpha=[10]), "a"), "b")
    uses = {"a": ModelUsage(waiting=9, longest=1.0), "b": ModelUsage(waiting=1, longest=3.0)}
    assert events(story, **uses) == [("b", ModelWoken)]


# More and fewer replicas


def scaled(least: int = 1, most: int = 3, replicas: int = 1, **fields: float) -> Story:
    auto = Autoscale(least, most, in_flight=4, wait=2.0, calm=60.0)
    story = cluster(alpha=[80]).given("chat", load(replicas, "8GiB", autoscale=auto))
    story.settles()
    for place in story.model().assignments:
        story.runs(place.replica)
    return story


@pytest.mark.parametrize(
    ("use", "why"),
    [
        (ModelUsage(in_flight=5), "5 requests in flight are 5.0 for each of 1, more than 4"),
        (
            ModelUsage(in_flight=1, waiting=1, longest=2.5),
            "1 request waits, for 2.5 s, more than 2 s",
        ),
    ],
)
def test_load_and_waiting_call_for_one_more_replica(use: ModelUsage, why: str) -> None:
    [more] = due(scaled(), chat=use)
    assert more.event == ModelScaled(2, why)


@pytest.mark.parametrize(
    "use",
    [
        ModelUsage(in_flight=4),
        ModelUsage(in_flight=4, waiting=3, longest=1.9),
        ModelUsage(in_flight=4, waiting=3, longest=2.0),
        ModelUsage(in_flight=4, waiting=0, longest=9.0),
    ],
)
def test_what_its_replicas_can_take_calls_for_no_more(use: ModelUsage) -> None:
    assert due(scaled(), chat=use) == []


def test_the_next_step_up_waits_until_all_replicas_serve() -> None:
    story, use = scaled(), ModelUsage(in_flight=50)
    sees(story, chat=use)
    assert story.model().wanted == 2
    story.runs("chat-1")
    sees(story, chat=use)
    assert story.model().wanted == 3
    story.runs("chat-2")
    assert due(story, chat=use) == [], "three are the most"


def test_one_fewer_does_once_it_would_have_done_for_long_enough() -> None:
    story = scaled(replicas=3)
    assert due(story, chat=ModelUsage(in_flight=2, replicas=3, spare=59)) == []
    [fewer] = due(story, chat=ModelUsage(in_flight=2, replicas=3, spare=61))
    assert isinstance(fewer.event, ModelScaled)
    assert fewer.event.replicas == 2
    assert reason(fewer) == (
        "for 61.0 s, 60 s at least, 2 would have done; 2 requests are in flight"
    )
    sees(story, chat=ModelUsage(in_flight=2, replicas=3, spare=61))
    assert story.model().wanted == 2, "what was seen with three says nothing about two"


def test_the_least_is_kept_and_none_at_all_grows_again_with_the_first_request() -> None:
    assert due(scaled(), chat=ModelUsage(replicas=1, spare=9e9)) == []
    story = scaled(least=0)
    sees(story, chat=ModelUsage(replicas=1, spare=9e9))
    assert story.model().wanted == 0
    [first] = due(story, chat=CALLED)
    assert first.event == ModelScaled(1, "2 requests wait, for 1.5 s, and it has no replica")


def test_a_number_that_was_requested_is_left_alone() -> None:
    story = scaled().given("chat", ModelScaleRequested(1))
    story.settles()
    assert due(story, chat=ModelUsage(in_flight=500)) == []


# Laws

_uses = st.builds(
    ModelUsage,
    in_flight=st.integers(0, 40),
    waiting=st.integers(0, 3),
    longest=st.sampled_from([0.0, 1.0, 50.0]),
    idle=st.sampled_from([0.0, 5.0, 500.0]),
    serving=st.sampled_from([0.0, 5.0, 500.0]),
    started=st.sampled_from([0.0, 30.0]),
    replicas=st.integers(0, 3),
    spare=st.sampled_from([0.0, 500.0]),
)
_models = st.sampled_from(["a", "b", "c"])
_lives = st.builds(
    ModelLoadRequested,
    st.just("/m"),
    replicas=st.integers(0, 3),
    memory=st.sampled_from(["2GiB", "6GiB", "14GiB"]),
    on_request=st.booleans(),
    idle_after=st.sampled_from([None, 0.0, 60.0]),
    evictable=st.booleans(),
    autoscale=st.none() | st.builds(Autoscale, st.integers(0, 1), st.integers(1, 3)),
)
_said = st.one_of(
    st.tuples(_models, _lives),
    st.tuples(_models, _lives),
    st.tuples(_models, st.sampled_from([ModelUnloadRequested(), ModelSlept(), ModelWoken()])),
    st.tuples(st.sampled_from(["n1", "n2"]), st.sampled_from([NodeDrainRequested(), NodeLost()])),
    st.tuples(st.sampled_from(["n1", "n2"]), st.just(gpus(16))),
    intents,
    facts,
)
_seen = st.builds(
    Observation,
    st.dictionaries(
        st.sampled_from(["n1", "n2", "n3"]),
        st.builds(Silence, st.sampled_from([0.0, 31.0, 99.0]), st.sampled_from(["", "it"])),
    ),
    st.dictionaries(_models, _uses),
)


def told(said: list[tuple[str, Event]], run: bool) -> Story:
    story = cluster(n1=[16], n2=[16])
    for identity, event in said:
        story.given(identity, event)
        story.settles()
        for replica in list(story.state.replicas.values()):
            if run and replica.phase == "assigned":
                story.runs(replica.id)
    return story


@given(st.lists(_said, max_size=12), st.booleans(), st.booleans(), _seen)
def test_decisions_upon_one_observation_die_down(
    said: list[tuple[str, Event]], run: bool, plans_first: bool, seen: Observation
) -> None:
    story = told(said, run)
    for _ in range(ROUNDS):
        decisions = decide_lifecycle(story.state, seen)
        for each in decisions:
            story.append(each.id, each.event, each.cause)
        if decisions and not plans_first:
            continue
        if not story.settles() and not decisions:
            return
    raise AssertionError([type(record.content) for record in story.log[-12:]])


@given(st.lists(_said, max_size=12), st.booleans())
def test_a_quiet_cluster_calls_for_nothing(said: list[tuple[str, Event]], run: bool) -> None:
    story = told(said, run)
    assert decide_lifecycle(story.state, Observation()) == ()
    calm = Observation(
        dict.fromkeys(story.state.nodes, Silence(2.0)),
        {
            identity: ModelUsage(idle=1.0, replicas=model.wanted)
            for identity, model in story.state.models.items()
            if model.spec.idle_after != 0
        },
    )
    assert decide_lifecycle(story.state, calm) == ()


@settings(max_examples=50)
@given(st.lists(_said, max_size=12), _seen)
def test_a_model_sleeps_only_when_idle_or_to_make_room(
    said: list[tuple[str, Event]], seen: Observation
) -> None:
    story = told(said, run=True)
    decided = decide_lifecycle(story.state, seen)
    for each in decided:
        if isinstance(each.event, ModelSlept):
            use, spec = seen.uses[each.id], story.model(each.id).spec
            idle = not use.in_flight and not use.waiting and spec.idle_after is not None
            reasons = {
                "nobody needs it": idle,
                "another is woken": spec.evictable and isinstance(decided[-1].event, ModelWoken),
                "another's requests wait": any(
                    not other.asleep and seen.uses[other.id].waiting
                    for identity, other in story.state.models.items()
                    if identity in seen.uses and identity != each.id
                ),
            }
            assert any(reasons.values()), f"{each.id} sleeps for none of {list(reasons)}"


def test_a_model_that_has_failed_is_neither_slept_nor_scaled() -> None:
    story = scaled()
    story.given("chat-0", EngineFailed("no", 1, attempt=3))
    assert due(story, chat=ModelUsage(waiting=3, longest=9.0, in_flight=9)) == []
