"""`nebula revert` as a user calls it: what it shows, asks, appends, and what it leaves alone."""

from __future__ import annotations

import json

import pytest

from nebula.events.intents import ModelLoadRequested, ModelScaleRequested, ModelUnloadRequested
from nebula.events.vocabulary import ModelAssigned, ModelUnloaded, NodeDeregistered
from nebula.store import batch
from tests.unit.memory_cluster import MemoryLog, joined, says
from tests.unit.story import Story, cluster, load

BEFORE = 3
"""The sequence at which `chat` has one replica, planned on alpha."""


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> MemoryLog:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB"))
    story.settles()
    assert story.state.seq == BEFORE
    story.given("chat", ModelScaleRequested(2)).settles()
    return joined(monkeypatch, story)


@pytest.mark.parametrize("answer", ["y\n", "yes\n", "Y\n"])
def test_it_appends_what_it_has_shown_once_a_user_says_yes(log: MemoryLog, answer: str) -> None:
    result = says("revert", "--to", str(BEFORE), answer=answer)
    assert result.exit_code == 0, result.output
    shown, question, done = result.output.partition("Append these events? [y/N]")
    assert "ModelScaleRequested, asked for 1 replica" in shown
    assert question
    assert f"done: its last event is {log.story.state.seq}" in done
    assert log.events[0] == ModelScaleRequested(1)
    assert log.actors == [f"revert to {BEFORE}"]


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("\n", 1), ("what?\nno\n", 1), ("", 130)])
def test_it_appends_nothing_unless_a_user_says_yes(log: MemoryLog, answer: str, code: int) -> None:
    """An empty answer is the end of the terminal, as with Ctrl-D."""
    result = says("revert", "--to", str(BEFORE), answer=answer)
    assert (result.exit_code, log.appended) == (code, [])
    assert "ModelScaleRequested" in result.output


def test_with_yes_it_does_not_ask(log: MemoryLog) -> None:
    result = says("revert", "--to", str(BEFORE), "--yes", answer="n\n")
    assert result.exit_code == 0
    assert "Append these events?" not in result.output
    assert log.events[0] == ModelScaleRequested(1)


@pytest.mark.parametrize("yes", [(), ("--yes",)])
def test_a_dry_run_asks_nothing_and_appends_nothing(log: MemoryLog, yes: tuple[str, ...]) -> None:
    result = says("revert", "--to", str(BEFORE), "--dry-run", *yes, answer="y\n")
    assert (result.exit_code, log.appended) == (0, [])
    assert "ModelScaleRequested" in result.output
    assert "Append these events?" not in result.output


def test_as_json_it_needs_to_be_told_beforehand(log: MemoryLog) -> None:
    result = says("revert", "--to", str(BEFORE), "--json", answer="y\n")
    assert (result.exit_code, log.appended) == (2, [])
    shown = json.loads(says("revert", "--to", str(BEFORE), "--json", "--dry-run").stdout)
    assert (shown["appended"], log.appended) == ([], [])
    assert [each["type"] for each in shown["steps"]] == ["ModelScaleRequested", "ModelAssigned"]
    done = json.loads(says("revert", "--to", str(BEFORE), "--json", "--yes").stdout)
    assert done["appended"] == [log.story.state.seq]
    assert log.events[0] == ModelScaleRequested(1)


def test_where_nothing_has_changed_it_does_not_ask(log: MemoryLog) -> None:
    result = says("revert", "--to", str(log.story.state.seq), answer="y\n")
    assert (result.exit_code, log.appended) == (0, [])
    assert "nothing to do: everything is as it was" in result.output
    assert "Append" not in result.output


def test_what_others_append_meanwhile_is_planned_for_and_not_written_over(log: MemoryLog) -> None:
    log.meanwhile = [("other", load(1, "8GiB"))]
    result = says("revert", "--to", str(BEFORE), "--yes")
    assert result.exit_code == 0
    assert set(log.appended[:2]) == {
        ("other", ModelUnloadRequested()),
        ("chat", ModelScaleRequested(1)),
    }
    assert len(log.batches) == 1  # the first try has left nothing


def test_what_cannot_be_brought_back_is_told_and_ends_with_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    story = cluster(alpha=[80], beta=[80]).given("chat", load(2, "8GiB"))
    story.settles()
    then = str(story.state.seq)
    story.given("chat", ModelScaleRequested(1)).settles()
    gone = "beta" if story.model().assignments[0].node == "alpha" else "alpha"
    log = joined(monkeypatch, story.given(gone, NodeDeregistered()))
    result = says("revert", "--to", then, "--dry-run")
    assert (result.exit_code, log.appended) == (0, [])
    assert f"not back on {gone}: the node has left" in result.output
    result = says("revert", "--to", then, answer="y\n")
    assert result.exit_code == 1
    assert ("chat", ModelScaleRequested(2)) in log.appended


def test_a_name_that_is_still_held_is_waited_for_and_then_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB", name="org/chat"))
    story.settles()
    then = str(story.state.seq)
    story.given("chat", ModelUnloadRequested(), ModelUnloaded())
    story.given("new", load(1, "8GiB", name="org/chat"))
    story.settles()
    log = joined(monkeypatch, story.runs("new-0"))

    def ends(story: Story) -> None:
        if "new" in story.state.models and story.model("new").unloading:
            story.stops("new-0").given("new", ModelUnloaded())

    log.reacts = ends
    result = says("revert", "--to", then, "--yes")
    assert "waiting until the models that hold the names are unloaded" in result.output
    assert [type(each) for each in log.events] == [
        ModelUnloadRequested,
        ModelLoadRequested,
        ModelAssigned,
    ]
    assert (result.exit_code, log.batches) == (0, [1, 2])


@pytest.mark.parametrize(("steps", "taken"), [(2, True), (1, False)])
def test_it_appends_as_many_events_as_are_stored_together_and_no_more(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch, steps: int, taken: bool
) -> None:
    monkeypatch.setattr(batch, "LIMIT", steps)  # the way back here has two
    result = says("revert", "--to", str(BEFORE), "--yes")
    assert (result.exit_code == 0, bool(log.appended)) == (taken, taken)
    assert taken or f"2 events are more than the {steps} that are stored together" in result.output
