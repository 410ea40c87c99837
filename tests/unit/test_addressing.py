"""Which router gets a request: laws of the choice."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.gateway.addressing import (
    HEARD,
    UNHEARD,
    Known,
    choose,
    living,
    silent_with_it,
)

NOW = 1000.0

moments = st.one_of(
    st.floats(NOW - 60, NOW), st.sampled_from([NOW, NOW - HEARD, NOW - HEARD - 0.001])
)


def known(number: int) -> st.SearchStrategy[Known]:
    return st.builds(
        Known,
        name=st.just(f"r{number}"),
        at=moments,
        addressed=st.booleans(),
        untaken=st.integers(0, 3),
        turn=st.integers(0, 9),
        doubted=moments,
    )


def test_a_router_in_doubt_comes_after_one_that_is_not_whichever_is_known_first() -> None:
    sure = Known("sure", NOW, addressed=True, untaken=9, turn=9)
    doubted = Known("doubted", NOW - 1, addressed=True, doubted=NOW)
    heard = Known("heard", NOW, addressed=True, untaken=8, doubted=NOW)
    assert choose([sure, doubted], NOW) is choose([doubted, sure], NOW) is sure
    assert choose([sure, heard], NOW) is heard, "it was heard since"


fleets = st.integers(0, 5).flatmap(lambda count: st.tuples(*map(known, range(count))))
tries = st.sets(st.sampled_from([f"r{number}" for number in range(5)]))


@given(fleets, tries)
def test_a_silent_router_is_never_chosen_and_a_living_one_always_where_there_is_one(
    fleet: tuple[Known, ...], tried: set[str]
) -> None:
    able = [each for each in fleet if each.addressed and living(each, NOW)]
    chosen = choose(fleet, NOW, tried)
    assert chosen in able if able else chosen is None


@given(fleets, tries)
def test_one_that_had_the_request_is_chosen_only_where_no_other_is_left(
    fleet: tuple[Known, ...], tried: set[str]
) -> None:
    able = {each.name for each in fleet if each.addressed and living(each, NOW)}
    chosen = choose(fleet, NOW, tried)
    if chosen is not None and chosen.name in tried:
        assert able <= tried


@given(fleets)
def test_of_those_heard_since_they_were_doubted_it_is_one_with_the_fewest_untaken_requests(
    fleet: tuple[Known, ...],
) -> None:
    trusted = [
        each for each in fleet if each.addressed and living(each, NOW) and each.doubted <= each.at
    ]
    chosen = choose(fleet, NOW)
    if trusted:
        assert chosen is not None
        assert chosen in trusted
        assert chosen.untaken == min(each.untaken for each in trusted)


@given(st.integers(1, 6), st.integers(0, 60))
def test_requests_that_are_taken_at_once_are_shared_out_evenly(routers: int, asked: int) -> None:
    fleet = [Known(f"r{number}", NOW, addressed=True) for number in range(routers)]
    counts: Counter[str] = Counter({each.name: 0 for each in fleet})
    for turn in range(1, asked + 1):
        chosen = choose(fleet, NOW)
        assert chosen is not None
        chosen.turn = turn
        counts[chosen.name] += 1
    assert max(counts.values()) - min(counts.values()) <= 1


@given(fleets, moments)
def test_a_router_is_thought_gone_only_where_it_alone_missed_a_heartbeat_that_was_due(
    fleet: tuple[Known, ...], sent_at: float
) -> None:
    for each in fleet:
        another = any(
            other.addressed and other.at >= sent_at for other in fleet if other is not each
        )
        gone = NOW - sent_at > UNHEARD and each.at < sent_at and another
        assert silent_with_it(fleet, each.name, sent_at, NOW) == gone
    assert not silent_with_it(fleet, "", sent_at, NOW)
    assert not silent_with_it(fleet, "forgotten", sent_at, NOW)
