"""What `nebula status` says below its tables: what needs attention, and what mends it."""

from __future__ import annotations

import pytest

from nebula.cli import status_output, tables
from nebula.events.intents import AdapterLoadRequested
from nebula.events.state import State
from nebula.events.vocabulary import AdapterLoadFailed
from nebula.history import attention
from tests.unit.story import Story, cluster, load

Capture = pytest.CaptureFixture[str]


def foot(state: State, capsys: Capture) -> list[str]:
    """Return the lines below the last table, without empty ones."""
    status_output.status(tables.console(), state)
    *_, last = capsys.readouterr().out.split("REASON")
    return [line for line in last.split("\n\n", 1)[1].splitlines() if line]


def serving() -> Story:
    story = cluster(n1=[80]).given("chat", load(1, "8GiB", lora=True))
    story.settles()
    return story.runs("chat-0")


def test_all_is_well_in_one_line(capsys: Capture) -> None:
    state = serving().state
    assert foot(state, capsys) == ["All is well: nothing needs attention.", f"{state.seq} events"]


def test_of_a_model_that_rests_it_is_said_what_wakes_it(capsys: Capture) -> None:
    story = cluster(n1=[80]).given("chat", load(0, "8GiB"))
    story.settles()
    assert "chat: it is scaled to 0 replicas" in foot(story.state, capsys)


def test_each_concern_has_its_event_what_explains_it_and_what_mends_it(capsys: Capture) -> None:
    story = cluster(n1=[8]).given("chat", load(memory="80GiB"))
    story.settles()
    seq = story.model("chat").changed
    what, when, todo, last = foot(story.state, capsys)
    assert what.startswith("needs you: chat is unschedulable, 0 of 1 replicas serve")
    assert when.startswith(f"  since event {seq}")
    assert when.endswith("(`nebula why chat` tells more)")
    assert todo.startswith("  Add a node with a device that has 80.0 GiB free")
    assert "`nebula load " in todo
    assert last.endswith(" events")


def test_an_adapter_that_could_not_be_loaded_is_told_once(capsys: Capture) -> None:
    story = serving().given("chat", AdapterLoadRequested("poet", "/poet"))
    assert "All is well: nothing needs attention." in foot(story.state, capsys)
    story.given("chat-0", AdapterLoadFailed("poet", "/poet", "its rank is too large"))
    said = foot(story.state, capsys)
    assert sum("its rank is too large" in line for line in said) == 1
    assert said[0].startswith("look at it: poet")
    assert "(`nebula why poet` tells more)" in said[1]


def test_no_more_than_a_screen_of_concerns_is_listed(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_output, "LISTED", 2)
    story = cluster(n1=[8])
    for name in ("a", "b", "c", "d"):
        story.given(name, load(memory="80GiB"))
    story.settles()
    said = foot(story.state, capsys)
    assert sum("is unschedulable" in line for line in said) == 2
    assert "and 2 more, which `nebula top` lists" in said


def test_a_survey_lists_the_most_urgent_and_counts_the_others() -> None:
    story = serving()
    for name in ("a", "b"):
        story.given(name, load(memory="800GiB"))
    story.settles()
    found = attention.survey(story.state, 1)
    assert [each.id for each in found.concerns] == ["b"]
    assert found.more == 1
    assert found.phases == {"ready": 1, "unschedulable": 2}
