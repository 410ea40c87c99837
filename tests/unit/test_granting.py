"""What routers lend: never more than a replica may have, whatever is late, lost or given back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct, field

from nebula.actors.router import granting
from nebula.actors.router.granting import FORGOTTEN, SMALL, Holder, Room
from nebula.events.leases import TERM, Wanted

REPLICA = "chat-0"
GATEWAYS = ("a", "b", "c")


class _Gateway(Struct):
    """A gateway as it is: what it may use by what has reached it, and what it has sent."""

    serial: int = 0
    floor: int = 1
    credits: int = 0
    until: float = 0.0
    in_flight: int = 0
    sent_at: dict[int, float] = field(default_factory=dict)
    under_way: list[tuple[int, int]] = field(default_factory=list)


class _World:
    """One router, three gateways, one replica; messages are delivered when told to, or never."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.now = 0.0
        self.gateways = {name: _Gateway() for name in GATEWAYS}
        self.holders: dict[str, Holder] = {}

    def report(self, name: str, most: int, *, lost: bool, give_back: bool) -> None:
        gateway = self.gateways[name]
        gateway.serial += 1
        gateway.sent_at[gateway.serial] = self.now
        if give_back:
            gateway.floor, gateway.credits = gateway.serial, 0
            most = 0
        wanted = Wanted(gateway.floor, most, {REPLICA: gateway.in_flight})
        if lost:
            return
        before = self.holders.get(name, Holder())
        self.holders[name] = granting.told(before, gateway.serial, wanted, self.now)
        room = Room(REPLICA, self.limit, 0)
        lent = granting.lendable(room, self.holders, name, self.now)
        self.holders[name] = granting.granted(self.holders[name], {REPLICA: lent}, self.now)
        gateway.under_way.append((gateway.serial, lent))

    def deliver(self, name: str) -> None:
        gateway = self.gateways[name]
        if not gateway.under_way:
            return
        serial, lent = gateway.under_way.pop(0)
        until = gateway.sent_at[serial] + TERM
        if serial >= gateway.floor and self.now < until:
            gateway.floor, gateway.credits, gateway.until = serial, lent, until

    def use(self, name: str) -> None:
        gateway = self.gateways[name]
        if self.now < gateway.until and gateway.in_flight < gateway.credits:
            gateway.in_flight += 1

    def end(self, name: str) -> None:
        gateway = self.gateways[name]
        gateway.in_flight = max(0, gateway.in_flight - 1)


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(GATEWAYS),
        st.sampled_from(("report", "report", "lost", "back", "deliver", "use", "use", "end")),
        st.integers(0, 40),
        st.sampled_from((0.0, 0.01, 0.3, TERM)),
    ),
    max_size=60,
)


@given(st.integers(1, 40), _STEPS)
def test_gateways_never_may_have_more_than_a_replica_may_have(
    limit: int, steps: list[tuple[str, str, int, float]]
) -> None:
    world = _World(limit)
    for name, what, many, seconds in steps:
        world.now += seconds
        match what:
            case "report" | "lost" | "back":
                world.report(name, many, lost=what == "lost", give_back=what == "back")
            case "deliver":
                world.deliver(name)
            case "use":
                for _ in range(many):
                    world.use(name)
            case "end":
                world.end(name)
        usable = {
            each: gateway.credits if world.now < gateway.until else 0
            for each, gateway in world.gateways.items()
        }
        assert sum(usable.values()) <= max(0, limit - 1)
        for each, credits_left in usable.items():
            if credits_left:
                counted = granting.lent(world.holders[each], REPLICA, world.now)
                assert credits_left <= counted, "the router counts all that may still be used"


@given(
    st.integers(1, 300),
    st.integers(0, 300),
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 300), min_size=1),
)
def test_what_is_lent_and_what_is_there_stay_below_the_limit(
    limit: int, busy: int, wants: dict[str, int]
) -> None:
    room = Room(REPLICA, limit, busy)
    holders = {name: Holder(1, 0.0, most) for name, most in wants.items()}
    for name in holders:
        lent = granting.lendable(room, holders, name, 0.0)
        assert lent == granting.lendable(room, dict(reversed(holders.items())), name, 0.0)
        assert lent == 0 or (limit >= SMALL and wants[name])
        holders[name] = granting.granted(holders[name], {REPLICA: lent}, 0.0)
    taken = granting.taken_up(holders.values(), REPLICA, 0.0)
    assert taken == 0 or busy + taken < limit


def holder(most: int, *, lent: int = 0, running: int = 0, now: float = 0.0) -> Holder:
    told = granting.told(Holder(), 1, Wanted(1, most, {REPLICA: running}), now)
    return granting.granted(told, {REPLICA: lent}, now) if lent else told


def test_gateways_share_by_what_they_want() -> None:
    room = Room(REPLICA, 64, 0)
    holders = {"a": holder(30), "b": holder(10), "c": holder(0)}
    assert granting.lendable(room, holders, "a", 0.0) == 36
    assert granting.lendable(room, holders, "b", 0.0) == 12
    assert granting.lendable(room, holders, "c", 0.0) == 0


def test_a_gateway_gets_little_more_than_it_had_at_a_time() -> None:
    room = Room(REPLICA, 256, 0)
    assert granting.lendable(room, {"a": holder(1)}, "a", 0.0) == 6


def test_a_gateway_gets_nothing_that_another_one_still_holds() -> None:
    room = Room(REPLICA, 16, 0)
    holders = {"a": holder(10, lent=12), "b": holder(10)}
    assert granting.lendable(room, holders, "b", 0.0) == 0
    later = granting.told(holders["a"], 2, Wanted(2, 10, {REPLICA: 5}), 0.5)
    assert granting.lendable(room, {**holders, "a": later}, "b", 0.5) == 6, "it runs five still"


def test_a_small_replica_is_not_lent() -> None:
    room = Room(REPLICA, SMALL - 1, 0)
    assert granting.lendable(room, {"a": holder(1)}, "a", 0.0) == 0


def test_credits_count_until_their_end_or_until_a_report_says_that_they_are_given_back() -> None:
    one = holder(1, lent=5)
    assert granting.lent(one, REPLICA, TERM - 0.1) == 5
    assert granting.lent(one, REPLICA, TERM) == 0
    assert granting.lent(granting.told(one, 2, Wanted(1, 1), 0.1), REPLICA, 0.1) == 5
    assert granting.lent(granting.told(one, 2, Wanted(2, 1), 0.1), REPLICA, 0.1) == 0


def test_an_overtaken_report_changes_nothing() -> None:
    one = granting.told(holder(3, lent=5), 7, Wanted(1, 2), 0.1)
    assert granting.told(one, 6, Wanted(6, 0), 0.2) == one


def test_what_a_gateway_has_counts_without_a_lease_until_it_is_silent_for_long() -> None:
    one = holder(1, running=4)
    assert granting.counted(one, REPLICA, TERM) == 4
    assert not granting.over(one, FORGOTTEN - 0.1)
    assert granting.counted(one, REPLICA, FORGOTTEN) == 0
    assert granting.over(one, FORGOTTEN)
