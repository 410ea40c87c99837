"""When a gateway refuses what it could not answer in time."""

from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.gateway.admission import CROWD, INTERVAL, TARGET, Admission

LATE = TARGET + 0.5


def behind(*waits: float, waiting: int = CROWD) -> bool:
    """Return whether what comes after an interval with these waits is refused."""
    admission = Admission()
    admission.waiting = waiting
    for wait in waits:
        admission.taken(wait, 0.0)
    return admission.refuses(INTERVAL)


def test_one_that_is_taken_on_in_time_shows_that_the_others_were_only_lost() -> None:
    assert behind(LATE, LATE)
    assert not behind(LATE, TARGET, LATE)


def test_few_may_wait_for_however_long() -> None:
    assert not behind(LATE, waiting=CROWD - 1)


def test_an_interval_without_new_requests_changes_nothing() -> None:
    assert not behind()
    admission = Admission()
    admission.waiting = CROWD
    admission.taken(LATE, 0.0)
    assert [admission.refuses(INTERVAL * turn) for turn in (1, 2, 3)] == [True] * 3
    admission.taken(TARGET, INTERVAL * 3.5)
    assert not admission.refuses(INTERVAL * 4)


@given(st.lists(st.floats(0, 10), min_size=1))
def test_the_shortest_wait_is_what_counts(waits: list[float]) -> None:
    assert behind(*waits) == (min(waits) > TARGET)


def test_each_interval_is_judged_by_its_own_requests() -> None:
    admission = Admission()
    admission.waiting = CROWD
    admission.taken(0.1, 0.0)
    assert not admission.refuses(1.1)
    admission.taken(5.0, 1.2)
    assert admission.refuses(2.3), "all were late, whatever was in time before"
    assert admission.refuses(3.5), "nothing was taken on, which says nothing"
    admission.taken(0.1, 3.6)
    assert not admission.refuses(4.7)
