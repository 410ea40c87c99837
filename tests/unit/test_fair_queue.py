"""In which order requests leave the line in which they wait for a replica."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Iterable
from random import Random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.router.fair_queue import FairQueue, QueuedRequest


def request(
    identity: str,
    user: str = "ann",
    *,
    priority: int = 0,
    adapter: str = "",
    since: float = 0.0,
    until: float = 60.0,
    size: int = 0,
    tenant: str = "",
) -> QueuedRequest:
    return QueuedRequest(identity, user, priority, adapter, since, until, size, tenant)


def line_of(*requests: QueuedRequest) -> FairQueue:
    line = FairQueue()
    for each in requests:
        line.add(each)
    return line


def all_able(adapter: str) -> bool:
    return True


def none_able(adapter: str) -> bool:
    return False


def only(*able: str) -> Callable[[str], bool]:
    return lambda adapter: adapter in able


def served(line: FairQueue, able: Callable[[str], bool] = all_able) -> list[str]:
    """Return the ids of all that can go, in order."""
    order = []
    while (request := line.next(able)) is not None:
        order.append(request.id)
    return order


def served_next(line: FairQueue, able: Callable[[str], bool] = all_able) -> str | None:
    return None if (request := line.next(able)) is None else request.id


def test_an_empty_queue_has_no_request_to_send_and_nothing_to_wait_for() -> None:
    line = FairQueue()
    assert line.next(all_able) is None
    assert line.remove("unknown") is None
    assert line.expired(1e9) == []
    assert (len(line), line.due(), line.oldest()) == (0, None, None)


def test_one_user_is_served_first_come_first_served() -> None:
    assert served(line_of(*map(request, "abc"))) == ["a", "b", "c"]


def test_users_take_turns_however_much_one_of_them_sends() -> None:
    line = line_of(*(request(f"ann-{n}", "ann") for n in range(3)), request("bob-0", "bob"))
    line.add(request("cid-0", "cid"))
    assert served(line) == ["ann-0", "bob-0", "cid-0", "ann-1", "ann-2"]


def test_a_new_user_waits_for_one_turn_of_each_user_before() -> None:
    line = line_of(*(request(f"{user}-{n}", user) for user in ("ann", "bob") for n in range(3)))
    assert served_next(line) == "ann-0"
    line.add(request("cid-0", "cid"))
    assert served(line) == ["bob-0", "ann-1", "cid-0", "bob-1", "ann-2", "bob-2"]


def test_a_user_who_was_just_served_and_asks_again_comes_after_those_who_wait() -> None:
    line = line_of(request("ann-0", "ann"), request("bob-0", "bob"))
    assert served_next(line) == "ann-0"
    line.add(request("ann-1", "ann"))
    assert served(line) == ["bob-0", "ann-1"]


def test_all_of_unknown_users_share_one_turn() -> None:
    line = line_of(request("a", ""), request("b", ""), request("c", "cid"))
    assert served(line) == ["a", "c", "b"]


def test_users_of_one_key_take_turns_within_its_turn() -> None:
    line = line_of(*(request(f"crowd-{n}", "key/crowd") for n in range(3)))
    line.add(request("one", "key/one"))
    line.add(request("other", "bob"))
    assert served(line) == ["crowd-0", "other", "one", "crowd-1", "crowd-2"]


def test_a_key_that_invents_users_gains_nothing() -> None:
    line = line_of(*(request(f"crowd-{n}", f"key/user-{n}") for n in range(4)))
    line.add(request("honest-0", "honest"))
    line.add(request("honest-1", "honest"))
    assert served(line) == ["crowd-0", "honest-0", "crowd-1", "honest-1", "crowd-2", "crowd-3"]


def test_callers_without_a_key_share_one_turn_whatever_they_send_in_its_place() -> None:
    line = line_of(*(request(f"made-up-{n}", f"hash{n}") for n in range(3)))
    line.add(request("own-0", "key:ci"))
    line.add(request("own-1", "key:ci/ann"))
    assert served(line) == ["made-up-0", "own-0", "made-up-1", "own-1", "made-up-2"]


def test_tenants_take_turns_however_many_keys_one_of_them_has() -> None:
    line = line_of(
        *(request(f"a{n}", f"a{n}", tenant="lab") for n in range(3)),
        request("b0", "b", tenant="shop"),
        request("c0", "c"),
        request("b1", "b", tenant="shop"),
    )
    assert served(line) == ["a0", "b0", "c0", "a1", "b1", "a2"]


def test_keys_of_one_tenant_take_turns_and_within_a_key_its_users() -> None:
    line = line_of(
        *(request(f"a{n}", "a/ann", tenant="lab") for n in range(2)),
        request("a2", "a/bob", tenant="lab"),
        request("b0", "b", tenant="lab"),
    )
    assert served(line) == ["a0", "b0", "a2", "a1"]


def test_a_lower_priority_number_goes_first_whichever_user_had_the_last_turn() -> None:
    line = line_of(
        request("batch", "bob", priority=5),
        request("normal", "ann"),
        request("urgent-0", "ann", priority=-1),
        request("urgent-1", "ann", priority=-1),
    )
    assert served(line) == ["urgent-0", "urgent-1", "normal", "batch"]


def test_users_take_turns_in_each_priority_by_itself() -> None:
    line = line_of(
        request("ann-urgent", "ann", priority=-1), request("ann-0", "ann"), request("bob-0", "bob")
    )
    assert served(line) == ["ann-urgent", "ann-0", "bob-0"]


def test_a_request_whose_adapter_can_not_be_served_is_passed_by_the_same_user_s_next() -> None:
    line = line_of(request("a", adapter="sql"), request("b"), request("c", adapter="sql"))
    assert served(line, only("")) == ["b"]
    assert served(line) == ["a", "c"]


def test_a_user_who_can_t_go_now_is_passed_and_keeps_the_turn() -> None:
    line = line_of(
        request("ann-0", "ann", adapter="sql"),
        *(request(f"bob-{n}", "bob") for n in range(3)),
        *(request(f"cid-{n}", "cid") for n in range(3)),
    )
    assert [served_next(line, only("")) for _ in range(3)] == ["bob-0", "cid-0", "bob-1"]
    assert served(line) == ["ann-0", "cid-1", "bob-2", "cid-2"]


def test_a_request_that_can_go_is_not_held_up_by_a_higher_priority_that_can_t() -> None:
    line = line_of(request("urgent", priority=-1, adapter="sql"), request("normal"))
    assert served(line, only("")) == ["normal"]


def test_while_no_adapter_is_able_nothing_changes() -> None:
    line = line_of(request("a", "ann"), request("b", "bob", adapter="sql"))
    assert served(line, none_able) == []
    assert served(line) == ["a", "b"]


def test_a_request_that_waits_already_stays_as_it_is_when_it_is_added_again() -> None:
    line = line_of(request("a", until=5.0), request("b"), request("a", "bob", until=9.0))
    assert len(line) == 2
    assert line.due() == 5.0
    assert line.next(all_able) == request("a", until=5.0)


def test_a_request_that_went_and_comes_back_is_again_the_first_of_its_user() -> None:
    line = line_of(*(request(f"a-{n}", since=float(n)) for n in range(3)))
    first = line.next(all_able)
    assert first is not None
    line.add(first)
    assert served(line) == ["a-0", "a-1", "a-2"]


def test_a_removed_request_is_given_back_once_and_never_served() -> None:
    line = line_of(request("a"), request("b"))
    assert line.remove("a") == request("a")
    assert line.remove("a") is None
    assert "a" not in line
    assert served(line) == ["b"]


def test_a_cancelled_request_does_not_cost_its_user_the_turn() -> None:
    line = line_of(request("a-0", "ann"), request("b-0", "bob"), request("a-1", "ann"))
    line.remove("a-0")
    assert served(line) == ["a-1", "b-0"]


def test_a_user_whose_requests_were_all_served_comes_back_as_the_last() -> None:
    line = line_of(request("a-0", "ann"), request("b-0", "bob"))
    line.remove("a-0")
    line.add(request("a-1", "ann"))
    assert served(line) == ["b-0", "a-1"]


def test_an_emptied_line_takes_no_more_memory_than_a_new_one() -> None:
    line = line_of(
        *(request(f"{n}", f"{n}", priority=n % 7, adapter=f"{n % 5}") for n in range(100))
    )
    for n in range(0, 100, 2):
        line.remove(f"{n}")
    served(line)
    assert len(pickle.dumps(line)) == len(pickle.dumps(FairQueue()))


def test_requests_are_given_up_at_their_time_and_not_before() -> None:
    line = line_of(request("a", until=9.0), request("b", until=3.0), request("c", until=5.0))
    assert line.due() == 3.0
    assert line.expired(2.9) == []
    assert [each.id for each in line.expired(5.0)] == ["b", "c"]
    assert line.due() == 9.0
    assert served(line) == ["a"]


def test_the_oldest_is_the_longest_waiting_in_any_priority() -> None:
    line = line_of(request("a", since=4.0), request("b", "bob", priority=9, since=2.0))
    assert line.oldest() == 2.0
    line.remove("b")
    assert line.oldest() == 4.0


def test_each_adapter_is_asked_about_at_most_once_however_many_wait() -> None:
    asked: list[str] = []

    def able(adapter: str) -> bool:
        asked.append(adapter)
        return adapter == "last"

    line = line_of(*(request(f"a-{n}", f"user-{n}", adapter=f"{n % 3}") for n in range(30)))
    line.add(request("b", adapter="last"))
    assert served_next(line, able) == "b"
    assert max(Counter(asked).values()) == 1


def test_when_the_first_can_go_no_other_is_asked_about() -> None:
    asked: list[str] = []

    def able(adapter: str) -> bool:
        asked.append(adapter)
        return True

    line = line_of(request("a"), *(request(f"b-{n}", adapter=f"{n}") for n in range(9)))
    assert served_next(line, able) == "a"
    assert asked == [""]


class Naive:
    """What a line is, told slowly: a list that is sorted each time."""

    def __init__(self, waiting: Iterable[tuple[int, QueuedRequest]] = ()) -> None:
        self.waiting = list(waiting)
        self.turns: dict[tuple[int, str], int] = {}  # of a key, and of a key with its user
        self.steps = 0

    def copy(self) -> Naive:
        copy = Naive(self.waiting)
        copy.turns, copy.steps = dict(self.turns), self.steps
        return copy

    def add(self, request: QueuedRequest) -> None:
        if all(request.id != each.id for _, each in self.waiting):
            self.steps += 1
            self.waiting.append((self.steps, request))
            for turn in turns_of(request):
                self.turns.setdefault(turn, self.steps)

    def take(self, taken: list[QueuedRequest]) -> list[QueuedRequest]:
        self.waiting = [each for each in self.waiting if each[1] not in taken]
        here = {turn for _, each in self.waiting for turn in turns_of(each)}
        self.turns = {key: turn for key, turn in self.turns.items() if key in here}
        return taken

    def remove(self, identity: str) -> QueuedRequest | None:
        found = self.take([each for _, each in self.waiting if each.id == identity])
        return found[0] if found else None

    def next(self, able: Callable[[str], bool]) -> QueuedRequest | None:
        order = sorted(
            (
                each.priority,
                *(self.turns[turn] for turn in turns_of(each)),
                each.since,
                arrival,
                each.id,
            )
            for arrival, each in self.waiting
            if able(each.adapter)
        )
        if not order:
            return None
        first = next(each for _, each in self.waiting if each.id == order[0][-1])
        self.steps += 1
        self.turns |= dict.fromkeys(turns_of(first), self.steps)
        return self.take([first])[0]

    def expired(self, now: float) -> list[QueuedRequest]:
        return self.take([each for _, each in self.waiting if each.until <= now])


def turns_of(request: QueuedRequest) -> tuple[tuple[int, str], tuple[int, str]]:
    """Return whose turns a request takes: its key's, and within it its user's."""
    key, _, user = request.user.partition("/")
    return (request.priority, key), (request.priority, f"{key}/{user}")


ADAPTERS = ("", "sql", "poet")
identities = st.integers(0, 11).map(str)
moments = st.integers(0, 9).map(float)
requests = st.builds(
    QueuedRequest,
    id=identities,
    user=st.sampled_from(["", "ann", "bob", "ann/x", "ann/y", "bob/x", "/x", "/y"]),
    priority=st.integers(-1, 1),
    adapter=st.sampled_from(ADAPTERS),
    since=moments,
    until=moments,
)
steps = st.lists(
    st.one_of(
        requests,
        requests,
        st.frozensets(st.sampled_from(ADAPTERS)),  # which are able as the next is asked for
        identities,  # one to remove
        moments,  # a time at which some are given up
    ),
    max_size=60,
)
different = st.lists(requests, max_size=12, unique_by=lambda each: each.id)


@given(steps)
def test_after_any_history_a_line_is_what_a_list_sorted_each_time_would_be(
    history: list[QueuedRequest | frozenset[str] | str | float],
) -> None:
    line, naive = FairQueue(), Naive()
    for step in history:
        match step:
            case QueuedRequest():
                line.add(step)
                naive.add(step)
            case frozenset():
                assert line.next(step.__contains__) == naive.next(step.__contains__)
            case str():
                assert line.remove(step) == naive.remove(step)
            case float():
                expired = line.expired(step)
                assert [each.until for each in expired] == sorted(each.until for each in expired)
                assert set(expired) == set(naive.expired(step))
        waiting = [each for _, each in naive.waiting]
        assert len(line) == len(waiting)
        assert line.size == sum(each.size for each in waiting)
        assert line.due() == min((each.until for each in waiting), default=None)
        assert line.oldest() == min((each.since for each in waiting), default=None)
        for each in waiting:
            assert each.id in line
    order = line.order()
    assert served(line) == served_by(naive) == order


def served_by(naive: Naive) -> list[str]:
    order = []
    while (request := naive.next(all_able)) is not None:
        order.append(request.id)
    return order


@given(different, st.lists(st.frozensets(st.sampled_from(ADAPTERS)), max_size=30))
def test_no_request_is_lost_and_none_is_served_twice(
    known: list[QueuedRequest], able: list[frozenset[str]]
) -> None:
    line = line_of(*known)
    early = [first.id for now in able if (first := line.next(now.__contains__))]
    assert sorted(early + served(line)) == sorted(each.id for each in known)
    assert len(line) == 0


@given(different, st.sets(st.sampled_from(ADAPTERS)))
def test_no_request_goes_while_one_of_a_lower_priority_number_could(
    known: list[QueuedRequest], able: set[str]
) -> None:
    line = line_of(*known)
    priorities = [first.priority for first in iter(lambda: line.next(able.__contains__), None)]
    assert priorities == sorted(each.priority for each in known if each.adapter in able)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.randoms())
def test_while_all_users_have_something_waiting_each_gets_one_of_as_many_turns_as_they_are(
    sent: list[int], random: Random
) -> None:
    known = [
        request(f"{user}-{n}", f"{user}") for user, count in enumerate(sent) for n in range(count)
    ]
    random.shuffle(known)
    line = line_of(*known)
    users = [identity.partition("-")[0] for identity in served(line)]
    k = len(sent)
    for start in range((min(sent) - 1) * k + 1):
        assert len(set(users[start : start + k])) == k


@given(different)
def test_one_user_s_requests_of_one_priority_never_overtake_each_other(
    known: list[QueuedRequest],
) -> None:
    came = {each.id: number for number, each in enumerate(known)}
    timed = {each.id: msgspec.structs.replace(each, since=float(came[each.id])) for each in known}
    order = served(line_of(*timed.values()))
    by_user: dict[tuple[str, int], list[int]] = {}
    for identity in order:
        each = timed[identity]
        by_user.setdefault((each.user, each.priority), []).append(came[identity])
    assert all(numbers == sorted(numbers) for numbers in by_user.values())
