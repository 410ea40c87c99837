"""What is counted once for all purses of an allowance is the same as purse by purse."""

from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.gateway.allowance import Allowance, Reservation, settle
from nebula.events.ledger import Meter
from nebula.events.ledger import Tally as Told

METERS = tuple(Meter)
BEGAN = 1_790_000_010.0

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 120)),
        st.tuples(st.just("settle"), st.integers(0, 120)),
        st.tuples(st.just("drop"), st.just(0)),
        st.tuples(st.just("turn"), st.just(0)),
        st.tuples(st.just("look"), st.just(0)),
        st.tuples(st.just("limit"), st.integers(1, 400)),
    ),
    max_size=40,
)
LIMITS = st.dictionaries(st.sampled_from(METERS), st.integers(1, 400), min_size=1)


def allowance(limits: dict[Meter, int]) -> Allowance:
    made = Allowance("g", {meter.value: limit for meter, limit in limits.items()})
    made.until = 1.0
    hold(made, BEGAN)
    return made


def hold(made: Allowance, wall: float) -> None:
    """Let it hold all of its limits in the present windows."""
    for purse in made.purses.values():
        purse.turn(wall)
        purse.held = max(purse.held, purse.limit)


def seen(made: Allowance) -> dict[str, tuple[int, ...]]:
    return {
        meter: (purse.reserved, purse.spent, purse.taken, purse.free, purse.left, purse.epoch)
        for meter, purse in made.purses.items()
    }


@given(LIMITS, STEPS)
def test_it_agrees_with_purses_that_are_looked_at_before_each_request(
    limits: dict[Meter, int], steps: list[tuple[str, int]]
) -> None:
    quick, slow = allowance(limits), allowance(limits)
    running: list[tuple[Reservation, Reservation]] = []
    wall = BEGAN
    for what, number in steps:
        _ = slow.purses  # closes its headroom, so that each purse is changed by itself
        if what == "take":
            taken = quick.headroom.take(number, 0.0, wall)
            lacking = slow.lacks(number, 0.0, wall)
            if taken:
                assert not lacking
                ours: Reservation = [(quick.headroom, number)]
            elif [purse.meter for purse in quick.lacks(number, 0.0, wall)] or lacking:
                assert lacking
                continue
            else:
                ours = [quick.take(number, 0.0, wall)]
            running.append((ours, [slow.take(number, 0.0, wall)]))
        elif what in ("settle", "drop") and running:
            used = number if what == "settle" else None
            for reservation in running.pop(len(running) // 2):
                settle(reservation, used)
        elif what == "turn":
            wall += 60.0
            hold(quick, wall)
            hold(slow, wall)
        elif what == "look":
            assert seen(quick) == seen(slow)
        elif what == "limit":
            changed = {meter.value: number for meter in limits}
            quick.limit(changed)
            slow.limit(changed)
    assert seen(quick) == seen(slow)


@given(LIMITS, st.lists(st.integers(0, 50), max_size=8))
def test_what_is_left_is_that_of_the_purse_with_the_least(
    limits: dict[Meter, int], requests: list[int]
) -> None:
    made = allowance(limits)
    for purse in made.purses.values():
        purse.tally, purse.others = Told(purse.window, purse.limit // 3), purse.limit // 4
    for tokens in requests:
        made.opened().take(tokens, 0.0, BEGAN)
    told = made.opened()
    of_tokens, of_requests = told.of_tokens, told.of_requests
    purses = made.purses.values()
    tokens_left = [purse.left for purse in purses if purse.of_tokens]
    assert (of_tokens and of_tokens[1]) == min(tokens_left, default=None)
    others = [each.left for each in purses if not each.of_tokens and not each.lasting]
    assert (of_requests and of_requests[1]) == (others[0] if others else None)
