"""Every failure has its words for clients, history and log; an unknown one is told as it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events.failures import FINISHED, Failure, note, read_note, words

ENDS_AN_ATTEMPT = {
    Failure.ENGINE_FAILED,
    Failure.ENGINE_STOPPED,
    Failure.ENGINE_TIMED_OUT,
    Failure.OTHER_PLAN,
    Failure.OTHER_VERSION,
    Failure.BODY_LOST,
    Failure.TAKEN_BACK,
}


@pytest.mark.parametrize("failure", Failure)
def test_every_failure_has_words_in_which_its_value_is_not_needed(failure: Failure) -> None:
    said = words(failure)
    for text in (said.client, said.history):
        assert len(text.split()) > 2, "a sentence, not a word"
    assert bool(said.ended) == (failure in ENDS_AN_ATTEMPT)


def test_a_failure_of_a_later_version_is_its_own_word() -> None:
    assert words("new-kind") == words("new-kind")
    assert (words("new-kind").client, words("new-kind").history) == ("new-kind", "new-kind")
    assert words("new-kind").ended == ""


@given(st.sampled_from(Failure), st.binary(max_size=40))
def test_what_a_note_says_is_read_from_it(failure: Failure, body: bytes) -> None:
    assert read_note(note(failure, body)) == (failure, body)


@given(st.binary(max_size=40))
def test_a_note_without_a_failure_says_that_the_answer_has_ended_well(body: bytes) -> None:
    assert read_note(note("", body)) == (FINISHED, body)


@given(st.binary(max_size=40))
def test_any_bytes_can_be_read_as_a_note(said: bytes) -> None:
    read_note(said)


def test_values_travel_between_versions_so_none_changes() -> None:
    assert [each.value for each in Failure] == [
        "refused",
        "engine-failed",
        "engine-stopped",
        "timed-out",
        "other-plan",
        "other-version",
        "body-lost",
        "gap",
        "taken-back",
        "not-taken",
        "idle",
        "overdue",
        "nats-lost",
        "too-slow",
        "fatal",
        "cant-continue",
        "stopping",
        "beyond",
        "cancelled",
    ]
