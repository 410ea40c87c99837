"""A gateway's side of one request: its pieces in order, each once, from one replica."""

from __future__ import annotations

import pytest

from nebula.actors.gateway import GAP, MAX_WAITING_PIECES, NATS_LOST, TOO_SLOW, Exchange
from nebula.events.inference import ENGINE_FAILED, NO_REPLICA, Piece, Request

pytestmark = pytest.mark.anyio

REQUEST = Request("r1", "g1", "chat", "/v1/completions", b"{}")
ACCEPTED = Piece(-1, replica="chat-0")
HEAD = Piece(0, b"a", 200, "text/event-stream", "chat-0")
MIDDLE = Piece(1, b"b")
END = Piece(2, b"c", end=True)


class Client:
    """Who reads an exchange, and what it was told to forget."""

    def __init__(self, *pieces: Piece) -> None:
        self.forgotten: list[str] = []
        self.exchange = Exchange(REQUEST, self.forgotten.append)
        for piece in pieces:
            self.exchange.arrive(piece)

    async def pieces(self) -> list[Piece]:
        found = []
        while not found or not found[-1].end:
            try:
                found.append(await self.exchange.piece(timeout=0))
            except TimeoutError:
                break
        return found


async def test_pieces_are_given_in_the_order_of_their_arrival_until_the_end() -> None:
    client = Client(HEAD, MIDDLE, END)
    assert await client.pieces() == [HEAD, MIDDLE, END]
    assert client.exchange.done
    assert client.forgotten == ["r1"]


async def test_the_announcement_only_tells_which_replica_has_the_request() -> None:
    client = Client(ACCEPTED)
    assert client.exchange.replica == "chat-0"
    assert await client.pieces() == []


async def test_an_announcement_that_comes_late_disturbs_nothing() -> None:
    assert await Client(HEAD, ACCEPTED, MIDDLE, END).pieces() == [HEAD, MIDDLE, END]


async def test_a_piece_that_comes_twice_is_given_once() -> None:
    assert await Client(HEAD, HEAD, MIDDLE, HEAD, MIDDLE, END).pieces() == [HEAD, MIDDLE, END]


async def test_a_lost_piece_ends_the_answer_with_a_failure_after_what_came_before() -> None:
    client = Client(HEAD, END, MIDDLE)
    head, failure = await client.pieces()
    assert (head, failure.failure, failure.end) == (HEAD, GAP, True)
    assert failure.body == b""
    assert client.forgotten == ["r1"]


async def test_an_answer_whose_head_is_lost_is_no_answer() -> None:
    (failure,) = await Client(MIDDLE, END).pieces()
    assert failure.failure == GAP


async def test_another_replica_can_add_nothing_to_an_answer() -> None:
    other = Piece(0, b"x", 200, "text/event-stream", "chat-1")
    failure = Piece(1, replica="chat-1", end=True, failure=ENGINE_FAILED)
    assert await Client(ACCEPTED, other, HEAD, failure, MIDDLE, END).pieces() == [HEAD, MIDDLE, END]


async def test_the_engines_failure_ends_the_answer_whatever_its_number() -> None:
    failure = Piece(7, end=True, failure=ENGINE_FAILED)
    client = Client(HEAD, failure, MIDDLE)
    assert await client.pieces() == [HEAD, failure]
    assert client.exchange.done


async def test_a_routers_refusal_is_the_whole_answer() -> None:
    refusal = Piece(0, status=503, end=True, failure=NO_REPLICA)
    assert await Client(refusal).pieces() == [refusal]


async def test_an_exchange_can_be_failed_from_here_once() -> None:
    client = Client(HEAD)
    client.exchange.fail(NATS_LOST)
    client.exchange.fail(ENGINE_FAILED)
    assert [piece.failure for piece in await client.pieces()] == ["", NATS_LOST]
    assert client.forgotten == ["r1"]


async def test_a_client_that_reads_too_slowly_gets_a_bounded_queue_and_then_a_failure() -> None:
    flood = [Piece(number, b"x") for number in range(MAX_WAITING_PIECES + 10)]
    client = Client(*flood)
    pieces = await client.pieces()
    assert len(pieces) == MAX_WAITING_PIECES + 1
    assert pieces[:-1] == flood[:MAX_WAITING_PIECES]
    assert (pieces[-1].failure, pieces[-1].end) == (TOO_SLOW, True)


@pytest.mark.parametrize(
    ("last", "wanted"), [(END, True), (Piece(3, b"d"), False), (HEAD, True)], ids=str
)
async def test_it_says_when_the_engine_goes_on_for_nobody(last: Piece, wanted: bool) -> None:
    assert Client(HEAD, MIDDLE).exchange.arrive(last) is wanted


async def test_a_client_that_keeps_up_may_read_any_number_of_pieces() -> None:
    client = Client()
    for number in range(MAX_WAITING_PIECES * 2):
        client.exchange.arrive(Piece(number, b"x"))
        await client.exchange.piece(timeout=1)
    assert not client.exchange.done


async def test_nothing_arrives_any_more_where_nobody_listens() -> None:
    client = Client(HEAD)
    client.exchange.leave()
    client.exchange.arrive(MIDDLE)
    assert client.exchange.done
    assert await client.pieces() == [HEAD]


async def test_waiting_for_a_piece_ends_after_its_time() -> None:
    with pytest.raises(TimeoutError):
        await Client().exchange.piece(timeout=0.01)
