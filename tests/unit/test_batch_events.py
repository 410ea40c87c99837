"""A batch as the log tells of it: its first end counts, and later reports change nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events import evolve_batch
from nebula.events.batch_facts import (
    BatchCancelled,
    BatchFinished,
    BatchProgressed,
    BatchStarted,
    Problem,
)
from nebula.events.intents import BatchCancelRequested, BatchRequested
from nebula.events.validation import rejection_reason
from nebula.events.version import BATCHES
from nebula.events.vocabulary import BatchEvent, ClusterFounded
from nebula.history.batch_story import batch_verdict
from nebula.history.description import describe
from tests.unit.story import SECOND, Story

ASKED = BatchRequested("file-1", "/v1/chat/completions", window=3600.0)
DONE = BatchFinished("completed", 9, 1, "file-2", "file-3")


def begun(*events: BatchEvent) -> Story:
    return Story().given("c1", ClusterFounded("lab", BATCHES)).given("b1", ASKED, *events)


def test_a_batch_goes_from_its_request_to_its_results() -> None:
    story = begun()
    batch = story.state.batches["b1"]
    assert (batch.phase, batch.created_ns) == ("validating", 2 * SECOND)
    assert batch.expires_ns == 3602 * SECOND
    batch = story.given("b1", BatchStarted(10)).state.batches["b1"]
    assert (batch.phase, batch.lines, batch.started_ns) == ("in_progress", 10, 3 * SECOND)
    batch = story.given("b1", BatchProgressed(4, 1)).state.batches["b1"]
    assert (batch.completed, batch.failed, batch.over) == (4, 1, False)
    batch = story.given("b1", DONE).state.batches["b1"]
    assert (batch.phase, batch.completed, batch.failed) == ("completed", 9, 1)
    assert (batch.output, batch.errors, batch.finished_ns) == ("file-2", "file-3", 5 * SECOND)
    assert batch.over


def test_a_batch_that_is_cancelled_keeps_what_there_is() -> None:
    story = begun(BatchStarted(10), BatchCancelRequested())
    assert story.state.batches["b1"].phase == "cancelling"
    batch = story.given("b1", BatchCancelled(3, 0, "file-2")).state.batches["b1"]
    assert (batch.phase, batch.completed, batch.output) == ("cancelled", 3, "file-2")


def test_a_batch_that_is_cancelled_at_once_does_not_start() -> None:
    story = begun(BatchCancelRequested(), BatchStarted(10))
    assert story.state.batches["b1"].phase == "cancelling"


def test_a_late_report_takes_no_progress_back() -> None:
    batch = begun(BatchProgressed(5, 2), BatchProgressed(3, 1)).state.batches["b1"]
    assert (batch.completed, batch.failed) == (5, 2)


FACTS: tuple[BatchEvent, ...] = (
    BatchStarted(10),
    BatchProgressed(3, 0),
    BatchCancelRequested(),
    DONE,
    BatchFinished("expired", 1, 0, "file-8"),
    BatchFinished("failed", problems=(Problem("empty_file", "there is no line"),)),
    BatchCancelled(2, 0, "file-9"),
)
_ENDS = BatchFinished | BatchCancelled


@given(st.lists(st.sampled_from(FACTS), max_size=12))
def test_the_first_end_counts_and_nothing_changes_it(events: list[BatchEvent]) -> None:
    story = begun()
    ended = None
    for event in events:
        batch = story.given("b1", event).state.batches["b1"]
        if ended is None and isinstance(event, _ENDS):
            ended = batch
            assert (batch.output, batch.completed) == (event.output, event.completed)
        if ended is not None:
            assert batch == ended
        assert batch.over == (ended is not None)


def test_facts_about_an_unknown_batch_change_nothing() -> None:
    story = Story().given("c1", ClusterFounded("lab", BATCHES))
    for fact in (BatchStarted(1), DONE, BatchCancelled()):
        assert not story.given("none", fact).state.batches
    assert not story.state.rejections


@pytest.mark.parametrize(
    ("identity", "event", "says"),
    [
        ("b1", ASKED, "there is already a batch 'b1'"),
        ("b2", BatchCancelRequested(), "there is no batch 'b2'"),
    ],
)
def test_what_can_not_be_granted_is_refused(identity: str, event: BatchEvent, says: str) -> None:
    assert rejection_reason(begun().state, identity, event) == says


def test_an_end_can_be_asked_for_once() -> None:
    story = begun(BatchCancelRequested())
    says = "batch 'b1' is already cancelling"
    assert rejection_reason(story.state, "b1", BatchCancelRequested()) == says
    says = "batch 'b1' is already cancelled"
    state = story.given("b1", BatchCancelled()).state
    assert rejection_reason(state, "b1", BatchCancelRequested()) == says


def test_an_owner_has_one_batch_with_an_idempotency_key() -> None:
    def asked(owner: str) -> BatchRequested:
        return BatchRequested("file-1", "/v1/embeddings", owner=owner, idempotency="k")

    state = begun().given("b2", asked("one")).state
    assert rejection_reason(state, "b3", asked("two")) is None
    says = "idempotency: it is already that of batch 'b2'"
    assert rejection_reason(state, "b3", asked("one")) == says


def test_an_older_cluster_takes_no_batches() -> None:
    state = Story().given("c1", ClusterFounded("lab", BATCHES - 1)).state
    assert f"cluster version {BATCHES}" in (rejection_reason(state, "b1", ASKED) or "")


def test_the_state_keeps_so_many_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolve_batch, "REMEMBERED", 3)
    monkeypatch.setattr(evolve_batch, "UNFINISHED", 2)
    story = Story().given("c1", ClusterFounded("lab", BATCHES))
    for number in range(6):
        story.given(f"b{number}", ASKED, DONE)
    assert sorted(story.state.batches) == ["b3", "b4", "b5"]
    story.given("b6", ASKED).given("b7", ASKED)
    says = "2 batches are not finished, as many as may be"
    assert rejection_reason(story.state, "b8", ASKED) == says


def test_a_batch_is_told_in_words() -> None:
    story = begun(BatchStarted(10), BatchProgressed(4, 1), BatchCancelRequested(), DONE)
    told = [describe(record) for record in story.log[1:]]
    assert told == [
        "asked to send every line of file-1 to /v1/chat/completions",
        "its input is valid: 10 lines",
        "4 lines completed, 1 failed",
        "asked to cancel it",
        "completed: 9 lines completed, 1 failed",
    ]
    assert batch_verdict(story.state, "b1").headline == (
        "batch b1 is completed: 9 of 10 lines completed, 1 failed"
    )
    assert batch_verdict(story.state, "b1").todo == (
        "`nebula batch results b1` and `nebula batch results b1 --errors` write its results."
    )


def test_what_is_wrong_with_the_input_is_told_line_by_line() -> None:
    problems = (Problem("a", "it is not JSON", 3), Problem("b", "there is no line"))
    state = begun(BatchFinished("failed", problems=problems)).state
    told = batch_verdict(state, "b1")
    assert told.headline == "batch b1 failed: its input is not valid, and no line was sent"
    assert told.behind == ("line 3: it is not JSON", "there is no line")
