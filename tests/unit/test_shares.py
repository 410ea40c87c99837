"""No user takes more than a share of what all have, and each gets it again in time."""

from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.gateway.shares import Shares

WISHES = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 60), st.integers(0, 28)), max_size=60
)


@given(WISHES)
def test_no_owner_has_more_than_its_share_whatever_the_others_take(
    wishes: list[tuple[str, int, int]],
) -> None:
    shares, now = Shares(most=100, lasts=10.0), 0.0
    taken: list[tuple[float, str, int]] = []
    for owner, size, pause in wishes:
        now += pause / 4
        has = sum(each[2] for each in taken if each[1] == owner and each[0] > now - 10)
        wait = shares.wait(owner, size, now)
        assert (wait == 0) == (has + size <= 100)
        if not wait:
            shares.take(owner, size, now)
            taken.append((now, owner, size))
            continue
        later = now + wait
        left = sum(each[2] for each in taken if each[1] == owner and each[0] > later - 10)
        assert left + size <= 100


def test_what_is_over_is_forgotten() -> None:
    shares = Shares(most=10, lasts=10.0)
    for number in range(1000):
        shares.take(f"owner {number}", 1, float(number))
    assert shares.wait("owner 1", 10, 2000.0) == 0
    assert not shares._taken
    assert not shares._order


@given(st.integers(0, 400), st.integers(0, 40))
def test_after_the_wait_that_it_is_told_an_owner_gets_what_it_asked_for(
    began: int, later: int
) -> None:
    shares = Shares(most=10, lasts=10.0)
    shares.take("a", 10, began / 4)
    now = (began + later) / 4
    wait = shares.wait("a", 10, now)
    assert shares.wait("a", 10, now + wait) == 0
    assert wait < 11


def test_a_claim_counts_until_it_is_forgotten_and_no_longer() -> None:
    shares = Shares(most=10, lasts=10.0)
    shares.take("a", 10, 100.0)
    assert shares.wait("a", 1, 109.75) == 1
    assert shares.wait("a", 1, 110.0) == 0
