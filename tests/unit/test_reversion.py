"""The way back: events that bring models, replicas, adapters and places back to what they were."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    AliasRemoveRequested,
    AliasRequested,
    ModelLoadRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
)
from nebula.events.memory import GIB
from nebula.events.state import Model, State
from nebula.events.validation import rejection_reason
from nebula.events.values import Adapter, Device, Target
from nebula.events.version import VERSION
from nebula.events.vocabulary import (
    ClusterFounded,
    Event,
    ModelAssigned,
    ModelUnloaded,
    NodeDeregistered,
    NodeLost,
    NodeRegistered,
)
from nebula.history.reversion import Reversion, Step, meaning, revert, revert_one
from tests.unit.story import Story, cluster, gpus, intents, load


def base() -> Story:
    story = cluster(n1=[80], n2=[80]).given("chat", load(2, "8GiB", name="org/chat", lora=True))
    story.settles()
    return story


def back(story: Story, then: State) -> Reversion:
    """Append the way back, as `nebula revert` does, and give it."""
    reversion = revert(story.state, then)
    for step in reversion.steps:
        assert rejection_reason(story.state, step.id, step.event) is None
        story.append(step.id, step.event)
    return reversion


def wishes(state: State) -> dict[str, tuple[object, ...]]:
    return {
        identity: _wish(model) for identity, model in state.models.items() if not model.unloading
    }


def _wish(model: Model) -> tuple[object, ...]:
    spec = model.spec
    return model.name, spec.source, spec.task, spec.replicas, model.lora, dict(model.adapters)


def test_nothing_has_changed_nothing_is_to_do() -> None:
    story = base()
    assert revert(story.state, story.state) == Reversion((), ())


def test_counts_and_adapters_are_brought_back() -> None:
    story = base().given("chat", AdapterLoadRequested("sql", "/a"))
    story.settles()
    then = story.state
    story.given("chat", ModelScaleRequested(3), AdapterUnloadRequested("sql"))
    story.given("chat", AdapterLoadRequested("poet", "/p"))
    story.settles()
    assert back(story, then).steps == (
        Step("chat", ModelScaleRequested(2)),
        Step("chat", AdapterUnloadRequested("poet")),
        Step("chat", AdapterLoadRequested("sql", "/a")),
        Step("chat", ModelAssigned(3, then.models["chat"].assignments)),
    )
    assert story.settles() == []
    assert wishes(story.state) == wishes(then)
    assert story.places() == {"chat-0": "n1/0", "chat-1": "n2/0"}


def test_an_alias_moves_back() -> None:
    was = AliasRequested((Target("org/chat"),), "prod/chat", "org/shadow")
    story = base().given("prod", was).given("old", AliasRequested((Target("org/chat"),)))
    then = story.state
    story.given("prod", AliasRequested((Target("new"),))).given("old", AliasRemoveRequested())
    story.given("new", AliasRequested((Target("org/chat"),), "prod/chat"))
    assert back(story, then).steps == (
        Step("new", AliasRemoveRequested()),
        Step("prod", AliasRemoveRequested()),
        Step("old", AliasRequested((Target("org/chat"),), "old")),
        Step("prod", was),
    )
    assert {each: story.state.aliases[each].targets for each in story.state.aliases} == {
        each: then.aliases[each].targets for each in then.aliases
    }


def test_an_alias_gives_its_name_back_to_the_model_that_had_it() -> None:
    story = base()
    then = story.state
    story.given("chat", load(2, "8GiB", name="org/new", lora=True))
    story.given("org", AliasRequested((Target("org/new"),), "org/chat"))
    assert back(story, then).cannot == ()
    assert story.state.names["org/chat"].model == "chat"


def test_limits_are_brought_back_and_no_engine_is_started_again_for_them() -> None:
    story = base()
    then = story.state
    story.given("chat", load(2, "8GiB", name="org/chat", lora=True, max_in_flight=8, max_waiting=1))
    story.settles()
    [step] = revert(story.state, then).steps
    assert meaning(story.state, step) == ("max in flight: 8 -> 256", "max waiting: 1 -> 1024")
    back(story, then)
    assert story.model().spec == then.models["chat"].spec


def test_it_is_told_what_a_load_request_changes_and_that_engines_are_replaced() -> None:
    story = base()
    then = story.state
    story.given("chat", load(2, "9GiB", name="chat", options={"seed": 1}, lora=True))
    story.settles()
    load_, *plans = revert(story.state, then).steps
    assert meaning(story.state, load_) == (
        "name: chat -> org/chat",
        "memory: 9GiB -> 8GiB",
        "options: seed=1 -> nothing",
        "its engines are replaced one after the other",
    )
    assert plans
    assert all(meaning(story.state, each) == () for each in plans)
    assert meaning(cluster(n1=[80]).state, load_) == (), "it is loaded, not loaded otherwise"


def test_a_model_that_is_gone_is_loaded_again_where_it_was() -> None:
    story = base()
    then = story.state
    story.given("chat", ModelUnloadRequested()).settles()
    story.given("other", load(1, "60GiB")).settles()
    reversion = back(story, then)
    assert [type(each.event) for each in reversion.steps] == [
        ModelUnloadRequested,
        ModelLoadRequested,
        ModelAssigned,
    ]
    assert story.settles() == [ModelUnloaded()]  # the other one
    assert wishes(story.state) == wishes(then)
    assert story.places() == {"chat-0": "n1/0", "chat-1": "n2/0"}


def test_a_name_that_is_still_held_is_waited_for() -> None:
    story = base()
    then = story.state
    story.runs("chat-0").given("chat", ModelUnloadRequested())
    story.stops("chat-0").settles()
    story.given("thief", load(1, "8GiB", name="org/chat")).settles()
    story.runs("thief-0")
    reversion = back(story, then)
    assert reversion.waits
    assert "waits until thief is unloaded" in reversion.cannot[0]
    story.settles()
    story.stops("thief-0").settles()
    assert not back(story, then).waits
    assert wishes(story.state) == wishes(then)


def test_what_can_not_be_where_it_was_is_told_and_left_to_a_router() -> None:
    for gone, why in (
        (NodeLost("x"), "the node is lost"),
        (NodeDrainRequested(), "the node is draining"),
        (NodeDeregistered(), "the node has left"),
    ):
        story = base()
        then = story.state
        story.given("chat", ModelUnloadRequested()).settles()
        story.given("n2", gone)
        assert f"chat-1: not back on n2: {why}" in back(story, then).cannot
        story.settles()
        assert set(story.places().values()) == {"n1/0"}
        assert len(story.places()) == 2


def test_a_moved_replica_goes_back_when_its_node_is_there_again() -> None:
    story = base()
    then = story.state
    story.given("n2", NodeLost()).settles()
    assert set(story.places().values()) == {"n1/0"}
    story.publish(story.entries[1].subject, story.entries[1].body).settles()
    back(story, then)
    assert sorted(story.places().values()) == ["n1/0", "n2/0"]
    assert story.settles() == []


def test_a_replica_that_was_given_up_starts_anew_where_it_is() -> None:
    story = base()
    then = story.state
    story.runs("chat-0").gives_up("chat-1")
    [step] = back(story, then).steps
    assert isinstance(step.event, ModelAssigned)
    assert {each.replica: each.version for each in step.event.replicas} == {
        "chat-0": 1,
        "chat-1": 2,
    }
    assert not story.replica("chat-1").given_up
    assert story.replica("chat-0").serving  # the other one is left alone


def many_devices() -> Story:
    """`chat` takes two GPUs of n1 for its replica, `code` one of the same node."""
    story = cluster(n1=[80, 80, 80]).given("chat", load(1, "70GiB", options=TWO))
    story.given("code", load(1, "70GiB"))
    story.settles()
    assert story.places() == {"chat-0": "n1/0+n1/1"}
    assert story.places("code") == {"code-0": "n1/2"}
    return story


TWO = {"tensor-parallel-size": 2}


def test_room_is_counted_for_each_device_of_a_node_and_not_for_all_at_once() -> None:
    story = many_devices()
    then = story.state
    for model in ("chat", "code"):
        story.given(model, ModelUnloadRequested(), ModelUnloaded())
    found = back(story, then)
    assert found.cannot == ()
    assert story.places() == {"chat-0": "n1/0+n1/1"}
    assert story.places("code") == {"code-0": "n1/2"}
    assert story.settles() == []


@pytest.mark.parametrize("gone", [0, 1])
def test_a_replica_goes_back_only_where_all_of_its_devices_are(gone: int) -> None:
    story = many_devices()
    then = story.state
    story.given("chat", ModelUnloadRequested(), ModelUnloaded())
    kept = [Device(index, "gpu", "H100", 80 * GIB) for index in (0, 1, 2) if index != gone]
    story.given("n1", NodeRegistered(tuple(kept)))
    assert f"chat-0: not back on n1: it no longer has device {gone}" in back(story, then).cannot
    small = [Device(i, "gpu", "H100", (8 if i == gone else 80) * GIB) for i in range(3)]
    story = many_devices()
    story.given("chat", ModelUnloadRequested(), ModelUnloaded())
    story.given("n1", NodeRegistered(tuple(small)))
    assert "chat-0: not back on n1: there is no room" in back(story, then).cannot


def test_replicas_of_one_model_do_not_go_back_onto_one_another() -> None:
    story = cluster(n1=[80]).given("chat", load(2, "30GiB"))
    story.settles()
    then = story.state
    assert set(story.places().values()) == {"n1/0"}
    story.given("chat", ModelUnloadRequested(), ModelUnloaded()).given("n1", gpus(40))
    found = back(story, then)
    assert found.cannot == ("chat-1: not back on n1: there is no room",)
    assert story.places() == {"chat-0": "n1/0"}


def test_adapters_are_brought_back_one_by_one_whatever_became_of_them() -> None:
    story = base()
    for name in ("same", "moved", "gone"):
        story.given("chat", AdapterLoadRequested(name, f"/{name}"))
    then = story.state
    story.given("chat", AdapterLoadRequested("moved", "/elsewhere"), AdapterUnloadRequested("gone"))
    story.given("chat", AdapterLoadRequested("new", "/new"))
    assert back(story, then).steps == (
        Step("chat", AdapterUnloadRequested("new")),
        Step("chat", AdapterLoadRequested("gone", "/gone")),
        Step("chat", AdapterLoadRequested("moved", "/moved")),
    )
    assert wishes(story.state) == wishes(then)


def test_a_load_request_that_is_brought_back_takes_off_adapters_that_were_not_there() -> None:
    story = Story().given("lab", ClusterFounded("lab", VERSION)).given("n1", gpus(80))
    story.given("chat", load(1, "8GiB", lora=True)).settles()
    then = story.state
    story.given("chat", AdapterLoadRequested("new", "/new"))
    story.given("chat", load(1, "8GiB", lora=True, options={"seed": 1}))
    assert set(story.model().adapters) == {"new"}
    assert Step("chat", AdapterUnloadRequested("new")) in back(story, then).steps
    assert wishes(story.state) == wishes(then)


@pytest.mark.parametrize("adapter", ["load", "own"])
def test_an_adapter_s_name_that_is_still_held_is_waited_for(adapter: str) -> None:
    story = base()
    if adapter == "load":
        story.given("code", load(1, "8GiB", adapters=(Adapter("sql", "/sql"),)))
    else:
        story.given("chat", AdapterLoadRequested("sql", "/sql"))
    story.settles()
    then = story.state
    if adapter == "load":
        story.given("code", ModelUnloadRequested(), ModelUnloaded())
    else:
        story.given("chat", AdapterUnloadRequested("sql"))
    story.given("thief", load(1, "8GiB", name="sql")).settles()
    story.runs("thief-0").given("thief", ModelUnloadRequested())
    found = revert(story.state, then)
    assert found.waits
    assert any("waits until thief is unloaded" in each for each in found.cannot)


def test_an_alias_that_bore_another_name_gives_it_up_before_others_take_theirs() -> None:
    story = base().given("a", AliasRequested((Target("org/chat"),), "one"))
    story.given("b", AliasRequested((Target("org/chat"),), "two"))
    then = story.state
    story.given("a", AliasRequested((Target("org/chat"),), "three"))
    story.given("b", AliasRequested((Target("org/chat"),), "one"))
    story.given("a", AliasRequested((Target("org/chat"),), "two"))
    assert back(story, then).cannot == ()
    assert {each.id: each.name for each in story.state.aliases.values()} == {"a": "one", "b": "two"}


@given(st.lists(intents, max_size=12), st.lists(intents, max_size=12))
def test_whatever_was_asked_for_is_asked_for_again(
    early: list[tuple[str, Event]], late: list[tuple[str, Event]]
) -> None:
    story = cluster(n1=[16], n2=[24])
    for identity, event in early:
        story.append(identity, event)
        story.settles()
    then = story.state
    for identity, event in late:
        story.append(identity, event)
        story.settles()
    reversion = back(story, then)
    story.settles()
    if not reversion.waits and not any(
        ": Model" in each or ": Adapter" in each for each in reversion.cannot
    ):
        assert wishes(story.state) == wishes(then)
    again = revert(story.state, then)
    assert all(isinstance(step.event, ModelAssigned) for step in again.steps) or reversion.waits


def test_engines_that_serve_end_only_when_the_earlier_ones_are_ready_again() -> None:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB"))
    story.settles()
    then = story.runs("chat-0").state
    story.given("chat", load(1, "8GiB", options={"seed": 1})).settles()
    story.runs("chat-1").settles()
    story.stops("chat-0").settles()
    for step in revert(story.state, then).steps:
        story.append(step.id, step.event)
    story.settles()
    assert story.replica("chat-1").serving, "until another one serves"
    assert set(story.places()) == {"chat-0", "chat-1"}


def test_replicas_that_lie_alike_on_one_device_keep_their_own_places() -> None:
    story = cluster(n1=[80]).given("chat", load(2, "8GiB"))
    story.settles()
    for replica in story.places():
        story.runs(replica)
    then = story.state
    story.given("chat", ModelScaleRequested(3)).settles()
    assert back(story, then).cannot == ()
    story.settles()
    assert story.places() == {"chat-0": "n1/0", "chat-1": "n1/0"}
    assert [each.version for each in story.model().assignments] == [
        each.version for each in then.models["chat"].assignments
    ], "their engines go on"


def test_a_moment_amid_a_replacement_is_reverted_to_as_many_replicas_as_were_wanted() -> None:
    story = cluster(n1=[80], n2=[80]).given("chat", load(1, "8GiB"))
    story.settles()
    story.runs("chat-0").given("chat", load(1, "8GiB", options={"max-model-len": 512})).settles()
    then = story.state
    assert len(then.models["chat"].assignments) == 2
    story.given("chat", ModelUnloadRequested()).stops("chat-0").settles()
    assert not story.state.models
    reversion = back(story, then)
    (plan,) = [step.event for step in reversion.steps if isinstance(step.event, ModelAssigned)]
    assert len(plan.replicas) == 1


def test_a_model_that_could_take_adapters_can_take_them_again() -> None:
    story = cluster(n1=[80])
    story.given("chat", load(1, "8GiB", adapters=(Adapter("sql", "/sql"),))).settles()
    story.given("chat", AdapterUnloadRequested("sql"))
    then = story.state
    assert then.models["chat"].lora
    story.given("chat", ModelUnloadRequested()).settles()
    back(story, then)
    assert story.model().lora
    assert not story.model().adapters


# One model or alias alone


def test_one_model_returns_and_all_else_stays() -> None:
    story = base().given("other", load(1, "8GiB"))
    then = story.state
    story.given("chat", ModelScaleRequested(1)).given("other", ModelScaleRequested(2))
    way = revert_one(story.state, then, "model", "chat")
    assert way.steps == (Step("chat", ModelScaleRequested(2)),)


def test_one_model_that_was_not_there_is_unloaded() -> None:
    story = base()
    then = story.state
    story.given("fresh", load(1, "8GiB"))
    way = revert_one(story.state, then, "model", "fresh")
    assert way.steps == (Step("fresh", ModelUnloadRequested()),)


def test_adapters_that_came_later_leave_one_model() -> None:
    story = base()
    then = story.state
    story.given("chat", AdapterLoadRequested("tone", "/tone"))
    way = revert_one(story.state, then, "model", "chat")
    assert way.steps == (Step("chat", AdapterUnloadRequested("tone")),)


def test_one_alias_returns_or_is_removed() -> None:
    story = base().given("best", AliasRequested((Target("org/chat"),)))
    then = story.state
    story.given("best", AliasRequested((Target("org/chat", 3),)))
    story.given("late", AliasRequested((Target("org/chat"),)))
    best = revert_one(story.state, then, "alias", "best")
    late = revert_one(story.state, then, "alias", "late")
    assert best.steps == (Step("best", AliasRequested((Target("org/chat"),), "best")),)
    assert late.steps == (Step("late", AliasRemoveRequested()),)


def test_what_is_as_it_was_needs_no_step() -> None:
    story = base()
    assert revert_one(story.state, story.state, "model", "chat").steps == ()
    assert revert_one(story.state, story.state, "alias", "none").steps == ()
