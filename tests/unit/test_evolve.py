"""The fold: the life of a model as given/then, and the laws that hold for whatever is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nebula.events import record
from nebula.events.alias import Alias
from nebula.events.evolve import FOLDS, evolve
from nebula.events.folding import fold
from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    AliasRemoveRequested,
    AliasRequested,
    ModelLoadRequested,
    ModelRebalanceRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
)
from nebula.events.record import Malformed, Record
from nebula.events.state import EMPTY, AdapterStatus, NameBinding, Node, Rejection, Replica, State
from nebula.events.values import Adapter, Assignment, Target
from nebula.events.version import VERSION
from nebula.events.vocabulary import (
    AGGREGATE_OF,
    TYPES,
    AdapterLoaded,
    AdapterLoadFailed,
    AdapterUnloaded,
    ClusterFounded,
    EngineFailed,
    EngineReady,
    EngineResumed,
    EngineStalled,
    EngineStarted,
    EngineStopped,
    Event,
    EventRejected,
    ModelAssigned,
    ModelRolledBack,
    ModelUnloaded,
    ModelUnschedulable,
    ModelWoken,
    NodeDeregistered,
    NodeLost,
)
from tests.unit.story import (
    SECOND,
    Story,
    cluster,
    decisions_by_hand,
    facts,
    gpus,
    intents,
    load,
    messages,
    promised,
)

STARTED = EngineStarted(7, 1.0, 8001, "/log", plan=1)


def placed(replicas: int = 1, **fields: object) -> Story:
    story = cluster(alpha=[80]).given("chat", load(replicas, "8GiB", **fields))
    story.settles()
    return story


def place(replica: str, version: int = 1) -> Assignment:
    return Assignment(replica, "alpha", (0,), 1, version)


def names(story: Story) -> dict[str, NameBinding]:
    return dict(story.state.names.items())


# The life of a model


def test_a_requested_model_waits_for_a_plan() -> None:
    story = Story().given("chat", load(2, name="org/chat"))
    model = story.model()
    assert (model.name, model.spec.replicas, model.version) == ("org/chat", 2, 0)
    assert model.requested_seq > model.planned_seq
    assert model.created_ns == story.state.time == SECOND
    assert names(story) == {"org/chat": NameBinding("chat")}
    assert story.state.models_seq == story.state.seq


def test_a_plan_makes_replicas() -> None:
    story = placed(2)
    model = story.model()
    assert model.replicas == ("chat-0", "chat-1")
    assert (model.version, model.planned_seq) == (1, model.requested_seq)
    assert story.replica().phase == "assigned"
    assert not story.replica().serving


def test_an_engine_starts_and_gets_ready() -> None:
    story = placed().given("chat-0", STARTED)
    assert story.replica().phase == "starting"
    assert story.engine().started == story.state.time
    assert not story.replica().serving
    story.given("chat-0", EngineReady("0.11.0"))
    assert story.replica().phase == "ready"
    assert story.engine().engine_version == "0.11.0"
    assert story.replica().serving


def test_the_whole_life_ends_with_nothing_left() -> None:
    story = placed(lora=True).runs("chat-0")
    story.given("chat", AdapterLoadRequested("sql", "/sql"))
    story.given("chat-0", AdapterLoaded("sql", "/sql"))
    assert story.replica().adapters == {"sql": AdapterStatus("/sql", loaded=True, asked=6)}
    story.given("chat", ModelUnloadRequested())
    assert story.model().unloading
    assert story.model().requested_seq == story.state.seq
    assert story.replica().retired
    assert not story.replica().serving
    story.stops("chat-0")
    assert "chat-0" not in story.state.replicas
    assert story.model().replicas == ()
    story.given("chat", ModelUnloaded())
    assert len(story.state.models) == len(story.state.replicas) == len(story.state.names) == 0


def test_an_engine_that_was_ended_leaves_nothing_but_the_reason() -> None:
    story = (
        placed(lora=True)
        .runs("chat-0", ready=False)
        .given("chat-0", EngineFailed("x", retry_in=1.0))
    )
    story.runs("chat-0").given("chat-0", AdapterLoaded("sql", "/sql"), EngineStopped("told to"))
    replica = story.replica()
    assert (replica.phase, replica.engine, replica.adapters) == ("stopped", None, {})
    assert (replica.attempt, replica.reason) == (0, "told to")


def test_a_model_that_is_unloaded_by_hand_takes_its_engines_along() -> None:
    story = placed(2).runs("chat-0").given("chat", ModelUnloaded())
    assert len(story.state.models) == len(story.state.replicas) == len(story.state.names) == 0


def test_a_failed_engine_is_remembered_until_the_next_one_is_ready() -> None:
    story = placed().runs("chat-0", ready=False)
    story.given("chat-0", EngineFailed("CUDA out of memory", 1, ("tail",), 1, retry_in=4.0))
    replica = story.replica()
    assert (replica.phase, replica.engine, replica.attempt) == ("failed", None, 1)
    assert (replica.reason, replica.exit_code) == ("CUDA out of memory", 1)
    assert (replica.log_tail, replica.retry_in) == (("tail",), 4.0)
    assert not replica.given_up
    story.given("chat-0", EngineStarted(8, 2.0, 8001, "/log", plan=1, attempt=2))
    assert (story.replica().attempt, story.replica().retry_in) == (2, None)
    assert story.replica().reason == "CUDA out of memory"
    story.given("chat-0", EngineReady())
    assert (story.replica().reason, story.replica().log_tail) == ("", ())
    assert story.replica().exit_code is None
    assert story.replica().serving


def test_a_node_gives_up_and_a_repeated_request_starts_anew() -> None:
    story = placed().runs("chat-0", ready=False).gives_up("chat-0")
    assert story.replica().given_up
    story.given("chat", load(1, "8GiB"))
    story.settles()
    assert story.replica().phase == "assigned"
    assert story.replica().attempt == 0


def test_what_was_given_up_stays_so_whatever_is_reported_of_it_until_it_is_asked_for() -> None:
    story = placed().runs("chat-0").gives_up("chat-0")
    before = story.replica()
    for late in (STARTED, EngineReady(), EngineStopped("x"), EngineFailed("x", 1, retry_in=1.0)):
        assert story.given("chat-0", late).replica() is before
    story.given("alpha", NodeDeregistered())
    assert story.replica().given_up
    story.given("alpha", gpus(80)).given("chat", load(1, "8GiB")).settles()
    assert story.runs("chat-0").replica().serving


def test_scaling_down_retires_what_runs_and_drops_what_does_not() -> None:
    story = placed(3).runs("chat-0").runs("chat-1")
    story.given("chat", ModelScaleRequested(1))
    story.settles()
    assert [place.replica for place in story.model().assignments] == ["chat-0"]
    assert story.replica("chat-1").retired
    assert "chat-2" not in story.state.replicas
    assert story.model().replicas == ("chat-0", "chat-1")
    before = story.state.capacity_seq
    story.stops("chat-1")
    assert story.model().replicas == ("chat-0",)
    assert story.state.capacity_seq > before


def test_scaling_keeps_the_rest_of_the_request() -> None:
    story = placed(name="org/chat", options={"seed": 1}).given("chat", ModelScaleRequested(0))
    assert story.model().spec == load(0, "8GiB", name="org/chat", options={"seed": 1})


def test_a_changed_spec_wants_an_engine_of_the_next_version() -> None:
    story = placed().runs("chat-0")
    assert story.replica().serving
    first = story.replica().launch
    story.given("chat", load(1, "8GiB", options={"seed": 1}))
    story.given("chat", ModelAssigned(2, (replace(story.model().assignments[0], version=2),)))
    assert (story.model().version, story.replica().version) == (2, 2)
    assert story.replica().launch == story.model().launch != first
    assert story.engine().version == 1
    assert not story.replica().serving
    story.stops("chat-0").runs("chat-0")
    assert story.engine().version == 2
    assert story.replica().serving


def test_a_repeated_request_of_the_same_leaves_the_engine_alone() -> None:
    story = placed().runs("chat-0")
    before = story.engine()
    story.given("chat", load(1, "8GiB"))
    story.settles()
    assert story.model().version == 2
    assert story.engine() == before
    assert story.replica().serving


def test_what_cannot_be_placed_says_why() -> None:
    story = Story().given("chat", load(3)).given("chat", ModelUnschedulable("no GPU", 3))
    model = story.model()
    assert (model.unschedulable, model.missing) == ("no GPU", 3)
    assert model.planned_seq == model.requested_seq


def test_a_plan_answers_why_there_was_none() -> None:
    story = Story().given("chat", load(3), ModelUnschedulable("no GPU", 3))
    story.given("chat", ModelAssigned(1, (place("chat-0"),)))
    assert (story.model().unschedulable, story.model().missing) == ("", 0)


def test_a_plan_may_move_a_replica_and_take_back_a_retired_one() -> None:
    story = Story().given("chat", load(2), ModelAssigned(1, (place("chat-0"), place("chat-1"))))
    story.runs("chat-0").runs("chat-1").given("chat", ModelAssigned(2, (place("chat-0"),)))
    assert story.replica("chat-1").retired
    moved = Assignment("chat-1", "beta", (1, 2), 7, 3)
    story.given("chat", ModelAssigned(3, (place("chat-0"), moved)))
    replica = story.replica("chat-1")
    assert (replica.node, replica.devices, replica.memory) == ("beta", (1, 2), 7)
    assert (replica.version, replica.retired) == (3, False)
    assert not replica.serving


def test_an_engine_that_was_not_started_is_not_ready() -> None:
    story = placed()
    before = story.replica()
    assert story.given("chat-0", EngineReady("0.11.0")).replica() == before


def test_a_new_engine_has_no_adapters_whatever_the_last_one_had() -> None:
    story = placed(lora=True).runs("chat-0").given("chat-0", AdapterLoaded("sql", "/sql"))
    assert story.given("chat-0", STARTED).replica().adapters == {}


def test_a_model_that_is_asked_for_while_it_unloads_stays() -> None:
    story = placed().runs("chat-0").given("chat", ModelUnloadRequested())
    story.given("chat", load(1, "8GiB"))
    assert not story.model().unloading
    assert story.model().requested_seq > story.model().planned_seq


# Adapters


def test_an_adapter_is_wanted_loaded_and_let_go() -> None:
    story = placed(lora=True).runs("chat-0")
    story.given("chat", AdapterLoadRequested("sql", "/sql"))
    assert story.model().adapters == {"sql": "/sql"}
    assert names(story) == {"chat": NameBinding("chat"), "sql": NameBinding("chat", "sql")}
    story.given("chat-0", AdapterLoaded("sql", "/sql"))
    story.given("chat", AdapterUnloadRequested("sql"))
    assert names(story) == {"chat": NameBinding("chat")}
    assert "sql" in story.replica().adapters
    story.given("chat-0", AdapterUnloaded("sql"))
    assert story.replica().adapters == {}


def test_an_engine_that_ended_has_no_adapters() -> None:
    story = placed(adapters=(Adapter("sql", "/sql"),)).runs("chat-0")
    story.given("chat-0", AdapterLoaded("sql", "/sql"), EngineFailed("killed", -9, retry_in=1.0))
    assert story.replica().adapters == {}


@pytest.mark.parametrize(
    "again",
    [
        load(1, "8GiB", adapters=(Adapter("sql", "/sql"), Adapter("poet", "/poet"))),
        AdapterLoadRequested("sql", "/sql"),
    ],
)
def test_a_repeated_request_forgives_the_adapters_that_failed(
    again: ModelLoadRequested | AdapterLoadRequested,
) -> None:
    adapters = (Adapter("sql", "/sql"), Adapter("poet", "/poet"))
    story = placed(adapters=adapters).runs("chat-0")
    story.given("chat-0", AdapterLoadFailed("sql", "/sql", "rank 64"))
    story.given("chat-0", AdapterLoaded("poet", "/poet"))
    failed = AdapterStatus("/sql", loaded=False, reason="rank 64", asked=2)
    assert story.replica().adapters["sql"] == failed
    story.given("chat", again)
    assert story.replica().adapters == {"poet": AdapterStatus("/poet", loaded=True, asked=2)}


@pytest.mark.parametrize("gone", [AdapterUnloadRequested("sql"), load(1, "8GiB", lora=True)])
def test_the_failure_of_an_adapter_that_is_no_longer_wanted_is_forgotten(
    gone: ModelLoadRequested | AdapterUnloadRequested,
) -> None:
    failed = AdapterLoadFailed("sql", "/sql", "rank 64")
    story = placed(lora=True, adapters=(Adapter("sql", "/sql"),)).runs("chat-0")
    story.given("chat-0", failed).given("chat", gone)
    assert story.replica().adapters == {}
    story.given("chat-0", failed)  # which was on its way
    assert story.replica().adapters == {}


def test_the_failure_of_an_adapter_that_is_wanted_from_elsewhere_by_now_does_not_count() -> None:
    story = placed(adapters=(Adapter("sql", "/sql"),)).runs("chat-0")
    story.given("chat", AdapterLoadRequested("sql", "/better"))
    story.given("chat-0", AdapterLoadFailed("sql", "/sql", "rank 64"))
    assert story.replica().adapters == {}
    story.given("chat-0", AdapterLoadFailed("sql", "/better", "no such folder"))
    assert not story.replica().adapters["sql"].loaded
    story.given("chat-0", AdapterLoaded("sql", "/better"))
    assert story.replica().adapters == {"sql": AdapterStatus("/better", loaded=True, asked=6)}


def test_a_new_name_frees_the_old_one() -> None:
    story = placed(name="old", adapters=(Adapter("sql", "/sql"),))
    story.given("chat", load(name="new"))
    assert names(story) == {"new": NameBinding("chat")}
    story.given("chat", load(name="sql", adapters=(Adapter("old", "/old"),)))
    assert names(story) == {"sql": NameBinding("chat"), "old": NameBinding("chat", "old")}


# Nodes


def test_an_alias_comes_moves_is_renamed_and_goes() -> None:
    story = cluster(alpha=[80]).given("chat", load(name="org/chat"))
    story.given("prod", AliasRequested((Target("org/chat"),)))
    assert story.state.names["prod"] == NameBinding("", alias="prod")
    moved = (Target("org/chat", 9), Target("org/to-come", 1))
    story.given("prod", AliasRequested(moved, "prod/chat", "org/shadow"))
    assert story.state.aliases["prod"] == Alias("prod", "prod/chat", moved, "org/shadow", 4)
    assert dict(story.state.names.items()) == {
        "org/chat": NameBinding("chat"),
        "prod/chat": NameBinding("", alias="prod"),
    }
    story.given("prod", AliasRemoveRequested())
    assert dict(story.state.names.items()) == {"org/chat": NameBinding("chat")}
    assert not story.state.aliases


def test_no_rollback_takes_back_a_name_that_an_alias_has_by_now() -> None:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB", name="org/old"))
    story.settles()
    story.runs("chat-0").given("chat", load(1, "8GiB", name="org/new", options={"seed": 1}))
    story.given("prod", AliasRequested((Target("org/new"),), "org/old"))
    story.given("chat", ModelRolledBack("it did not start"))
    [rejection] = story.state.rejections.values()
    assert "is taken by now" in rejection.reason
    assert dict(story.state.names.items()) == {
        "org/new": NameBinding("chat"),
        "org/old": NameBinding("", alias="prod"),
    }


def test_an_alias_calls_for_no_decision() -> None:
    story = cluster(alpha=[80]).given("prod", AliasRequested((Target("org/chat"),)))
    assert story.settles() == []


def test_a_node_comes_drains_is_lost_comes_back_and_leaves() -> None:
    story = Story().given("alpha", gpus(80))
    assert story.state.nodes["alpha"].schedulable
    story.given("alpha", NodeDrainRequested())
    assert story.state.nodes["alpha"].draining
    story.given("alpha", NodeLost("silent"))
    assert story.state.nodes["alpha"].lost
    story.given("alpha", gpus(80, 80))
    node = story.state.nodes["alpha"]
    assert (node.lost, node.draining, len(node.devices)) == (False, True, 2)
    story.given("alpha", NodeDeregistered())
    assert "alpha" not in story.state.nodes


def test_the_engines_of_a_node_that_left_are_gone() -> None:
    story = placed(2, lora=True).runs("chat-0").runs("chat-1")
    story.given("chat-0", AdapterLoaded("sql", "/sql"))
    story.given("chat", ModelScaleRequested(1))
    story.settles()
    story.given("alpha", NodeDeregistered())
    assert "chat-1" not in story.state.replicas
    replica = story.replica("chat-0")
    assert (replica.phase, replica.engine, replica.adapters) == ("stopped", None, {})
    assert (replica.reason, replica.attempt) == ("its node has left", 0)


def test_a_node_that_left_takes_no_engine_of_another_one_along() -> None:
    story = cluster(alpha=[80], beta=[80])
    story.given("chat", load(2))
    elsewhere = Assignment("chat-1", "beta", (0,), 1, 1)
    story.given("chat", ModelAssigned(1, (place("chat-0"), elsewhere)))
    story.runs("chat-0").runs("chat-1")
    story.given("alpha", NodeDeregistered())
    assert not story.replica("chat-0").serving
    assert story.replica("chat-1").serving


# Rejections


def test_what_makes_no_sense_is_rejected_until_that_is_answered() -> None:
    story = Story().publish("nebula.events.model.chat.Nonsense", b"{}")
    story.given("chat", ModelScaleRequested(2))
    assert dict(story.state.rejections.items()) == {
        1: Rejection(
            1,
            "nebula.events.model.chat.Nonsense",
            "'Nonsense' is no event type of Nebula",
        ),
        2: Rejection(2, "nebula.events.model.chat.ModelScaleRequested", "there is no model 'chat'"),
    }
    story.given("1", EventRejected("s", "r"))
    assert list(story.state.rejections) == [2]
    story.given("2", EventRejected("s", "r"))
    assert len(story.state.rejections) == 0
    assert len(story.state.models) == 0


@pytest.mark.parametrize("identity", ["99", "x", "-", "1" * 128, "01x"])
def test_an_answer_to_nothing_changes_nothing(identity: str) -> None:
    story = Story().publish("nebula.events.what", b"")
    story.given(identity, EventRejected("s", "r"))
    assert list(story.state.rejections) == [1]


def test_what_is_reported_about_the_unknown_changes_nothing() -> None:
    story = Story()
    story.given("chat-0", STARTED, EngineReady(), EngineFailed("x"), EngineStopped())
    story.given("chat-0", AdapterLoaded("a", "/a"), AdapterUnloaded("a"))
    story.given("chat", ModelAssigned(1, ()), ModelUnschedulable("x"), ModelUnloaded())
    story.given("alpha", NodeLost(), NodeDeregistered())
    assert len(story.state.replicas) == len(story.state.models) == len(story.state.nodes) == 0
    assert len(story.state.rejections) == 0


# What happens while there is a plan, or while one is asked for


def test_a_replica_that_a_plan_moves_frees_the_room_that_it_had() -> None:
    story = cluster(alpha=[80, 80]).given("chat", load(1, "8GiB"))
    story.settles()
    before = story.state.capacity_seq
    [placed] = story.model().assignments
    story.given("chat", ModelAssigned(2, (replace(placed, version=2),)))
    assert story.state.capacity_seq == before
    story.given("chat", ModelAssigned(3, (replace(placed, devices=(1,), version=3),)))
    assert story.state.capacity_seq == story.state.seq


@pytest.mark.parametrize("again", [True, False])
def test_a_model_that_is_awake_does_not_fall_asleep_because_it_is_loaded_again(
    again: bool,
) -> None:
    story = cluster(alpha=[80]).given("chat", load(on_request=True))
    assert story.model().asleep
    story.given("chat", load(on_request=True))
    assert story.model().asleep  # nor does one that sleeps wake
    story.given("chat", ModelWoken(), load(on_request=again))
    assert not story.model().asleep


def test_a_model_that_sleeps_wakes_when_it_is_loaded_to_be_there_at_all_times() -> None:
    story = cluster(alpha=[80]).given("chat", load(on_request=True), load())
    assert not story.model().asleep


def test_replicas_that_are_to_move_are_added_to_those_that_were_asked_for_before() -> None:
    story = placed(3).given("chat", ModelRebalanceRequested(("chat-2",)))
    story.given("chat", ModelRebalanceRequested(("chat-0",)))
    assert story.model().moving == ("chat-0", "chat-2")
    plan = story.model().assignments
    story.given("chat", ModelAssigned(2, plan[1:]))
    assert story.model().moving == ("chat-2",)  # what no plan holds any more has gone


def test_only_an_engine_that_serves_can_stand_still() -> None:
    story = placed().runs("chat-0", ready=False)
    started = story.engine()
    story.given("chat-0", EngineStalled(30.0, 2, 270.0))
    assert story.engine() == started
    story.given("chat-0", EngineReady(), EngineStalled(2.0, 2, 3.0))
    now = story.state.time
    engine = story.engine()
    assert (engine.stalled, engine.stuck, engine.ends) == (now - 2 * SECOND, 2, now + 3 * SECOND)
    story.given("chat-0", EngineStalled(2.0, 2, None))
    assert story.engine().ends == 0  # its node does not end it
    story.given("chat-0", EngineResumed(2.0))
    assert (story.engine().stalled, story.engine().stuck, story.engine().ends) == (0, 0, 0)
    before = story.state
    story.given("chat-0", EngineResumed(2.0))
    assert story.replica() is before.replicas["chat-0"]


def test_what_serves_with_fewer_replicas_than_are_wanted_is_not_proven() -> None:
    story = cluster(alpha=[10]).given("chat", load(2, "8GiB"))
    story.settles()
    story.runs("chat-0")
    assert (len(story.model().assignments), story.model().proven) == (1, None)
    story.given("chat", ModelScaleRequested(1))
    story.settles()
    assert story.model().proven == story.model().spec


@pytest.mark.parametrize(("version", "taken"), [(0, True), (1, True), (2, True), (3, False)])
def test_a_plan_may_repeat_a_version_or_be_the_next_and_skips_none(
    version: int, taken: bool
) -> None:
    """Nodes start engines for the version of a plan: one that is skipped would never come."""
    story = placed()
    assert story.model().version == 1
    story.given("chat", ModelAssigned(version, (place("chat-0", version),)))
    assert (story.state.seq not in story.state.rejections) == taken


def test_a_rollback_keeps_the_adapters_that_the_change_was_to_take_off() -> None:
    adapters = (Adapter("sql", "/sql"), Adapter("poet", "/poet"))
    story = cluster(alpha=[80]).given("lab", ClusterFounded("lab", VERSION))
    story.given("chat", load(1, "8GiB", adapters=adapters)).settles()
    story.runs("chat-0").given("chat-0", AdapterLoaded("sql", "/sql", digest="a1"))
    story.given("chat", load(1, "8GiB", adapters=(adapters[1],), options={"seed": 1}))
    assert (set(story.model().leaving), set(story.model().adapters)) == ({"sql"}, {"poet"})
    story.given("chat", ModelRolledBack("it does not get ready"))
    assert story.model().leaving == {}
    assert story.model().adapters == {"sql": "/sql", "poet": "/poet"}
    assert names(story)["sql"] == NameBinding("chat", "sql")


# Laws


def logged(said: list[tuple[str, bytes]]) -> list[Record]:
    return [
        record.read(seq, seq * SECOND, subject, payload)
        for seq, (subject, payload) in enumerate(said, 1)
    ]


def same(one: State, other: State) -> bool:
    """Compare by the parts that people could see, with the maps in any order."""
    return all(getattr(one, name) == getattr(other, name) for name in State.__struct_fields__)


def message(identity: str, event: Event) -> tuple[str, bytes]:
    return record.subject_of(identity, event), record.encode(event)


def plans_of(model: str) -> st.SearchStrategy[tuple[str, Event]]:
    places = st.lists(
        st.builds(
            Assignment,
            st.builds("{}-{}".format, st.just(model), st.integers(0, 3)),
            st.sampled_from(["n1", "n2"]),
            st.just((0,)),
            st.integers(0, 3),
            st.integers(0, 4),
        ),
        max_size=3,
        unique_by=lambda each: each.replica,
    )
    return st.tuples(st.just(model), st.builds(ModelAssigned, st.integers(0, 3), places.map(tuple)))


UNDER_WAY = [
    message("n1", gpus(16)),
    message("a", load(lora=True)),
    message("a", ModelAssigned(1, (Assignment("a-0", "n1", (0,), 1, 1),))),
    message("a-0", STARTED),
    message("b", load()),
]
of_replica = facts.filter(lambda pair: AGGREGATE_OF[type(pair[1]).__name__] == "replica")
further = st.one_of(
    intents,
    facts,
    of_replica.map(lambda pair: ("a-0", pair[1])),
    decisions_by_hand,
    plans_of("a"),
    plans_of("b"),
).map(lambda pair: message(*pair))

ADAPTER_INTENTS = ("AdapterLoadRequested", "AdapterUnloadRequested")

# From nothing, chance alone hardly ever gets as far as an engine: half begins with one.
logs = st.one_of(
    messages,
    st.lists(further, min_size=5, max_size=30).map(lambda said: [*UNDER_WAY, *said]),
).map(logged)


def test_there_is_a_fold_for_whatever_an_entry_may_hold() -> None:
    assert set(FOLDS) == {*TYPES.values(), Malformed}


@given(logs)
def test_the_fold_never_raises_and_ends_at_the_last_entry(log: list[Record]) -> None:
    state = fold(EMPTY, log)
    assert state.seq == len(log)
    assert state.time == len(log) * SECOND
    assert state.models_seq == last_of("model", log)
    assert state.nodes_seq == last_of("node", log)


def last_of(aggregate: str, log: list[Record]) -> int:
    """Return the last sequence under a guard's subject, as JetStream counts: sense or nonsense."""
    return max(
        (e.seq for e in log if e.subject.startswith(f"nebula.events.{aggregate}.")), default=0
    )


@pytest.mark.parametrize("aggregate", ["model", "node"])
@pytest.mark.parametrize("payload", [b"[", b'{"devices": 1}', b"\xff"])
def test_what_makes_no_sense_moves_the_guard_of_its_subject_and_no_other(
    aggregate: str, payload: bytes
) -> None:
    story = cluster(alpha=[80]).given("chat", load())
    before = story.state
    kind = "ModelLoadRequested" if aggregate == "model" else "NodeRegistered"
    state = story.publish(f"nebula.events.{aggregate}.alpha.{kind}", payload).state
    assert state.seq in state.rejections
    moved = (state.models_seq != before.models_seq, state.nodes_seq != before.nodes_seq)
    assert moved == (aggregate == "model", aggregate == "node")


def room(state: State) -> dict[tuple[str, int], int]:
    """Sum the bytes that may be given to replicas, of every device on a node that takes some."""
    taken = promised(state)
    return {
        (node.id, device.index): device.memory - taken.get((node.id, device.index), 0)
        for node in state.nodes.values()
        if node.schedulable
        for device in node.devices
    }


@given(logs)
def test_wherever_room_comes_free_models_that_found_none_are_decided_on_again(
    log: list[Record],
) -> None:
    state = EMPTY
    for entry in log:
        before, state = room(state), evolve(state, entry)
        if any(free > before.get(device, 0) for device, free in room(state).items()):
            assert state.capacity_seq == entry.seq


@given(logs, st.data())
def test_an_entry_that_comes_again_changes_nothing(log: list[Record], data: st.DataObject) -> None:
    state = EMPTY
    for entry in log:
        state = evolve(state, entry)
        again = data.draw(st.sampled_from(log[: entry.seq]))
        assert evolve(state, again) is state


@given(logs, st.integers(0, 30))
def test_a_state_and_the_tail_of_the_log_are_as_good_as_the_log(
    log: list[Record], middle: int
) -> None:
    assert same(fold(fold(EMPTY, log[:middle]), log[middle:]), fold(EMPTY, log))


@given(logs)
def test_the_index_of_names_is_what_models_and_aliases_say(log: list[Record]) -> None:
    for seq in range(len(log) + 1):
        state = fold(EMPTY, log[:seq])
        expected = {model.name: NameBinding(model.id) for model in state.models.values()}
        for model in state.models.values():
            for name in model.adapters:
                assert name not in expected
                expected[name] = NameBinding(model.id, name)
        for alias in state.aliases.values():
            assert alias.name not in expected
            expected[alias.name] = NameBinding("", alias=alias.id)
        assert dict(state.names.items()) == expected
        adapters = sum(len(each.adapters) for each in state.models.values())
        assert len(state.names) == len(state.models) + adapters + len(state.aliases)


@given(logs)
def test_models_and_replicas_agree_on_which_belongs_to_which(log: list[Record]) -> None:
    state = EMPTY
    for entry in log:
        state = evolve(state, entry)
        listed = [each for model in state.models.values() for each in model.replicas]
        assert len(listed) == len(set(listed))
        assert set(listed) == set(state.replicas)
        for model in state.models.values():
            assert all(state.replicas[each].model == model.id for each in model.replicas)
            planned = [place.replica for place in model.assignments]
            current = [each.id for each in state.replicas_of(model) if not each.retired]
            assert current == planned
        for identity, replica in state.replicas.items():
            assert replica.id == identity
            assert replica.serving <= (replica.phase == "ready")
            assert (replica.phase in ("starting", "ready")) == (replica.engine is not None)


@given(logs)
def test_what_an_entry_changes_bears_its_sequence_and_time(log: list[Record]) -> None:
    state = EMPTY
    for entry in log:
        before, state = state, evolve(state, entry)
        for identity, model in state.models.items():
            earlier = before.models.get(identity)
            if earlier is not None and entry.type == "EngineReady":
                earlier = replace(earlier, proven=model.proven)  # which is not reported
            assert model == earlier or model.changed == entry.seq
        if entry.type in ("NodeSuspected", "NodeHeard"):
            continue  # they ask and answer, and change nothing that a node is or offers
        parts: list[tuple[Mapping[str, Node | Replica], Mapping[str, Node | Replica]]] = [
            (before.nodes, state.nodes)
        ]
        if entry.type not in ("ModelLoadRequested", *ADAPTER_INTENTS):
            parts.append((before.replicas, state.replicas))  # those only forgive adapters
        for known, now in parts:
            for identity, each in now.items():
                changed = each != known.get(identity)
                assert not changed or (each.changed, each.since) == (entry.seq, entry.time)


@given(logs)
def test_an_adapter_is_said_to_have_failed_only_while_it_is_wanted_from_there(
    log: list[Record],
) -> None:
    state = EMPTY
    for entry in log:
        state = evolve(state, entry)
        for replica in state.replicas.values():
            for name, status in replica.adapters.items():
                wanted = state.models[replica.model].adapters.get(name)
                assert status.loaded or status.source == wanted


@given(logs)
def test_room_is_made_by_nodes_and_by_what_is_gone(log: list[Record]) -> None:
    state = EMPTY
    for entry in log:
        before, state = state, evolve(state, entry)
        gone = set(before.replicas) - set(state.replicas) or set(before.models) - set(state.models)
        of_node = entry.aggregate == "node"
        made = state.capacity_seq == entry.seq
        assert made or state.capacity_seq == before.capacity_seq
        assert made or not gone
        asked = entry.type in ("NodeSuspected", "NodeHeard")
        assert made or asked or before.nodes == state.nodes
        by_hand = entry.type in ("ModelAssigned", "ModelLoadRequested")
        given_up = any(each.given_up and not each.memory for each in before.replicas.values())
        given_up = given_up or any(
            each.given_up and not each.memory for each in state.replicas.values()
        )
        assert bool(gone) or of_node or by_hand or given_up or not made


@given(logs)
def test_a_planned_replica_holds_its_share_unless_it_was_given_up(log: list[Record]) -> None:
    state = EMPTY
    for entry in log:
        state = evolve(state, entry)
        for model in state.models.values():
            for place in model.assignments:
                replica = state.replicas[place.replica]
                shares = {0, place.memory} if replica.given_up else {place.memory}
                assert replica.memory in shares


@given(logs)
def test_older_states_stay_as_they_were(log: list[Record]) -> None:
    states, texts = [EMPTY], [repr_of(EMPTY)]
    for entry in log:
        states.append(evolve(states[-1], entry))
        texts.append(repr_of(states[-1]))
    assert [repr_of(state) for state in states] == texts


@given(logs)
def test_every_rejection_is_of_an_unanswered_entry(log: list[Record]) -> None:
    state = fold(EMPTY, log)
    for seq, rejection in state.rejections.items():
        assert rejection.seq == seq
        assert rejection.subject == log[seq - 1].subject
        assert rejection.reason
        later = [each for each in log[seq:] if isinstance(each.content, EventRejected)]
        assert all(each.id != str(seq) for each in later)


def repr_of(state: State) -> str:
    maps = (state.models, state.replicas, state.nodes, state.names, state.rejections)
    return repr([sorted(map(repr, each.items())) for each in maps]) + repr(
        (state.seq, state.time, state.models_seq, state.capacity_seq)
    )


def test_a_report_from_where_the_replica_is_no_more_says_nothing_about_it() -> None:
    story = cluster(alpha=[80], beta=[80]).given("chat", load())
    story.settles()
    (home,) = (replica.node for replica in story.state.replicas.values())
    away = "beta" if home == "alpha" else "alpha"
    story.runs("chat-0")
    before = story.state.replicas["chat-0"]
    for late in (
        EngineStarted(9, 2.0, 8002, "/log", 1, node=away),
        EngineReady(node=away),
        EngineFailed("ValueError: no", node=away),
        EngineStopped("it is no longer assigned to this node", node=away),
        AdapterLoaded("sql", "/x", node=away),
    ):
        assert story.given("chat-0", late).state.replicas["chat-0"] is before
    assert not story.given("chat-0", EngineStopped(node=home)).state.replicas["chat-0"].serving


TOLD = EngineReady("0.32.0", tasks=("generate", "transcription"), max_model_len=4096)


def test_what_engines_can_do_is_known_of_their_model_also_while_it_has_no_replicas() -> None:
    story = placed().given("chat-0", STARTED, TOLD)
    assert (story.model().tasks, story.model().context) == (TOLD.tasks, 4096)
    story.given("chat", ModelScaleRequested(0))
    assert (story.model().tasks, story.model().context) == (TOLD.tasks, 4096)


@pytest.mark.parametrize(
    "change", [{"source": "/other"}, {"task": "embedding"}, {"options": {"dtype": "float16"}}]
)
def test_another_model_behind_a_name_has_to_tell_anew_what_it_can_do(
    change: dict[str, Any],
) -> None:
    story = placed().given("chat-0", STARTED, TOLD)
    story.given("chat", replace(load(), **change))
    assert (story.model().tasks, story.model().context) == ((), 0)
    story.given("chat-0", TOLD)
    assert story.model().tasks == ()


def test_a_repeated_request_leaves_what_is_known_of_a_model() -> None:
    story = placed().given("chat-0", STARTED, TOLD).given("chat", load(3))
    assert story.model().tasks == TOLD.tasks


def test_an_engine_that_tells_nothing_takes_nothing_back() -> None:
    story = placed().given("chat-0", STARTED, TOLD, EngineReady("0.32.0"))
    assert (story.model().tasks, story.model().context) == (TOLD.tasks, 4096)
