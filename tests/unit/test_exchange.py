"""A gateway's side of one request: what waits for the client, until it reads or leaves."""

from __future__ import annotations

import asyncio

import pytest

from nebula.actors.gateway.answer import Answer
from nebula.actors.gateway.exchange import MAX_WAITING_BYTES, ClientGone, Exchange
from nebula.events.inference import Piece, Request
from nebula.events.state import Named

pytestmark = pytest.mark.anyio

HEAD = Piece(0, b"a", 200, "text/event-stream", "chat-0")
MIDDLE = Piece(0, b"b")
END = Piece(0, b"c", end=True)


def exchange(*given: Piece, timeout: float | None = None) -> Exchange:
    request = Request("r1", "g1", "chat", "/v1/completions", b"{}", timeout=timeout)
    opened = Exchange(request, Named("chat"), Answer(request), idle=600.0, now=100.0)
    for piece in given:
        opened.give(piece)
    return opened


def stream() -> Exchange:
    """One whose answer has begun as a stream."""
    opened = exchange()
    head = opened.answer.take(HEAD)
    assert head is not None
    opened.give(head)
    return opened


async def test_what_was_given_is_read_in_order() -> None:
    opened = exchange(HEAD, MIDDLE, END)
    assert [await opened.next() for _ in range(3)] == [HEAD, MIDDLE, END]


async def test_who_reads_before_anything_is_given_waits_for_it() -> None:
    opened = exchange()
    reading = asyncio.create_task(opened.next())
    await asyncio.sleep(0)
    assert not reading.done()
    opened.give(HEAD)
    opened.give(MIDDLE)
    assert await reading == HEAD
    assert await opened.next() == MIDDLE


async def test_a_client_that_leaves_hears_nothing_any_more() -> None:
    opened = exchange(HEAD)
    opened.leave()
    opened.give(MIDDLE)
    with pytest.raises(ClientGone):
        await opened.next()


async def test_a_client_that_leaves_while_it_waits_is_let_go() -> None:
    opened = exchange()
    reading = asyncio.create_task(opened.next())
    await asyncio.sleep(0)
    opened.leave()
    with pytest.raises(ClientGone):
        await reading


async def test_a_reader_that_was_cancelled_disturbs_nobody() -> None:
    opened = exchange()
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
    assert not opened.too_slow
    opened.give(MIDDLE)
    assert opened.too_slow
    await opened.next()
    assert not opened.too_slow


async def test_an_answer_that_is_no_stream_may_be_as_large_as_it_is() -> None:
    opened = exchange(Piece(0, b"x" * MAX_WAITING_BYTES, 200, "application/json"), MIDDLE)
    assert not opened.too_slow


async def test_nothing_waits_for_a_client_that_has_left() -> None:
    opened = stream()
    opened.give(Piece(0, b"x" * (MAX_WAITING_BYTES + 1)))
    opened.leave()
    assert not opened.too_slow


async def test_it_ends_when_nobody_wants_the_answer_any_more() -> None:
    assert exchange(timeout=5.0).deadline == 105.0
    assert exchange().deadline is None
