"""Pauses before a child process is started again."""

from hypothesis import given
from hypothesis import strategies as st

from nebula.cli.restarting import LONGEST, pause_after

SECONDS = st.floats(0, 1e6)


def test_it_doubles_up_to_a_bound() -> None:
    pauses = [0.0]
    for _ in range(7):
        pauses.append(pause_after(1.0, pauses[-1]))
    assert pauses[1:] == [0.5, 1, 2, 4, 8, LONGEST, LONGEST]


@given(SECONDS)
def test_one_that_has_lasted_is_started_soon(last: float) -> None:
    assert pause_after(31.0, last) == 0.25


@given(SECONDS, SECONDS)
def test_there_is_always_a_pause_and_never_a_long_one(lived: float, last: float) -> None:
    assert 0 < pause_after(lived, last) <= LONGEST
