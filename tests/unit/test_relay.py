"""An answer on its way to the client: pieces become an ASGI response, and failures words."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from nebula.actors.gateway.delivery import ClientGone, Quiet
from nebula.actors.gateway.not_served import NotServed
from nebula.events.endpoints import Dialect
from nebula.events.failures import Failure
from nebula.events.inference import Piece
from nebula.http import watching
from nebula.http.relay import MAX_REFUSAL, relay
from nebula.http.watching import comment_after

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _own_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has its own event loop, and watches share a timer of one loop."""
    monkeypatch.setattr(watching, "_waiting", watching._Waiting())


HEAD = Piece(0, b"data: 1\n\n", status=200, content_type="text/event-stream")
JSON_HEAD = Piece(0, b'{"a":', status=200, content_type="application/json")
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

    def nudge(self) -> None:
        pass

    def leave(self) -> None:
        self._gone.set()


async def relayed(
    *given: Piece | Exception, stream: bool = False, dialect: Dialect = "openai"
) -> list[Message]:
    """What the client's server is told."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await relay(Source(*given), receive, send, stream=stream, dialect=dialect)  # type: ignore[arg-type]
    return sent


def bodies(sent: list[Message]) -> list[bytes]:
    return [message["body"] for message in sent[1:]]


def error(sent: list[Message]) -> tuple[int, str, dict[bytes, bytes]]:
    start, body = sent
    said = json.loads(body["body"])["error"]
    return start["status"], said["message"], dict(start["headers"])


async def test_what_an_engine_says_of_when_to_come_back_is_told() -> None:
    full = Piece(0, b"{}", status=503, content_type="application/json", end=True, retry_after=7)
    start, _ = await relayed(full)
    assert (start["status"], dict(start["headers"])[b"retry-after"]) == (503, b"7")


async def test_a_request_that_may_be_what_ends_engines_is_not_to_be_asked_again() -> None:
    status, text, headers = error(await relayed(Piece(0, b"2", end=True, failure=Failure.FATAL)))
    assert (status, headers[b"x-should-retry"]) == (500, b"false")
    assert text == (
        "2 tries of this request in a row broke off, and the engines said nothing: it may be what "
        "breaks them, so it is not tried again. It may have been worked on"
    )


async def test_a_whole_answer_has_its_length() -> None:
    start, body = await relayed(
        Piece(0, b"{}", status=200, content_type="application/json", end=True)
    )
    assert start["status"] == 200
    assert dict(start["headers"]) == {
        b"content-type": b"application/json",
        b"x-request-id": b"r1",
        b"content-length": b"2",
    }
    assert body == {"type": "http.response.body", "body": b"{}", "more_body": False}


async def test_an_answer_without_a_content_type_has_no_such_header() -> None:
    start, _ = await relayed(Piece(0, b"", status=204, content_type="", end=True))
    assert b"content-type" not in dict(start["headers"])


async def test_a_stream_passes_piece_by_piece() -> None:
    start, *bodies = await relayed(HEAD, Piece(0, b"data: 2\n\n"), Piece(0, b"", end=True))
    assert dict(start["headers"])[b"cache-control"] == b"no-cache"
    assert b"content-length" not in dict(start["headers"])
    assert [body["body"] for body in bodies] == [b"data: 1\n\n", b"data: 2\n\n", b""]
    assert [body["more_body"] for body in bodies] == [True, True, False]


@pytest.mark.parametrize(
    ("failure", "status", "message"),
    [
        (Failure.ENGINE_FAILED, 503, "the engine that worked on this request has failed"),
        (Failure.ENGINE_STOPPED, 503, "the engine that worked on this request was stopped"),
        (Failure.OTHER_PLAN, 503, "no router knew the replica's newest plan yet"),
        (Failure.NATS_LOST, 503, "the connection to NATS was lost"),
        (Failure.NOT_TAKEN, 503, "no router or replica took the request in time"),
        (Failure.TOO_SLOW, 503, "the client reads too slowly"),
        (Failure.GAP, 503, "a part of the answer was lost on its way"),
        (Failure.IDLE, 504, "the engine did not go on in time"),
        (Failure.OVERDUE, 504, "the time of its X-Request-Timeout is over"),
        (Failure.ENGINE_TIMED_OUT, 504, "the time of its X-Request-Timeout is over"),
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
            Failure.NOT_TAKEN,
            "no router or replica took the request in time: router-1, which it was sent to, "
            "has not been heard from for 30 s; it may have been begun all the same",
        ),
        (
            Failure.OVERDUE,
            "the time of its X-Request-Timeout is over: router-1, which it was sent to, has not "
            "been heard from for 30 s",
        ),
    ],
)
async def test_a_failure_says_what_was_seen_of_the_replicas_that_had_it(
    failure: str, message: str
) -> None:
    seen = b"router-1, which it was sent to, has not been heard from for 30 s"
    assert error(await relayed(Piece(0, seen, end=True, failure=failure)))[1] == message


async def test_what_can_not_go_on_says_what_broke_and_why_it_stays_broken() -> None:
    body = b"engine-failed: tools may be called"
    sent = await relayed(Piece(0, body, end=True, failure=Failure.CANT_CONTINUE))
    assert error(sent)[1] == (
        "the engine that worked on this request has failed, "
        "and the answer can't go on elsewhere: tools may be called"
    )


@pytest.mark.parametrize("status", [429, 503])
async def test_a_refusal_says_why_and_when_to_come_back(status: int) -> None:
    refusal = Piece(
        0,
        b"model 'chat' is busy",
        status=status,
        content_type="text/plain",
        end=True,
        failure="refused",
        retry_after=7,
    )
    got, message, headers = error(await relayed(refusal))
    assert (got, message, headers[b"retry-after"]) == (status, "model 'chat' is busy", b"7")


async def test_what_can_not_be_served_any_more_is_refused() -> None:
    status, message, headers = error(await relayed(NotServed("NATS can't be reached", 1)))
    assert (status, message, headers[b"retry-after"]) == (503, "NATS can't be reached", b"1")


async def test_a_failure_within_a_stream_is_its_last_event() -> None:
    _, first, last = await relayed(HEAD, Piece(0, end=True, failure=Failure.IDLE))
    assert (first["body"], first["more_body"], last["more_body"]) == (b"data: 1\n\n", True, False)
    said = json.loads(last["body"].removeprefix(b"data: ").removesuffix(b"\n\n"))
    assert said["error"]["code"] == "timeout"


async def test_a_failure_within_any_other_answer_breaks_the_connection() -> None:
    with pytest.raises(ConnectionAbortedError):
        await relayed(JSON_HEAD, Piece(0, end=True, failure=Failure.ENGINE_FAILED))


async def test_a_client_that_leaves_is_noticed_and_nothing_more_is_sent() -> None:
    async with asyncio.timeout(5):
        assert len(await relayed(HEAD)) == 2


async def test_a_stream_of_which_nothing_has_come_for_long_has_its_head_and_a_comment() -> None:
    start, *_ = sent = await relayed(Quiet(), Quiet(), HEAD, Piece(0, b"", end=True), stream=True)
    assert start["status"] == 200
    assert dict(start["headers"]) == {
        b"content-type": b"text/event-stream; charset=utf-8",
        b"x-request-id": b"r1",
        b"cache-control": b"no-cache",
        b"x-accel-buffering": b"no",
    }
    assert bodies(sent) == [b": waiting\n\n", b": waiting\n\n", b"data: 1\n\n", b""]


async def test_a_stream_that_is_silent_amid_an_event_says_nothing() -> None:
    half, rest = Piece(0, b"data: 2"), Piece(0, b"1\n\n")
    sent = await relayed(HEAD, Quiet(), half, Quiet(), rest, Quiet(), Piece(0, end=True))
    comment = b": waiting\n\n"
    assert bodies(sent) == [b"data: 1\n\n", comment, b"data: 2", b"1\n\n", comment, b""]


async def test_a_failure_after_an_early_head_is_an_event() -> None:
    refusal = Piece(
        0,
        b"model 'chat' is busy",
        status=503,
        content_type="text/plain",
        end=True,
        failure="refused",
    )
    for failure in (refusal, NotServed("model 'chat' is busy", 1)):
        sent = await relayed(Quiet(), failure, stream=True)
        comment, event = bodies(sent)
        assert sent[0]["status"] == 200
        assert comment == b": waiting\n\n"
        said = json.loads(event.removeprefix(b"data: ").removesuffix(b"\n\n"))
        assert said["error"]["message"] == "model 'chat' is busy"
        assert sent[-1]["more_body"] is False


async def test_an_answer_that_is_not_a_stream_is_an_event_after_an_early_head() -> None:
    refused = Piece(0, b'{"error":\n', status=400, content_type="application/json")
    sent = await relayed(Quiet(), refused, Quiet(), Piece(0, b"{}}", end=True), stream=True)
    assert bodies(sent) == [b": waiting\n\n", b'data: {"error":{}}\n\n']


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            (Piece(0, b"no\nway", status=404, content_type="text/plain", end=True),),
            {"message": "the engine answered with 404: no\nway", "type": "invalid_request_error"},
        ),
        ((Piece(0, b"", status=500, content_type="", end=True),), {"type": "internal_error"}),
        (
            (
                Piece(0, b"{", status=400, content_type="application/json"),
                Piece(0, end=True, failure=Failure.IDLE),
            ),
            {"code": "timeout"},
        ),
        (
            (Piece(0, b"x" * (MAX_REFUSAL + 1), status=400, content_type="text/plain"),),
            {"param": None},
        ),
    ],
)
async def test_whatever_an_engine_says_after_an_early_head_is_one_event_with_an_error(
    given: tuple[Piece, ...], said: dict[str, Any]
) -> None:
    start, _, last = await relayed(Quiet(), *given, stream=True)
    assert (start["status"], last["more_body"]) == (200, False)
    [line] = last["body"].removesuffix(b"\n\n").split(b"\n")
    assert said.items() <= json.loads(line.removeprefix(b"data: "))["error"].items()


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 12)), max_size=6), st.booleans())
def test_a_comment_is_not_an_event_and_breaks_none_wherever_it_comes(
    events: list[tuple[bool, int]], numbered: bool
) -> None:
    """As OpenAI's client reads it, whose decoder takes an empty line after an id for an event."""
    sent = comment_after(b"")
    for number, (silent, cut) in enumerate(events):
        event = b"data: %d\n\n" % number
        # Events with ids always come whole.
        pieces = [b"id: %d\n%b" % (number, event)] if numbered else [event[:cut], event[cut:]]
        for piece in filter(None, pieces):
            sent += piece + (comment_after(piece) if silent else b"")
    read = list(SSEDecoder().iter_bytes(iter([sent])))
    assert [event.data for event in read] == [str(number) for number in range(len(events))]


async def test_only_streams_are_kept_from_being_buffered() -> None:
    whole = Piece(0, b"{}", status=200, content_type="application/json", end=True)
    for piece in (whole, Piece(0, b"", status=503, content_type="", end=True)):
        start, _ = await relayed(piece)
        assert not {b"x-accel-buffering", b"cache-control"} & dict(start["headers"]).keys()


class Waited:
    """Counts how often it is nudged."""

    def __init__(self) -> None:
        self.nudges = 0
        self.nudged = asyncio.Event()

    def nudge(self) -> None:
        self.nudges += 1
        self.nudged.set()

    def leave(self) -> None:
        raise AssertionError("nobody has left")


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_silent_stream_is_nudged_again_and_again_and_others_never(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("WATCH_AFTER", "HEAD_AFTER", "COMMENT_AFTER", "LOOK"):
        monkeypatch.setattr(watching, name, 0.001)
    stream, other = Waited(), Waited()
    watches = [watching.Watch(stream, never, True), watching.Watch(other, never, False)]  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        for _ in range(3):
            await stream.nudged.wait()
            stream.nudged.clear()
            watches[0].said()
    assert other.nudges == 0
    for watch in watches:
        watch.stop()


async def test_an_error_amid_an_event_does_not_become_a_part_of_it() -> None:
    half = Piece(0, b'data: {"ch', status=200, content_type="text/event-stream")
    *_, last = bodies(await relayed(half, Piece(0, failure=Failure.ENGINE_FAILED, end=True)))
    assert last.startswith(b'\n\ndata: {"error"')


REFUSED = b'{"error":{"message":"no such thing","type":"NotFoundError","param":null,"code":404}}'


async def test_an_error_that_comes_in_parts_is_told_in_the_clients_form() -> None:
    parts = (
        Piece(0, REFUSED[:20], status=404, content_type="text/plain"),
        Piece(1, REFUSED[20:]),
        Piece(2, b"", end=True),
    )
    start, body = await relayed(*parts, dialect="anthropic")
    assert start["status"] == 404
    assert json.loads(body["body"])["error"]["message"] == "no such thing"
    fields = dict(start["headers"])
    assert fields[b"content-type"] == b"application/json"
    assert int(fields[b"content-length"]) == len(body["body"])


async def test_an_error_in_parts_that_breaks_off_is_the_gateways_error() -> None:
    begun = Piece(0, REFUSED[:20], status=404, content_type="application/json")
    status, _, _ = error(await relayed(begun, Piece(0, failure=Failure.ENGINE_FAILED, end=True)))
    assert status == 503


async def test_a_very_long_error_is_passed_on_as_it_comes() -> None:
    parts = [Piece(number, b"x" * MAX_REFUSAL, status=400 * (not number)) for number in range(3)]
    given = bodies(await relayed(*parts, Piece(3, b"", end=True)))
    assert b"".join(given) == b"x" * (3 * MAX_REFUSAL)
