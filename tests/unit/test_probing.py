"""Waiting for what may be away: all until it fails, then one at a time, until it is back."""

from __future__ import annotations

import pytest

from nebula.actors.gateway.probing import Away, Probed


def fails(probed: Probed) -> None:
    with pytest.raises(TimeoutError), probed.asking():
        raise TimeoutError


def test_while_it_answers_everybody_asks_at_once() -> None:
    probed = Probed()
    with probed.asking() as first, probed.asking() as second:
        assert (first, second) == (False, False)
    assert not probed.away


def test_once_it_has_failed_one_finds_out_and_the_others_are_refused_at_once() -> None:
    probed = Probed()
    fails(probed)
    assert probed.away
    with probed.asking() as alone:
        assert alone
        with pytest.raises(Away), probed.asking():
            raise AssertionError("it must not be asked")


def test_it_is_back_with_the_first_answer() -> None:
    probed = Probed()
    fails(probed)
    fails(probed)
    with probed.asking() as alone:
        assert alone
    assert not probed.away
    with probed.asking() as alone:
        assert not alone


def test_one_that_leaves_while_it_finds_out_leaves_that_to_the_next() -> None:
    probed = Probed()
    fails(probed)
    with pytest.raises(KeyboardInterrupt), probed.asking():
        raise KeyboardInterrupt
    with probed.asking() as alone:
        assert alone


def test_what_was_asked_before_it_failed_and_is_answered_after_shows_that_it_is_back() -> None:
    probed = Probed()
    with probed.asking():
        fails(probed)
    assert not probed.away


def test_an_earlier_question_that_fails_lets_no_second_one_find_out() -> None:
    probed, error = Probed(), TimeoutError()
    before = probed.asking()
    assert not before.__enter__()
    fails(probed)
    with probed.asking() as alone:
        assert alone
        assert not before.__exit__(TimeoutError, error, None)
        with pytest.raises(Away), probed.asking():
            raise AssertionError("one finds out already")
    assert not probed.away
