"""Whose fault a failed request is: evidence against engines, from different requests."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.router.blame import LONGEST_RECOVERY, RECOVERY, Blame

A, B, C = ("chat-0", 7), ("chat-1", 8), ("chat-2", 9)


def test_one_request_is_not_evidence_however_often_it_is_told() -> None:
    blame = Blame()
    for _ in range(5):
        blame.failed(A, "r", 0.0)
    assert not blame.avoids(A, 0.0)


def test_different_requests_are_until_the_first_success() -> None:
    blame = Blame()
    blame.failed(A, "r1", 0.0)
    blame.failed(A, "r2", 0.0)
    assert blame.avoids(A, 0.0)
    assert not blame.avoids(B, 0.0)
    blame.succeeded(A)
    assert not blame.avoids(A, 0.0)
    blame.failed(A, "r3", 0.0)
    assert not blame.avoids(A, 0.0)


def test_a_request_that_fails_on_two_engines_is_at_fault_itself() -> None:
    blame = Blame()
    for request in ("r1", "r2", "r3"):
        blame.failed(A, request, 0.0)
    for request in ("r1", "r2", "r3"):
        blame.failed(B, request, 0.0)
        blame.failed(A, request, 0.0)
    assert not blame.avoids(A, 0.0)
    assert not blame.avoids(B, 0.0)


def test_an_engine_that_was_gone_is_avoided_for_one_request_already() -> None:
    blame = Blame()
    blame.failed(A, "r", 0.0, gone=True)
    assert blame.avoids(A, 0.0)
    assert not blame.avoids(A, RECOVERY)


def test_whatever_tells_of_a_failure_first_it_counts_once() -> None:
    for first, second in ((True, False), (False, True)):
        blame = Blame()
        blame.failed(A, "r", 0.0, gone=first)
        blame.failed(A, "r", 0.0, gone=second)
        blame.failed(A, "r", RECOVERY, gone=True)
        assert not blame.avoids(A, RECOVERY)


def test_with_each_further_request_it_is_avoided_for_longer() -> None:
    blame, pauses = Blame(), []
    blame.failed(A, "first", 0.0)
    now = 0.0
    for number in range(8):
        blame.failed(A, f"r{number}", now)
        began = now
        while blame.avoids(A, now):
            now += 0.5
        pauses.append(now - began)
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]
    assert (pauses[0], pauses[-1]) == (RECOVERY, LONGEST_RECOVERY)


def test_what_failed_before_a_success_is_not_evidence_after_it() -> None:
    blame = Blame()
    blame.failed(A, "r1", 0.0)
    blame.succeeded(A)
    blame.failed(A, "r1", 0.0)
    blame.failed(A, "r2", 0.0)
    assert not blame.avoids(A, 0.0)


def test_the_next_engine_of_a_replica_begins_without_guilt() -> None:
    blame = Blame()
    for request in ("r1", "r2"):
        blame.failed(A, request, 0.0)
    assert not blame.avoids(("chat-0", 70), 0.0)
    blame.forget(A)
    assert not blame.avoids(A, 0.0)


engines = st.sampled_from([A, B, C])
told = st.lists(
    st.tuples(engines, st.integers(0, 9).map(str), st.booleans(), st.booleans()), max_size=60
)


@given(told)
def test_only_so_many_requests_are_remembered_and_the_oldest_do_not_count_any_more(
    said: list[tuple[tuple[str, int], str, bool, bool]],
) -> None:
    blame = Blame(remembered=4)
    for engine, request, gone, success in said:
        if success:
            blame.succeeded(engine)
        else:
            blame.failed(engine, request, 0.0, gone=gone)
        cases = [case for each in blame._suspicions.values() for case in each.cases]
        assert len(blame) <= 4
        assert set(cases) <= set(blame._failed)


@given(told)
def test_nothing_is_avoided_for_requests_that_all_fail_everywhere(
    said: list[tuple[tuple[str, int], str, bool, bool]],
) -> None:
    blame = Blame()
    for engine, request, gone, _ in said:
        blame.failed(engine, request, 0.0, gone=gone)
    for _, request, _, _ in said:
        for engine in (A, B):
            blame.failed(engine, request, 0.0)
    assert not any(blame.avoids(engine, 0.0) for engine in (A, B, C))
