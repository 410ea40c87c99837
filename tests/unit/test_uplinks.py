"""What a session's client has sent: the engine gets all of it in order, and only so much waits."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.gateway import uplinks
from nebula.actors.gateway.budget import Budget, Hold
from nebula.actors.gateway.uplinks import WINDOW, Uplink

pytestmark = pytest.mark.anyio


def uplink(limit: int = 10**9) -> tuple[Uplink, Budget]:
    budget = Budget(limit)
    return Uplink(Hold(budget)), budget


@given(
    sent=st.lists(st.binary(min_size=1, max_size=20), max_size=10),
    size=st.integers(1, 30),
    lost=st.sets(st.integers(0, 20)),
)
def test_an_engine_gets_all_bytes_in_order_though_answers_are_lost(
    sent: list[bytes], size: int, lost: set[int]
) -> None:
    async def exchange() -> bytes:
        link, budget = uplink()
        got, asked = b"", 0
        for data in sent:
            assert link.put(data)
        while got != b"".join(sent):
            answers: list[bytes] = []
            link.asked(len(got), size, answers.append)
            got += answers[0] if asked not in lost else b""
            asked += 1
        link.asked(len(got), size, lambda _: None)
        assert (link.waiting, budget.used) == (0, 0)
        link.close()
        return got

    assert asyncio.run(exchange()) == b"".join(sent)


async def test_a_question_waits_for_bytes_and_an_earlier_one_is_answered_with_none() -> None:
    link, _ = uplink()
    answers: list[tuple[int, bytes]] = []
    for number in (1, 2):
        link.asked(0, 10, lambda data, number=number: answers.append((number, data)))  # type: ignore[misc]
    assert answers == [(1, b"")]
    link.put(b"hello")
    assert answers == [(1, b""), (2, b"hello")]


async def test_a_question_is_answered_though_nothing_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uplinks, "POLL", 0.01)
    link, _ = uplink()
    answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    link.asked(0, 10, answered.set_result)
    assert await answered == b""


async def test_a_client_waits_until_its_engine_has_read_on() -> None:
    link, _ = uplink()
    link.put(bytes(WINDOW + 1))
    waiting = asyncio.ensure_future(link.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    link.asked(1, 10, lambda _: None)
    await waiting


async def test_what_the_budget_has_no_room_for_is_not_taken_and_a_close_releases_all() -> None:
    link, budget = uplink(10)
    assert link.put(b"12345678")
    assert not link.put(b"1234")
    assert (link.waiting, budget.used) == (8, 8)
    link.close()
    assert (link.waiting, budget.used) == (0, 0)
