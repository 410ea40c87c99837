"""Which attempts of a request an engine runs, in whatever order they and their ends reach it."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.engine.attempts import REMEMBERED, Attempts

ORDERS = st.permutations([("try", 1), ("try", 2), ("try", 3), ("cancel", 2), ("cancel", 3)])


def test_an_attempt_that_the_next_one_has_overtaken_is_not_run() -> None:
    attempts = Attempts()
    assert attempts.wanted("a", 2)
    assert not attempts.wanted("a", 1, under_way=2)
    assert not attempts.wanted("a", 2, under_way=2), "a copy of it"
    assert attempts.wanted("a", 3, under_way=2)
    assert attempts.wanted("b", 1), "another request"


def test_an_attempt_that_its_cancellation_has_overtaken_is_not_run() -> None:
    attempts = Attempts()
    attempts.forgo("a", 2)
    assert not attempts.wanted("a", 1)
    assert attempts.wanted("a", 2)
    attempts.forgo("a", math.inf)
    attempts.forgo("a", 2)
    assert not attempts.wanted("a", 9), "an older cancellation takes nothing back"


@given(ORDERS)
def test_in_any_order_the_last_attempt_is_run_and_none_after_a_later_one(
    order: list[tuple[str, int]],
) -> None:
    attempts, run = Attempts(), [0]
    for what, number in order:
        if what == "cancel":
            attempts.forgo("a", number)
        elif attempts.wanted("a", number, under_way=run[-1]):
            run.append(number)
    assert run == sorted(set(run))
    assert run[-1] == 3


def test_only_so_many_requests_are_remembered_and_the_latest_are() -> None:
    attempts = Attempts()
    attempts.forgo("a", 2)
    attempts.forgo("b", 2)
    for number in range(REMEMBERED - 2):
        attempts.forgo(str(number), 2)
    attempts.forgo("a", 2)
    attempts.forgo("one more", 2)
    assert not attempts.wanted("a", 1)
    assert attempts.wanted("b", 1)
    assert len(attempts._unwanted_below) == REMEMBERED
