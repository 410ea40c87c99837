"""Laws of limits that several gateways share, in worlds with faults; and that they find bugs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.gateway.allowance import Allowance, settle, unwant
from nebula.actors.gateway.purse import Purse
from nebula.events import ledger
from nebula.events.ledger import Account, Lease, Meter, Tally
from tests.unit.ledger_world import STEP, World

SEEDS = st.integers(0, 2**32)
STEPS = 300


@given(SEEDS)
def test_no_limit_is_exceeded_whatever_goes_wrong(seed: int) -> None:
    World(seed).run(STEPS)


@given(SEEDS)
def test_requests_in_flight_are_never_too_many_while_no_gateway_is_suspended(seed: int) -> None:
    World(seed, pauses=False).run(STEPS)


@given(SEEDS)
def test_without_faults_the_account_says_what_was_used(seed: int) -> None:
    world = World(seed, faults=False)
    world.run(STEPS)
    world.calm()
    (begun,) = [begun for meter, begun in world.used if meter == Meter.DAY]
    assert world.account.tallies[Meter.DAY].spent == world.used[Meter.DAY, begun]


@given(SEEDS)
def test_after_the_faults_nothing_is_held_in_vain(seed: int) -> None:
    world = World(seed)
    world.run(STEPS)
    world.calm()
    world.busy = True
    world.step()
    for _ in range(int(30 / STEP)):  # leases expire where the account is in use
        world.step()
    world.calm()
    held = [lease.held for lease in world.account.leases.values()]
    assert not any(held), held


def test_a_gateway_alone_can_use_all_of_a_limit() -> None:
    alone = Allowance("g", {Meter.REQUESTS: 7})
    account, taken, seq, now = ledger.EMPTY, 0, 0, 0.0
    for _ in range(40):
        now += STEP
        if alone.lacks(0, now, 60.0 + now):
            alone.purses[Meter.REQUESTS].wanted = 1
            account, seq = alone.report(account, now, 60.0 + now), seq + 1
            alone.read(account, seq, now)
            alone.purses[Meter.REQUESTS].wanted = 0
        else:
            settle([alone.take(0, now, 60.0 + now)], 0)
            taken += 1
    assert taken == 7
    assert alone.purses[Meter.REQUESTS].remaining == 0


@pytest.mark.parametrize(
    ("meter", "lowered", "more"),
    [
        (Meter.IN_FLIGHT, 6, 2),
        (Meter.IN_FLIGHT, 3, 0),
        (Meter.REQUESTS, 6, 2),
        (Meter.REQUESTS, 2, 0),
    ],
)
def test_a_limit_that_is_lowered_holds_for_what_a_gateway_has_already(
    meter: Meter, lowered: int, more: int
) -> None:
    one = Allowance("g", {meter: 20})
    account, seq, now = ledger.EMPTY, 0, 10.0
    taken = []

    def take() -> bool:
        nonlocal account, seq
        if one.lacks(0, now, 60.0):
            wanted = one.want(0)
            account, seq = one.report(account, now, 60.0), seq + 1
            one.read(account, seq, now)
            unwant(wanted)
        if one.lacks(0, now, 60.0):
            return False
        taken.append([one.take(0, now, 60.0)])
        return True

    assert sum(take() for _ in range(4)) == 4
    one.limit({meter: lowered})
    assert sum(take() for _ in range(4)) == more
    assert one.purses[meter].remaining == 0
    for each in taken:
        settle(each, 1)
    assert take() == (meter == Meter.IN_FLIGHT)


def test_a_report_under_the_limit_before_does_not_let_more_through() -> None:
    one = Allowance("g", {Meter.IN_FLIGHT: 20})
    wanted = one.want(0)
    account = one.report(ledger.EMPTY, 10.0, 60.0)
    one.limit({Meter.IN_FLIGHT: 3})
    one.read(account, 1, 10.0)
    assert one.lacks(0, 10.0, 60.0)
    one.read(one.report(account, 10.0, 60.0), 2, 10.0)
    unwant(wanted)
    assert not one.lacks(0, 10.0, 60.0)


def test_a_lease_is_not_spent_after_its_time() -> None:
    one = Allowance("g", {Meter.IN_FLIGHT: 5})
    one.purses[Meter.IN_FLIGHT].wanted = 3
    one.read(one.report(ledger.EMPTY, 10.0, 60.0), 1, 10.5)
    assert not one.lacks(0, 10.0 + ledger.HOLDS - 0.1, 60.0)
    headroom = one.opened()
    assert headroom.take(0, 10.0 + ledger.HOLDS - 0.1, 60.0)
    assert not headroom.take(0, 10.0 + ledger.HOLDS, 60.0)
    assert one.lacks(0, 10.0 + ledger.HOLDS, 60.0)


def test_what_an_unanswered_report_gives_back_is_not_used_until_it_can_not_count() -> None:
    one = Allowance("g", {Meter.DAY: 5})
    wanted = one.want(4)
    account = one.report(ledger.EMPTY, 10.0, 60.0)
    unwant(wanted)
    one.read(account, 1, 10.0)
    one.report(account, 12.0, 62.0)  # gives all back, and was perhaps stored
    one.read(account, 1, 12.5)
    assert one.lacks(1, 12.5, 62.5)
    one.read(one.report(account, 13.0, 63.0), 2, 13.0)
    assert one.purses[Meter.DAY].free == 0
    assert one.purses[Meter.DAY].remaining == 5


def _frees_what_a_dead_gateway_held(account: Account, holder: str) -> Account:
    leases = {name: lease for name, lease in account.leases.items() if name != holder}
    return Account(account.tallies, leases)


def _keeps_what_it_gives_back(self: Purse, expected: int, *, lent: bool) -> ledger.Entry:
    entry = _entry(self, expected, lent=lent)
    self.returned = 0
    return entry


_entry = Purse.entry

BUGS: dict[str, tuple[object, str, object]] = {
    "what a dead gateway held is free again": (
        ledger,
        "expired",
        _frees_what_a_dead_gateway_held,
    ),
    "what is given back is used meanwhile": (Purse, "entry", _keeps_what_it_gives_back),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*BUGS[bug])

    def found(seed: int) -> bool:
        try:
            World(seed, loss=0.25).run(STEPS)
        except AssertionError:
            return True
        return False

    assert any(map(found, range(300)))


def test_what_is_used_is_of_the_present_window_and_of_gateways_that_report() -> None:
    noon = 1_790_000_000 // 86_400 * 86_400 + 43_200
    account = Account(
        {
            Meter.REQUESTS: Tally(noon, 7),
            Meter.DAY: Tally(noon - 43_200, 500),
            Meter.IN_FLIGHT: Tally(),
        },
        {
            "a": Lease(1, {Meter.DAY: 90, Meter.IN_FLIGHT: 3}, {Meter.DAY: 40, Meter.IN_FLIGHT: 2}),
            "b": Lease(1, {Meter.IN_FLIGHT: 1}, {Meter.IN_FLIGHT: 1}),
        },
    )
    seen = ledger.used(account, noon + 59.0, 2.0)
    assert seen == {Meter.REQUESTS: 7, Meter.DAY: 540, Meter.IN_FLIGHT: 3}
    assert ledger.used(account, noon + 61.0, 2.0)[Meter.REQUESTS] == 0
    assert ledger.used(account, noon + 86_400.0, 2.0)[Meter.DAY] == 0
    silent = ledger.used(account, noon + 59.0, ledger.EXPIRES)
    assert silent == {Meter.REQUESTS: 7, Meter.DAY: 590, Meter.IN_FLIGHT: 0}
