"""Change without a gap: another replica is ready before one goes, and what fails is undone."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from nebula.actors.placement.decision import decide
from nebula.actors.placement.sizing import usable
from nebula.events.intents import ModelScaleRequested, NodeDrainRequested, NodeUndrainRequested
from nebula.events.vocabulary import (
    EngineStarted,
    Event,
    EventRejected,
    ModelAssigned,
    ModelRolledBack,
    ModelUnschedulable,
    NodeLost,
    NodeRegistered,
)
from tests.unit.story import Story, cluster, gpus, load, promised

CHANGED = {"max-model-len": 512}


def serving(replicas: int = 1, memory: str = "8GiB", **nodes: list[float]) -> Story:
    """Begin with a model of which every replica serves."""
    story = cluster(**(nodes or {"alpha": [80.0]})).given("chat", load(replicas, memory))
    story.settles()
    for identity in story.places():
        story.runs(identity)
    return story


def changed(story: Story, replicas: int = 1, memory: str = "8GiB") -> Story:
    story.given("chat", load(replicas, memory, options=CHANGED)).settles()
    return story


# A change of what is started


def test_another_replica_is_planned_beside_the_serving_one() -> None:
    story = changed(serving())
    assert story.places() == {"chat-0": "alpha/0", "chat-1": "alpha/0"}
    assert story.replica("chat-0").serving
    assert story.replica("chat-1").launch != story.replica("chat-0").launch


def test_the_old_one_goes_once_the_new_one_serves_and_not_before() -> None:
    story = changed(serving())
    story.given("chat-1", EngineStarted(7, 1.0, 8001, "/log", 2))
    assert story.settles() == []
    story.runs("chat-1").settles()
    assert story.places() == {"chat-1": "alpha/0"}
    assert story.replica("chat-0").retired


def test_of_several_one_is_replaced_after_the_other() -> None:
    story = changed(serving(3), 3)
    seen = [set(story.places())]
    while new := [each for each in story.places() if not story.replica(each).serving]:
        assert len(new) == 1
        assert sum(story.replica(each).serving for each in story.places()) >= 3
        story.runs(new[0]).settles()
        for identity in list(story.state.replicas):
            if story.replica(identity).retired:
                story.stops(identity)
        story.settles()
        seen.append(set(story.places()))
    assert seen[0] == {"chat-0", "chat-1", "chat-2", "chat-3"}
    assert len(seen) == 4
    assert len(seen[-1]) == 3
    assert all(story.replica(each).launch == story.model().launch for each in seen[-1])
    assert story.model().proven == story.model().spec


def test_one_that_does_not_serve_is_started_otherwise_in_its_place_at_once() -> None:
    story = cluster(alpha=[80]).given("chat", load(2, "8GiB"))
    story.settles()
    story.runs("chat-0", ready=False)
    changed(story, 2)
    assert story.places() == {"chat-0": "alpha/0", "chat-1": "alpha/0"}
    assert {place.version for place in story.model().assignments} == {2}


def test_without_room_for_two_one_is_replaced_in_its_place_after_the_other() -> None:
    story = changed(serving(2, "8GiB", alpha=[20.0]), 2)
    assert [place.version for place in story.model().assignments] == [2, 1]
    assert story.settles() == []
    story.stops("chat-0").runs("chat-0", ready=False)
    assert story.settles() == []
    story.runs("chat-0").settles()
    assert [place.version for place in story.model().assignments] == [2, 3]
    story.stops("chat-1").runs("chat-1").settles()
    assert story.model().proven == story.model().spec


def test_what_was_dropped_and_still_ends_makes_room_for_the_next() -> None:
    story = changed(serving(2, "8GiB", alpha=[30.0]), 2)
    assert set(story.places()) == {"chat-0", "chat-1", "chat-2"}
    story.runs("chat-2").settles()
    assert set(story.places()) == {"chat-0", "chat-2"}  # the room of chat-1 is not free yet
    story.stops("chat-1").settles()
    assert [place.version for place in story.model().assignments] == [1, 4, 2]


def test_a_change_that_fits_nowhere_leaves_the_old_one_serving_and_is_told() -> None:
    story = serving(1, "8GiB", alpha=[20.0])
    story.given("chat", load(1, "40GiB"))
    (told,) = story.settles()
    assert isinstance(told, ModelUnschedulable)
    assert told.reason.startswith(
        "chat-0 can't be replaced, though its engine was started before the last change of its "
        "model"
    )
    assert (told.missing, story.replica().serving) == (1, True)
    story.given("beta", gpus(80)).settles()
    assert story.places() == {"chat-0": "alpha/0", "chat-1": "beta/0"}


def test_a_change_of_labels_moves_a_replica() -> None:
    story = serving(1, "8GiB", alpha=[80.0])
    story.given("beta", gpus(80, zone="b"))
    story.given("chat", load(1, "8GiB", labels={"zone": "b"})).settles()
    assert story.places() == {"chat-0": "alpha/0", "chat-1": "beta/0"}
    story.runs("chat-1").settles()
    assert story.places() == {"chat-1": "beta/0"}


def test_fewer_replicas_are_wanted_in_the_middle_of_a_change() -> None:
    story = changed(serving(3), 3)
    story.runs("chat-3").settles()
    story.given("chat", ModelScaleRequested(1)).settles()
    assert story.places() == {"chat-3": "alpha/0"}


def test_another_engine_version_on_a_node_is_rolled_out_one_replica_at_a_time() -> None:
    def registered(version: str) -> NodeRegistered:
        return replace(gpus(30), engine_version=version)

    story = Story().given("alpha", registered("0.31")).given("chat", load(2, "8GiB"))
    story.settles()
    story.runs("chat-0").runs("chat-1").given("alpha", registered("0.32")).settles()
    assert set(story.places()) == {"chat-0", "chat-1", "chat-2"}
    story.runs("chat-2").settles()
    story.stops("chat-1").settles()
    assert engines_get_on(story)
    while story.settles() or engines_get_on(story):
        pass
    assert len(story.places()) == 2
    assert {story.engine(each).installed for each in story.places()} == {"0.32"}
    story.given("alpha", registered("0.32"))
    assert story.settles() == []


def test_without_room_for_two_another_engine_version_starts_in_its_place() -> None:
    story = Story().given("alpha", replace(gpus(10), engine_version="0.31"))
    story.given("chat", load(1, "8GiB")).settles()
    story.runs("chat-0").given("alpha", replace(gpus(10), engine_version="0.32")).settles()
    assert story.replica().version == 2
    assert story.settles() == []
    story.stops("chat-0").runs("chat-0")
    assert story.settles() == []
    assert (story.engine().installed, story.replica().version) == ("0.32", 2)


# Draining


def test_replicas_move_off_a_draining_node_before_they_end_there() -> None:
    story = serving(2, "8GiB", alpha=[80.0])
    story.given("beta", gpus(80)).given("alpha", NodeDrainRequested()).settles()
    assert story.places() == {"chat-0": "alpha/0", "chat-1": "alpha/0", "chat-2": "beta/0"}
    story.runs("chat-2").settles()
    assert story.places() == {"chat-0": "alpha/0", "chat-2": "beta/0", "chat-3": "beta/0"}
    story.runs("chat-3").stops("chat-1").settles()
    assert story.places() == {"chat-2": "beta/0", "chat-3": "beta/0"}


def test_what_fits_nowhere_else_stays_serving_on_a_draining_node_until_it_does() -> None:
    story = serving().given("alpha", NodeDrainRequested())
    (told,) = story.settles()
    assert told == ModelUnschedulable(
        "chat-0 can't be replaced, though alpha is draining: "
        "no node takes replicas: start one with `nebula node`",
        1,
    )
    assert story.replica().serving
    story.given("beta", gpus(80)).settles()
    assert story.places() == {"chat-0": "alpha/0", "chat-1": "beta/0"}
    assert story.model().unschedulable == ""


def test_a_node_that_takes_replicas_again_keeps_what_did_not_move() -> None:
    story = serving().given("alpha", NodeDrainRequested())
    story.settles()
    story.given("alpha", NodeUndrainRequested()).settles()
    assert story.places() == {"chat-0": "alpha/0"}
    assert story.model().unschedulable == ""
    assert story.replica().version == 1


def test_nothing_is_started_otherwise_on_a_draining_node() -> None:
    story = serving().given("alpha", NodeDrainRequested())
    changed(story)
    assert story.replica().version == 1
    assert story.model().missing == 1


# What does not get ready


def test_a_change_whose_replica_is_given_up_is_rolled_back() -> None:
    story = changed(serving()).runs("chat-1", ready=False).gives_up("chat-1")
    back, plan = story.settles()
    assert back == ModelRolledBack("chat-1 was given up: ValueError: no")
    assert isinstance(plan, ModelAssigned)
    assert story.places() == {"chat-0": "alpha/0"}
    assert story.replica().version == 1
    assert story.replica().serving
    assert story.model().spec == load(1, "8GiB")
    assert story.model().rolled_back


def test_one_that_was_replaced_in_its_place_and_given_up_is_brought_back() -> None:
    story = changed(serving(1, "8GiB", alpha=[10.0]))
    story.stops("chat-0").runs("chat-0", ready=False).gives_up("chat-0")
    assert [type(each) for each in story.settles()] == [ModelRolledBack, ModelAssigned]
    assert story.replica().launch == story.model().launch
    assert story.model().spec.options == {}
    assert not story.replica().given_up


def test_what_never_worked_has_nothing_to_go_back_to() -> None:
    story = cluster(alpha=[80]).given("chat", load(memory="8GiB"))
    story.settles()
    story.runs("chat-0", ready=False).gives_up("chat-0")
    assert story.settles() == []


def test_a_replica_more_of_what_works_is_not_a_change_to_go_back_on() -> None:
    story = serving().given("chat", ModelScaleRequested(2))
    story.settles()
    story.runs("chat-1", ready=False).gives_up("chat-1")
    assert story.settles() == []
    assert story.model().spec.replicas == 2


def test_what_bore_a_name_that_is_taken_by_now_is_not_gone_back_to() -> None:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB", name="old"))
    story.settles()
    story.runs("chat-0").given("chat", load(1, "8GiB", name="new")).settles()
    story.given("other", load(1, "8GiB", name="old")).settles()
    story.runs("chat-1", ready=False).gives_up("chat-1")
    assert story.settles() == []
    assert story.state.names["old"].model == "other"
    story.given("chat", ModelRolledBack("by hand"))
    assert [type(each) for each in story.settles()] == [EventRejected]


def test_a_change_that_fits_nowhere_is_rolled_back_once_nothing_serves_any_more() -> None:
    story = cluster(alpha=[80], beta=[80]).given("chat", load(1, "8GiB"))
    story.settles()
    home = story.replica().node
    story.runs("chat-0").settles()
    story.given("chat", load(1, "500GiB"))
    assert [type(each) for each in story.settles()] == [ModelUnschedulable]
    assert story.replica().serving
    story.given(home, NodeLost())
    assert ModelRolledBack in [type(each) for each in story.settles()]
    assert story.model().rolled_back.startswith("it fits nowhere")
    assert [place.node for place in story.model().assignments] == [
        "beta" if home == "alpha" else "alpha"
    ]


def test_after_a_rollback_the_same_change_may_be_asked_for_again() -> None:
    story = changed(serving()).runs("chat-1", ready=False).gives_up("chat-1")
    story.settles()
    changed(story)
    assert len(story.places()) == 2
    assert story.model().rolled_back == ""


def test_a_successor_goes_to_a_node_where_no_replica_of_its_model_serves() -> None:
    story = changed(serving(1, "8GiB", alpha=[80], beta=[40]))
    assert story.places() == {"chat-0": "alpha/0", "chat-1": "beta/0"}


def test_an_engine_that_needs_another_number_of_gpus_is_not_started_in_the_same_place() -> None:
    story = serving(1, "16GiB", alpha=[24, 24]).given("other", load(1, "16GiB"))
    story.settles()
    before = story.model().assignments
    story.given("chat", load(1, "16GiB", options={"tensor-parallel-size": 2})).settles()
    assert story.model().assignments == before
    assert "no device has room" in story.model().unschedulable


def test_an_engine_of_a_lost_node_holds_up_no_replacement_elsewhere() -> None:
    story = serving(2, "16GiB", alpha=[24], beta=[24])
    version = story.replica("chat-0").version
    story.given("beta", NodeLost()).settles()
    changed(story, 1, "16GiB")
    assert story.places() == {"chat-0": "alpha/0"}
    assert story.replica("chat-0").version > version, "there is no room for two: it starts in place"


# Laws

SPECS = st.builds(
    load,
    st.integers(1, 3),
    st.sampled_from(["8GiB", "12GiB"]),
    options=st.sampled_from([{}, CHANGED, {"tensor-parallel-size": 2}]),
    labels=st.sampled_from([{}, {}, {"zone": "a"}]),
    apart=st.sampled_from([(), (), ("chat",), ("other",)]),
    policy=st.sampled_from(["spread", "binpack"]),
)
WISHES: st.SearchStrategy[tuple[str, Event]] = st.one_of(
    st.tuples(st.sampled_from(["chat", "other"]), SPECS),
    st.tuples(
        st.sampled_from(["alpha", "beta", "gamma"]),
        st.sampled_from([NodeDrainRequested(), NodeUndrainRequested()]),
    ),
    st.tuples(st.just("gamma"), st.just(gpus(24, 24, zone="a"))),
)


def engines_get_on(story: Story) -> bool:
    """Let every engine do what plans want of it; say whether any did."""
    before = story.state.seq
    for identity, replica in sorted(story.state.replicas.items()):
        if replica.retired or (replica.engine and replica.engine.version != replica.version):
            story.stops(identity)
        elif not replica.serving:
            story.runs(identity)
    return story.state.seq > before


@settings(max_examples=150)
@given(st.lists(WISHES, max_size=8))
def test_changes_come_to_an_end_lose_no_replica_and_promise_no_more_than_there_is(
    wishes: list[tuple[str, Event]],
) -> None:
    story = cluster(alpha=[24, 24], beta=[24])
    for identity, event in wishes:
        story.given(identity, event)
        for _ in range(40):
            served = {name: count(story, name) for name in story.state.models}
            for _ in range(60):
                if not story.decides():
                    break
                within_bounds(story)
                not_fewer(story, served)
            else:
                raise AssertionError("no end of deciding")
            if not engines_get_on(story):
                break
        else:
            raise AssertionError("no end of changing")
        for model in story.state.models.values():
            assert model.unschedulable or len(model.assignments) == model.wanted
            assert model.unschedulable or model.proven == model.spec
        assert decide(story.state) == ()


def count(story: Story, model: str) -> int:
    known = story.state.models[model]
    return sum(story.replica(each.replica).serving for each in known.assignments)


def not_fewer(story: Story, served: dict[str, int]) -> None:
    """No plan takes more than one replica from service, and none while a surge has room."""
    for name, before in served.items():
        assert count(story, name) >= min(before, story.state.models[name].wanted) - 1


def within_bounds(story: Story) -> None:
    for (node, index), size in promised(story.state).items():
        device = next(each for each in story.state.nodes[node].devices if each.index == index)
        assert size <= usable(device), (node, index)
