"""Folding in bulk comes to the states of folding entry by entry, and leaves those alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events import folding as folding_module
from nebula.events.evolve import evolve
from nebula.events.folding import Folding, fold
from nebula.events.record import Record
from nebula.events.state import EMPTY, State
from tests.unit import corpus
from tests.unit.story import Story, load, messages

slices = st.lists(st.integers(1, 8), min_size=1)


def one_by_one(log: list[Record]) -> list[State]:
    states = [EMPTY]
    for record in log:
        states.append(evolve(states[-1], record))
    return states


@given(messages, slices, st.booleans())
def test_states_are_the_same_in_whatever_slices_a_log_is_folded(
    said: list[tuple[str, bytes]], sizes: list[int], decided: bool
) -> None:
    story = Story()
    for subject, payload in said:
        story.publish(subject, payload)
        if decided:
            story.decides()
    expected = one_by_one(story.log)
    begin = sizes[0] % (len(story.log) + 1)
    folding, seen = Folding(expected[begin]), {begin: expected[begin]}
    while folding.seq < len(story.log):
        for size in sizes:
            start = folding.seq
            rejected = folding.take(story.log[start : start + size])
            assert [each.seq for each in rejected] == [
                seq for seq in range(start + 1, folding.seq + 1) if seq in expected[seq].rejections
            ]
            seen[folding.seq] = folding.state()
    assert seen == {seq: expected[seq] for seq in seen}


@pytest.mark.parametrize("name", corpus.NAMES)
def test_recorded_logs_fold_to_the_same_in_bulk(name: str) -> None:
    log = list(corpus.records(name))
    assert fold(EMPTY, log) == one_by_one(log)[-1]


@pytest.mark.parametrize("together", [1, 7])
def test_a_log_is_folded_the_same_however_many_entries_are_read_before_they_are_folded(
    monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(folding_module, "_TOGETHER", together)
    log = list(corpus.records(corpus.NAMES[0]))
    assert fold(EMPTY, iter(log)) == one_by_one(log)[-1]


def test_folding_can_go_on_after_its_entries_could_not_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(folding_module, "_TOGETHER", 3)
    log = list(corpus.records(corpus.NAMES[0]))
    expected = one_by_one(log)

    def broken() -> Iterator[Record]:
        yield from log[:8]
        raise ValueError("the file was cut off")

    folding = Folding(EMPTY)
    with pytest.raises(ValueError, match="cut off"):
        folding.take(broken())
    assert folding.state() == expected[folding.seq]
    folding.take(log)
    assert folding.state() == expected[-1]


def test_entries_that_were_folded_before_are_passed_over() -> None:
    log = Story().given("chat", load()).log
    folding = Folding(fold(EMPTY, log))
    before = folding.state()
    assert folding.take(log) == []
    assert folding.state() is before
