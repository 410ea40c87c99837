"""A second load request and the adapters that are there: which stay, which go, and when."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nebula.actors.node.reconciliation import LoadAdapter, Running, UnloadAdapter, reconcile
from nebula.actors.router.routing import able
from nebula.events import snapshot
from nebula.events.adapter_status import adapter_status
from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    ModelLoadRequested,
    ModelUnloadRequested,
)
from nebula.events.state import NameBinding
from nebula.events.validation import rejection_reason
from nebula.events.values import Adapter
from nebula.events.version import ADAPTERS_STAY
from nebula.events.vocabulary import (
    AdapterLoaded,
    ClusterFounded,
    EngineFailed,
    ModelAssigned,
    ModelRolledBack,
)
from nebula.history.description import describe
from nebula.history.load_requests import changed
from tests.unit.story import Story, gpus, intents, load

POET = (Adapter("poet", "/poet"),)
CHANGED: dict[str, object] = {"options": {"seed": 1}}


def serving(version: int = ADAPTERS_STAY, **fields: object) -> Story:
    """A model that serves with the adapter `poet` of its request, and `sql` loaded since."""
    story = Story().given("c1", ClusterFounded("", version)).given("n1", gpus(80))
    story.given("chat", load(1, "8GiB", **({"adapters": POET} | fields)))
    story.settles()
    story.runs("chat-0")
    in_place(story, "chat-0", "poet")
    story.given("chat", AdapterLoadRequested("sql", "/sql"))
    in_place(story, "chat-0", "sql")
    assert answers(story) == {"poet", "sql"}
    return story


def in_place(story: Story, replica: str, name: str) -> None:
    model = story.model()
    source, asked = model.adapters[name], model.offers[name].asked
    story.given(replica, AdapterLoaded(name, source, digest=f"{name:0<64}", asked=asked))


def answers(story: Story) -> set[str]:
    """Return the adapters that requests may name and that some replica answers with."""
    model = story.model()
    names = {name for name, named in story.state.names.items() if named.adapter}
    return {name for name in names if able(story.state, model, name)}


def again(story: Story, **fields: object) -> Story:
    story.given("chat", load(1, "8GiB", **fields))
    story.settles()
    return story


def due(story: Story, replica: str) -> list[tuple[str, str]]:
    known = story.replica(replica)
    engine = Running(replica, known.version, known.devices, ready=True, told=True)
    found = reconcile(story.state, [known], {replica: engine}, {}, 0.0)
    return [
        (type(each).__name__, each.name)
        for each in found
        if isinstance(each, LoadAdapter | UnloadAdapter)
    ]


def test_an_adapter_that_is_no_longer_named_answers_until_the_new_replica_serves() -> None:
    story = again(serving(), **CHANGED)
    assert story.model().leaving == {"poet": "/poet"}
    assert answers(story) == {"poet", "sql"}
    assert due(story, "chat-0") == []
    story.runs("chat-1")
    assert answers(story) == {"poet", "sql"}, "the old replica serves still"
    assert due(story, "chat-1") == [("LoadAdapter", "sql")], "the new one is not given it"
    in_place(story, "chat-1", "sql")
    story.settles()
    assert story.replica("chat-0").retired
    assert answers(story) == {"sql"}
    assert story.model().leaving == {}
    assert "poet" not in story.state.names
    assert "poet" not in story.model().offers


def test_what_was_loaded_at_run_time_stays_whatever_a_load_request_names() -> None:
    for fields in (CHANGED, {"adapters": POET}, {"adapters": (), "lora": True}):
        story = again(serving(), **fields)
        assert story.model().adapters["sql"] == "/sql"
        assert story.model().lora, "its engines have to take adapters"


def test_where_no_engine_is_replaced_the_adapter_goes_with_the_plan() -> None:
    story = serving()
    story.given("chat", load(1, "8GiB", lora=True))
    assert answers(story) == {"poet", "sql"}
    assert any(isinstance(event, ModelAssigned) for event in story.settles())
    assert answers(story) == {"sql"}
    assert due(story, "chat-0") == [("UnloadAdapter", "poet")]


def test_engines_that_take_no_adapters_any_more_take_all_of_them_away() -> None:
    story = again(serving(), lora=False)
    assert story.model().adapters == {}
    assert answers(story) == {"poet", "sql"}
    story.runs("chat-1").settles()
    assert answers(story) == set()


def test_an_adapter_from_another_source_was_loaded_at_run_time() -> None:
    story = serving()
    story.given("chat", AdapterLoadRequested("poet", "/better"))
    in_place(story, "chat-0", "poet")
    again(story, **CHANGED)
    assert story.model().adapters == {"poet": "/better", "sql": "/sql"}
    assert story.model().leaving == {}


def test_what_is_kept_is_not_read_anew() -> None:
    story = serving()
    before = story.model().offers["sql"]
    again(story, adapters=POET)
    assert story.model().offers["sql"] == before
    assert story.model().offers["poet"].pending


def test_a_change_that_is_taken_back_takes_no_adapter() -> None:
    story = again(serving(), **CHANGED)
    story.given("chat-1", EngineFailed("ValueError: no", 1, attempt=3))
    assert any(isinstance(event, ModelRolledBack) for event in story.settles())
    model = story.model()
    assert model.adapters == {"poet": "/poet", "sql": "/sql"}
    assert model.leaving == {}
    assert model.spec.adapters == POET
    assert answers(story) == {"poet", "sql"}
    assert story.replica("chat-0").launch == model.launch, "its engine goes on as it is"


def test_a_change_that_fits_nowhere_takes_no_adapter() -> None:
    story = serving()
    story.given("chat", load(1, "79GiB", **CHANGED))
    story.settles()
    assert story.model().unschedulable
    assert answers(story) == {"poet", "sql"}


def test_an_adapter_that_leaves_can_be_asked_for_again_or_taken_off() -> None:
    story = again(serving(), **CHANGED)
    assert rejection_reason(story.state, "chat", AdapterUnloadRequested("poet")) is None
    story.given("chat", AdapterUnloadRequested("poet"))
    assert answers(story) == {"sql"}
    story = again(serving(), **CHANGED)
    story.given("chat", AdapterLoadRequested("poet", "/poet"))
    assert story.model().leaving == {}
    assert "poet" in story.model().adapters
    story = again(serving(), **CHANGED)
    again(story, adapters=POET)
    assert (story.model().leaving, "poet" in story.model().adapters) == ({}, True)


def test_what_leaves_is_not_loaded_in_another_version_before_it_goes() -> None:
    story = serving()
    story.given("chat", AdapterLoadRequested("poet", "/poet"))  # its files have changed
    assert story.model().offers["poet"].pending
    again(story, **CHANGED)
    assert set(story.model().leaving) == {"poet"}
    assert not story.model().offers["poet"].pending
    assert "poet" in answers(story)


def test_a_second_change_before_the_first_is_there_keeps_what_leaves() -> None:
    story = again(again(serving(), **CHANGED), options={"seed": 2})
    assert story.model().leaving == {"poet": "/poet"}
    assert answers(story) == {"poet", "sql"}


def test_nothing_that_never_answered_is_kept() -> None:
    story = Story().given("c1", ClusterFounded("", ADAPTERS_STAY)).given("n1", gpus(80))
    story.given("chat", load(1, "8GiB", adapters=POET))
    again(story, **CHANGED)
    assert story.model().leaving == {}
    assert "poet" not in story.state.names


def test_a_model_that_is_to_have_no_replica_keeps_no_name_for_them() -> None:
    story = again(serving(), **CHANGED)
    story.given("chat", load(0, "8GiB", **CHANGED)).settles()
    for replica in list(story.state.replicas):
        story.stops(replica)
    assert story.model().leaving == {}
    assert "poet" not in story.state.names


def test_a_name_that_the_model_itself_takes_is_the_model() -> None:
    story = again(serving(), name="poet")
    assert story.state.names["poet"] == NameBinding("chat")
    assert "poet" not in story.model().leaving


def test_views_tell_that_it_goes() -> None:
    story = again(serving(), **CHANGED)
    stood = adapter_status(story.state, story.model(), "poet")
    assert (stood.source, stood.loaded, stood.serving, stood.waiting) == ("/poet", 1, 1, ())
    assert "the last load request does not name it" in stood.reason


def test_what_a_request_does_to_adapters_is_told() -> None:
    story = serving()
    before = story.state
    story.given("chat", load(1, "8GiB", **CHANGED))
    assert changed(before, story.state, "chat") == (
        "option seed: not set -> 1",
        "adapter poet: /poet -> not set",
        "adapter sql, loaded at run time: stays",
    )
    story = serving()
    before = story.state
    story.given("chat", load(1, "8GiB", lora=False))
    assert (
        changed(before, story.state, "chat")[-1] == "adapter sql, loaded at run time: is unloaded"
    )


@pytest.mark.parametrize("version", range(ADAPTERS_STAY))
def test_older_logs_mean_what_they_meant(version: int) -> None:
    story = again(serving(version), **CHANGED)
    assert (story.model().adapters, story.model().leaving) == ({}, {})
    assert "sql" not in story.state.names


@given(st.lists(intents, max_size=12))
@example([("a", load(1, "8GiB", **CHANGED)), ("a", ModelUnloadRequested())])
def test_every_name_of_an_adapter_is_wanted_or_leaving(
    said: list[tuple[str, ModelLoadRequested]],
) -> None:
    story = serving()
    for identity, event in said:
        story.append({"a": "chat"}.get(identity, identity), event)
        story.settles()
        for model in story.state.models.values():
            named = {
                name
                for name, each in story.state.names.items()
                if each.adapter and each.model == model.id
            }
            assert named == set(model.adapters) | set(model.leaving)
            assert not set(model.adapters) & set(model.leaving)
            assert set(model.offers) == named
            if model.leaving and not model.unloading:
                assert any(each.serving for each in story.state.replicas_of(model))
    assert snapshot.load(snapshot.dump(story.state)) == story.state


def told_of(story: Story, **fields: object) -> tuple[str, ...]:
    before = story.state
    story.given("chat", load(1, "8GiB", **fields))
    return changed(before, story.state, "chat")


def test_what_was_unloaded_since_is_not_told_as_changed() -> None:
    story = serving().given("chat", AdapterUnloadRequested("poet"))
    assert told_of(story, lora=True) == ("adapter sql, loaded at run time: stays",)
    text = describe(story.log[-1], story.at(len(story.log) - 1))
    assert text.endswith("; that changes: adapter sql, loaded at run time: stays")
    assert "poet" not in text


def test_engines_that_go_on_taking_adapters_are_not_told_as_changed() -> None:
    story = serving().given("chat", AdapterUnloadRequested("sql"))
    assert told_of(story, lora=True, adapters=POET) == ()
    story = serving()
    assert told_of(story, lora=False) == (
        "takes LoRA adapters: yes -> no",
        "adapter poet: /poet -> not set",
        "adapter sql, loaded at run time: is unloaded",
    )


def test_an_adapter_is_told_from_where_it_is_not_from_where_it_was_asked_first() -> None:
    story = serving().given("chat", AdapterLoadRequested("poet", "/better"))
    assert told_of(story, adapters=(Adapter("poet", "/best"),)) == (
        "adapter poet: /better -> /best",
        "adapter sql, loaded at run time: stays",
    )
    story = serving()
    assert told_of(story, adapters=(*POET, Adapter("sql", "/sql"))) == ()
