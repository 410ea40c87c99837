"""Which line is to be logged again."""

from __future__ import annotations

import math

from nebula.store.repetitions import AGAIN, REMEMBERED, Repetitions


def test_a_line_is_said_once_and_again_after_a_while_and_only_so_many_are_remembered() -> None:
    said = Repetitions()
    assert said.due("a", 0)
    assert not said.due("a", AGAIN - 1)
    assert said.due("a", AGAIN)
    assert said.due("b", AGAIN)
    for number in range(2 * REMEMBERED):
        said.due(str(number), 61)
    assert len(said._said) == REMEMBERED


def test_it_counts_what_was_kept_back_since_the_line_was_last_logged() -> None:
    said = Repetitions()
    assert said.since("a", 0.0) == 0
    assert said.since("a", 1.0) is None
    assert said.since("a", 2.0) is None
    assert said.since("a", AGAIN) == 2
    assert said.since("a", 2 * AGAIN) == 0


def test_a_line_that_is_to_be_said_once_stays_so() -> None:
    said = Repetitions()
    assert said.due("a", 0, again=math.inf)
    assert not said.due("a", 1e9, again=math.inf)


def test_a_line_that_is_kept_back_all_the_time_is_not_forgotten_for_it() -> None:
    said = Repetitions()
    said.due("a", 0.0)
    for number in range(2 * REMEMBERED):
        said.due(str(number), 1.0)
        assert not said.due("a", 1.0)
