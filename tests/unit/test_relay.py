"""An answer on its way to the client: pieces become an ASGI response, and failures words."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from nebula.actors.gateway import failures
from nebula.actors.gateway.answer import GAP
from nebula.actors.gateway.exchange import ClientGone
from nebula.actors.gateway.failures import NotServed
from nebula.events import inference
from nebula.events.inference import Piece
from nebula.http.relay import relay

pytestmark = pytest.mark.anyio

HEAD = Piece(0, b"data: 1\n\n", 200, "text/event-stream")
JSON_HEAD = Piece(0, b'{"a":', 200, "application/json")
Message = dict[str, Any]


class Source:
    """An answer that is there already; what it ends with may be raised."""

    id = "r1"

    def __init__(self, *given: Piece | Exception) -> None:
        self._given = list(given)
        self._gone = asyncio.Event()
        self.streaming = any(
            isinstance(piece, Piece) and piece.content_type == "text/event-stream"
            for piece in given
        )

    async def next(self) -> Piece:
        if not self._given:
            await self._gone.wait()
            raise ClientGone
        following = self._given.pop(0)
        if isinstance(following, Exception):
            raise following
        return following

    def leave(self) -> None:
        self._gone.set()


async def relayed(*given: Piece | Exception) -> list[Message]:
    """What the client's server is told."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await relay(Source(*given), receive, send)  # type: ignore[arg-type]
    return sent


def error(sent: list[Message]) -> tuple[int, str, dict[bytes, bytes]]:
    start, body = sent
    said = json.loads(body["body"])["error"]
    return start["status"], said["message"], dict(start["headers"])


async def test_what_an_engine_says_of_when_to_come_back_is_told() -> None:
    full = Piece(0, b"{}", 503, "application/json", end=True, retry_after=7)
    start, _ = await relayed(full)
    assert (start["status"], dict(start["headers"])[b"retry-after"]) == (503, b"7")


async def test_a_request_that_may_be_what_ends_engines_is_not_to_be_asked_again() -> None:
    status, text, headers = error(await relayed(Piece(0, b"2", end=True, failure=failures.FATAL)))
    assert (status, headers[b"x-should-retry"]) == (500, b"false")
    assert text == (
        "2 engines in a row failed while they had this request, and said nothing: it may be what "
        "ends them, so no other gets it. It may have been worked on"
    )


async def test_a_whole_answer_has_its_length() -> None:
    start, body = await relayed(Piece(0, b"{}", 200, "application/json", end=True))
    assert start["status"] == 200
    assert dict(start["headers"]) == {
        b"content-type": b"application/json",
        b"x-request-id": b"r1",
        b"content-length": b"2",
    }
    assert body == {"type": "http.response.body", "body": b"{}", "more_body": False}


async def test_a_stream_passes_piece_by_piece() -> None:
    start, *bodies = await relayed(HEAD, Piece(0, b"data: 2\n\n"), Piece(0, b"", end=True))
    assert dict(start["headers"])[b"cache-control"] == b"no-cache"
    assert b"content-length" not in dict(start["headers"])
    assert [body["body"] for body in bodies] == [b"data: 1\n\n", b"data: 2\n\n", b""]
    assert [body["more_body"] for body in bodies] == [True, True, False]


@pytest.mark.parametrize(
    ("failure", "status", "message"),
    [
        (inference.ENGINE_FAILED, 503, "the engine that worked on this request has failed"),
        (inference.ENGINE_STOPPED, 503, "the engine that worked on this request was stopped"),
        (inference.OTHER_PLAN, 503, "no router knew the replica's newest plan yet"),
        (failures.NATS_LOST, 503, "the connection to NATS was lost"),
        (failures.NOT_TAKEN, 503, "no router or replica took the request in time"),
        (failures.TOO_SLOW, 503, "the client reads too slowly"),
        (GAP, 503, "a part of the answer was lost on its way"),
        (failures.IDLE, 504, "the engine did not go on in time"),
        (failures.OVERDUE, 504, "the request's time is over"),
        (inference.ENGINE_TIMED_OUT, 504, "the request's time is over"),
    ],
)
async def test_a_failure_before_the_first_piece_is_a_response(
    failure: str, status: int, message: str
) -> None:
    assert error(await relayed(Piece(0, end=True, failure=failure)))[:2] == (status, message)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (
            failures.NOT_TAKEN,
            "no router or replica took the request in time: router-1, which it was sent to, "
            "has not been heard from for 30 s; it may have been begun all the same",
        ),
        (
            failures.OVERDUE,
            "the request's time is over: router-1, which it was sent to, has not been heard from "
            "for 30 s",
        ),
    ],
)
async def test_a_failure_says_what_was_seen_of_those_who_had_it(failure: str, message: str) -> None:
    seen = b"router-1, which it was sent to, has not been heard from for 30 s"
    assert error(await relayed(Piece(0, seen, end=True, failure=failure)))[1] == message


async def test_what_can_not_go_on_says_what_broke_and_why_it_stays_broken() -> None:
    body = b"engine-failed: tools may be called"
    sent = await relayed(Piece(0, body, end=True, failure=failures.CANT_CONTINUE))
    assert error(sent)[1] == (
        "the engine that worked on this request has failed, "
        "and the answer can't go on elsewhere: tools may be called"
    )


@pytest.mark.parametrize("status", [429, 503])
async def test_a_refusal_says_why_and_when_to_come_back(status: int) -> None:
    refusal = Piece(
        0, b"model 'chat' is busy", status, "text/plain", end=True, failure="refused", retry_after=7
    )
    got, message, headers = error(await relayed(refusal))
    assert (got, message, headers[b"retry-after"]) == (status, "model 'chat' is busy", b"7")


async def test_what_can_not_be_served_any_more_is_refused() -> None:
    status, message, headers = error(await relayed(NotServed("NATS can't be reached", 1)))
    assert (status, message, headers[b"retry-after"]) == (503, "NATS can't be reached", b"1")


async def test_a_failure_within_a_stream_is_its_last_event() -> None:
    _, first, last = await relayed(HEAD, Piece(0, end=True, failure=failures.IDLE))
    assert (first["body"], first["more_body"], last["more_body"]) == (b"data: 1\n\n", True, False)
    said = json.loads(last["body"].removeprefix(b"data: ").removesuffix(b"\n\n"))
    assert said["error"]["code"] == "timeout"


async def test_a_failure_within_any_other_answer_breaks_the_connection() -> None:
    with pytest.raises(ConnectionAbortedError):
        await relayed(JSON_HEAD, Piece(0, end=True, failure=inference.ENGINE_FAILED))


async def test_a_client_that_leaves_is_noticed_and_nothing_more_is_sent() -> None:
    async with asyncio.timeout(5):
        assert len(await relayed(HEAD)) == 2
