"""A gateway's side of one request: what waits for the client, until it reads or leaves."""

from __future__ import annotations

import asyncio

import pytest

from nebula.actors.gateway.answer import Answer
from nebula.actors.gateway.delivery import BEHIND, MAX_WAITING_BYTES, ClientGone, Delivery, Quiet
from nebula.actors.gateway.in_flight import InFlightRequest
from nebula.events.inference import Piece, Request
from nebula.events.state import NameBinding

pytestmark = pytest.mark.anyio

HEAD = Piece(0, b"a", status=200, content_type="text/event-stream", replica="chat-0")
MIDDLE = Piece(0, b"b")
END = Piece(0, b"c", end=True)


def delivery(*given: Piece) -> Delivery:
    request = Request("r1", "g1", "chat", "/v1/completions", b"{}")
    flight = InFlightRequest(
        request=request,
        binding=NameBinding("chat"),
        answer=Answer(request),
        idle=600.0,
        began=100.0,
    )
    opened = Delivery(flight)
    for piece in given:
        opened.give(piece)
    return opened


def stream() -> Delivery:
    """One whose answer has begun as a stream."""
    opened = delivery()
    head = opened.flight.answer.take(HEAD)
    assert head is not None
    opened.give(head)
    return opened


async def test_what_was_given_is_read_in_order() -> None:
    opened = delivery(HEAD, MIDDLE, END)
    assert [await opened.next() for _ in range(3)] == [HEAD, MIDDLE, END]


async def test_a_reader_waits_until_something_is_given() -> None:
    opened = delivery()
    reading = asyncio.create_task(opened.next())
    await asyncio.sleep(0)
    assert not reading.done()
    opened.give(HEAD)
    opened.give(MIDDLE)
    assert await reading == HEAD
    assert await opened.next() == MIDDLE


async def test_a_nudge_wakes_a_waiting_reader_and_loses_nothing() -> None:
    opened = delivery()
    opened.nudge()  # nothing waits yet
    reading = asyncio.create_task(opened.next())
    await asyncio.sleep(0)
    opened.nudge()
    opened.give(HEAD)
    with pytest.raises(Quiet):
        await reading
    assert await opened.next() == HEAD


async def test_a_client_that_leaves_hears_nothing_any_more() -> None:
    opened = delivery(HEAD)
    opened.leave()
    opened.give(MIDDLE)
    with pytest.raises(ClientGone):
        await opened.next()


async def test_a_client_that_leaves_while_it_waits_is_let_go() -> None:
    opened = delivery()
    reading = asyncio.create_task(opened.next())
    await asyncio.sleep(0)
    opened.leave()
    with pytest.raises(ClientGone):
        await reading


async def test_a_reader_that_was_cancelled_disturbs_no_other() -> None:
    opened = delivery()
    reading = asyncio.create_task(opened.next())
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait((reading,))
    opened.give(HEAD)
    assert await opened.next() == HEAD


async def test_so_many_bytes_of_a_stream_may_wait_for_a_slow_client() -> None:
    opened = stream()
    await opened.next()
    opened.give(Piece(0, b"x" * MAX_WAITING_BYTES))
    assert not any(map(opened.too_slow, (100.0, 200.0)))
    opened.give(MIDDLE)
    assert not opened.too_slow(300.0)
    assert opened.too_slow(300.0 + BEHIND)
    await opened.next()
    assert not opened.too_slow(400.0)


async def test_a_client_that_catches_up_may_fall_behind_again() -> None:
    opened = stream()
    await opened.next()
    for began in (100.0, 200.0, 300.0):
        opened.give(Piece(0, b"x" * (2 * MAX_WAITING_BYTES)))
        assert not opened.too_slow(began)
        await opened.next()


async def test_an_answer_without_a_stream_may_be_as_large_as_it_is() -> None:
    opened = delivery(
        Piece(0, b"x" * MAX_WAITING_BYTES, status=200, content_type="application/json"), MIDDLE
    )
    assert not any(map(opened.too_slow, (100.0, 200.0)))


async def test_nothing_waits_for_a_client_that_has_left() -> None:
    opened = stream()
    opened.give(Piece(0, b"x" * (MAX_WAITING_BYTES + 1)))
    opened.leave()
    assert not any(map(opened.too_slow, (100.0, 200.0)))


async def test_the_last_word_takes_the_place_of_what_waits_and_nothing_follows_it() -> None:
    opened = delivery(HEAD, MIDDLE)
    opened.let_go(END)
    opened.give(MIDDLE)
    assert await opened.next() == END
    with pytest.raises(ClientGone):
        await opened.next()
