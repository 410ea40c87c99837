"""What a gateway may hold for its clients: bodies of requests, and answers that are not read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.gateway.budget import Budget, Hold, Unread
from nebula.http.bodies import ClientLeft, read_body
from nebula.http.errors import ApiError

pytestmark = pytest.mark.anyio


def test_what_fits_is_held_and_what_does_not_is_not() -> None:
    budget = Budget(100)
    one, two = Hold(budget), Hold(budget)
    assert one.grow(60)
    assert not two.grow(60)
    assert (budget.used, two.size) == (60, 0)
    assert two.grow(40)
    one.release()
    one.release()
    assert budget.used == 40


def test_the_first_fits_however_large_it_is() -> None:
    budget = Budget(10)
    assert Hold(budget).grow(11)
    assert not Hold(budget).grow(1)


def test_what_is_handed_on_is_released_once() -> None:
    budget = Budget(100)
    one = Hold(budget)
    one.grow(60)
    other = one.handed_on()
    one.release()
    assert budget.used == 60
    other.release()
    assert budget.used == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40), st.booleans()), max_size=60))
def test_a_budget_is_never_overdrawn_by_a_second_and_ends_with_nothing(
    steps: list[tuple[int, int, bool]],
) -> None:
    budget = Budget(100)
    holds = [Hold(budget) for _ in range(6)]
    for number, size, releases in steps:
        if releases:
            holds[number].release()
        else:
            holds[number].grow(size)
        assert budget.used == sum(each.size for each in holds)
        assert budget.used <= 100
    for each in holds:
        each.release()
    assert budget.used == 0


def test_of_unread_answers_the_slowest_is_named() -> None:
    unread = Unread(10)
    unread.count("first", 4)
    unread.count("second", 5)
    unread.count("first", 5)
    assert unread.slowest() is None
    unread.count("first", 6)
    assert (unread.used, unread.slowest()) == (11, "first"), "more of it makes its wait no shorter"
    unread.count("first", 5)
    unread.count("second", 6)
    assert (unread.used, unread.slowest()) == (11, "first")
    unread.count("first", 0)
    unread.count("first", 5)
    assert (unread.used, unread.slowest()) == (11, "second")


# Bodies


class Client:
    """It sends parts of a body; `asked` counts how often it was read from."""

    def __init__(self, *parts: bytes, ends: bool = True) -> None:
        self._parts = list(parts)
        self._ends = ends
        self.asked = 0

    async def receive(self) -> dict[str, object]:
        self.asked += 1
        if not self._parts:
            return {"type": "http.disconnect"}
        body = self._parts.pop(0)
        more = bool(self._parts) or not self._ends
        return {"type": "http.request", "body": body, "more_body": more}


async def read(client: Client, hold: Hold, length: str = "") -> bytes:
    headers = {b"content-length": length.encode()} if length else {}
    return await read_body(client.receive, headers, 1000, hold)  # type: ignore[arg-type]


async def refused(client: Client, hold: Hold, length: str = "") -> ApiError:
    with pytest.raises(ApiError) as caught:
        await read(client, hold, length)
    return caught.value


def taken(size: int, limit: int = 100) -> Hold:
    """What is left to one request where others hold `size`."""
    budget = Budget(limit)
    Hold(budget).grow(size)
    return Hold(budget)


@pytest.mark.parametrize("parts", [(b"x" * 30,), (b"x" * 10, b"x" * 20)])
async def test_a_body_is_held_as_it_comes(parts: Sequence[bytes]) -> None:
    hold = taken(70)
    assert await read(Client(*parts), hold) == b"x" * 30
    assert hold.size == 30


async def test_a_body_for_which_there_is_no_room_is_refused_before_it_is_read() -> None:
    client = Client(b"x" * 31)
    error = await refused(client, taken(70), "31")
    assert (error.status, error.headers["retry-after"], client.asked) == (503, "1", 0)
    assert str(error) == "the gateway has as many bytes of requests in hand as it may"


@pytest.mark.parametrize("parts", [(b"x" * 31,), (b"x" * 30, b"x")])
async def test_one_that_does_not_say_how_long_it_is_is_refused_as_soon_as_there_is_none(
    parts: Sequence[bytes],
) -> None:
    hold = taken(70)
    assert (await refused(Client(*parts), hold)).status == 503
    assert hold.size <= 30


async def test_too_large_a_body_is_told_so_whatever_room_there_is() -> None:
    assert (await refused(Client(), taken(70), "1001")).status == 413


async def test_a_client_that_only_says_how_much_it_will_send_holds_nothing() -> None:
    hold = taken(70)
    with pytest.raises(ClientLeft):
        await read(Client(), hold, "30")
    assert hold.size == 0


async def test_a_body_that_does_not_come_on_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nebula.http.bodies.PART_PATIENCE", 0.01)
    client = Client(b"x", ends=False)
    first = client.receive

    async def receive() -> dict[str, object]:
        if client.asked:
            await asyncio.Event().wait()
        return await first()

    client.receive = receive  # type: ignore[method-assign]
    error = await refused(client, taken(0))
    assert (error.status, error.body.code) == (408, "timeout")
