"""A stream that its engine breaks off goes on at another one, as if nothing had happened."""

from __future__ import annotations

import json

import pytest

from nebula.actors.gateway import timeouts
from nebula.actors.gateway.fatal import MAX_FATAL
from nebula.actors.gateway.recovery import MAX_ATTEMPTS
from nebula.events.failures import Failure
from nebula.events.inference import Piece, Request
from tests.unit.flights import JSON, STREAM, TOKENS, Flights, chat, stream, words
from tests.unit.vllm_stream import Engine

FAILED = Piece(9, end=True, failure=Failure.ENGINE_FAILED)


@pytest.fixture
def flights() -> Flights:
    return Flights()


# Streams go on


def test_a_stream_whose_engine_dies_goes_on_elsewhere_with_the_rest(flights: Flights) -> None:
    request = chat()
    client = flights.ask(request)
    flights.beats("chat-0")
    flights.says(*stream(request, 1, "chat-0")[:3])
    flights.later(1, alive=["chat-0"])
    flights.story.stops("chat-0")
    flights.ticks()
    again = flights.requests[1]
    assert (again.attempt, again.avoid, again.continues) == (2, "chat-0", "rest")
    assert (again.path, again.keep) == ("/v1/completions", False)
    assert json.loads(again.body)["max_tokens"] == 48
    flights.says(*stream(again, 2, "chat-1"))
    given = client.ended()
    assert words(given) == "Once upon a time"
    assert [piece.status for piece in given if piece.status] == [200]


def test_it_goes_on_as_often_as_an_engine_dies(flights: Flights) -> None:
    tokens = [*TOKENS, b" there", b" was", b" a", b" king", b"."]
    request = chat()
    client = flights.ask(request)
    flights.beats("chat-0")
    for attempt in range(1, MAX_ATTEMPTS):
        pieces = stream(flights.requests[-1], attempt, "chat-0", tokens)
        failure = Piece(9, end=True, failure=Failure.ENGINE_FAILED, attempt=attempt)
        flights.says(*pieces[:2], failure)
        assert flights.requests[-1].attempt == attempt + 1
    flights.says(*stream(flights.requests[-1], MAX_ATTEMPTS, "chat-1", tokens))
    assert words(client.ended()) == "Once upon a time there was a king."


def test_a_request_whose_engines_die_before_they_take_it_is_given_up(
    flights: Flights,
) -> None:
    client = flights.ask()
    for replica in ("chat-0", "chat-1"):
        flights.story.fails(replica)
        flights.ticks()
        flights.later(timeouts.ACCEPT[1] + 0.1)
    (failure,) = client.ended()
    assert failure.failure == "fatal"
    assert len(flights.requests) == MAX_FATAL


def test_another_engine_that_stands_there_now_tells_the_same(flights: Flights) -> None:
    client = flights.ask()
    for pid in (8, 9):
        flights.restarts("chat-0", pid)
        flights.later(timeouts.ACCEPT[1] + 0.1)
    (failure,) = client.ended()
    assert failure.failure == "fatal"


def test_one_that_was_lost_while_all_engines_live_is_sent_again(flights: Flights) -> None:
    flights.ask()
    for seconds in timeouts.ACCEPT[:2]:
        flights.later(seconds + 0.1)
    assert len(flights.requests) == 3


def test_a_stream_that_every_engine_fails_amid_its_answer_is_given_up(flights: Flights) -> None:
    client = flights.ask(chat())
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert len(flights.requests) == attempt
        pieces = stream(flights.requests[-1], attempt, "chat-0", TOKENS * 3)
        flights.says(
            *pieces[:2], Piece(9, end=True, failure=Failure.ENGINE_FAILED, attempt=attempt)
        )
    assert client.ended()[-1].failure == Failure.ENGINE_FAILED
    assert len(flights.requests) == MAX_ATTEMPTS


def test_a_stream_of_which_only_the_end_is_missing_needs_no_engine(flights: Flights) -> None:
    request = chat()
    client = flights.ask(request)
    pieces = stream(request, 1, "chat-0")
    flights.says(*pieces[:-1], Piece(9, end=True, failure=Failure.ENGINE_FAILED))
    assert words(client.ended()) == "Once upon a time"
    assert len(flights.requests) == 1
    assert flights.cancels == [b"finished: data: [DONE]\n\n"]


def test_a_stream_that_can_not_go_on_ends_with_the_reason(flights: Flights) -> None:
    request = chat(tools=[{"type": "function"}])
    client = flights.ask(request)
    flights.says(
        *stream(request, 1, "chat-0")[:3], Piece(9, end=True, failure=Failure.ENGINE_FAILED)
    )
    failure = client.ended()[-1]
    assert failure.failure == "cant-continue"
    assert failure.body == b"engine-failed: tools may be called"


def doubtful(request: Request) -> list[Piece]:
    """The beginning of a stream whose last event had two tokens: both may have given their text."""
    events = Engine(TOKENS, created=1).stream(request.path, request.body, lambda: 2)
    head = Piece(0, events[0], status=200, content_type=STREAM, replica="chat-0")
    return [head, Piece(1, events[1]), Piece(9, end=True, failure=Failure.ENGINE_FAILED)]


def test_where_its_text_is_in_doubt_an_engine_is_asked_first(flights: Flights) -> None:
    request = chat()
    client = flights.ask(request)
    flights.beats("chat-0")
    flights.says(*doubtful(request))
    flights.looks()
    asking = flights.requests[1]
    assert (asking.path, asking.avoid, asking.attempt) == ("/detokenize", "chat-0", 1)
    assert asking.id != "r"
    told = Engine(TOKENS).detokenize(asking.body)
    flights.says(
        Piece(0, told, status=200, content_type=JSON, replica="chat-1", end=True), to=asking.id
    )
    flights.looks()
    again = flights.requests[2]
    assert (again.id, again.continues) == ("r", "rest")
    flights.says(*stream(again, 2, "chat-1"))
    assert words(client.ended()) == "Once upon a time"


def test_where_no_engine_knows_the_text_it_does_not_go_on(flights: Flights) -> None:
    request = chat()
    client = flights.ask(request)
    flights.beats("chat-0")
    flights.says(*doubtful(request))
    flights.looks()
    flights.says(
        Piece(0, b"{}", status=404, content_type=JSON, replica="chat-1", end=True),
        to=flights.requests[1].id,
    )
    flights.looks()
    failure = client.ended()[-1]
    assert failure.body == b"engine-failed: no engine says what text the last token ids are"


def test_a_client_that_leaves_meanwhile_ends_it(flights: Flights) -> None:
    request = chat()
    flights.ask(request)
    flights.beats("chat-0")
    flights.says(*doubtful(request))
    flights.looks()
    flights.leaves()
    told = Engine(TOKENS).detokenize(flights.requests[1].body)
    flights.says(
        Piece(0, told, status=200, content_type=JSON, replica="chat-1", end=True),
        to=flights.requests[1].id,
    )
    flights.looks()
    assert len(flights.requests) == 2
