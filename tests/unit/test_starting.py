"""A start may take as long as it shows that it gets on, and no longer."""

from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.node.starting import AT_MOST, LONGEST_LOOK, Patience

LIMIT = 60.0


def ended(patience: Patience, seconds: int, *, size: int = 0, grows: bool = False) -> float:
    """Look once a second; return when the start was to be ended, 0 if never."""
    for now in range(1, seconds + 1):
        if patience.look(float(now), size + now * grows):
            return now
    return 0


def test_one_that_writes_nothing_is_ended_after_the_limit() -> None:
    assert ended(Patience(LIMIT, 0.0), 1000) == LIMIT + 1


def test_one_that_goes_on_writing_is_ended_after_many_times_the_limit() -> None:
    assert ended(Patience(LIMIT, 0.0), 10_000, grows=True) == AT_MOST * LIMIT + 1


def test_without_a_limit_it_may_take_for_ever() -> None:
    assert ended(Patience(0.0, 0.0), 10_000) == 0


def test_a_line_begins_the_time_anew_also_when_the_log_was_turned_over() -> None:
    patience = Patience(LIMIT, 0.0)
    sizes = [100, 100, 5, 5]
    for now, size in zip((50.0, 55.0, 60.0, 65.0), sizes, strict=True):
        assert patience.look(now, size) == ""


@given(st.lists(st.floats(0, 1e6), max_size=20))
def test_time_in_which_the_node_itself_stood_still_counts_little(pauses: list[float]) -> None:
    patience, now = Patience(LONGEST_LOOK * 30, 0.0), 0.0
    for pause in pauses:
        now += pause
        assert patience.look(now, 0) == ""
