"""A request that an operator cancels ends at once, wherever it is, and is told as it was."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from nebula.actors.gateway import in_flight_view
from nebula.actors.gateway.in_flight import CancelRequested, Phase
from nebula.actors.gateway.usage_recording import record_of
from nebula.actors.router.lines import Line, positions
from nebula.events.failures import Failure
from nebula.events.inference import Piece
from nebula.events.requests_in_flight import CancelQuestion, InFlightQuestion
from nebula.events.state import EMPTY
from nebula.http.relay import error_of
from tests.unit.flights import JSON, REQUEST, STREAM, Flights
from tests.unit.test_fair_queue import request


@pytest.fixture
def flights() -> Flights:
    return Flights()


@pytest.mark.parametrize(
    "said",
    [
        (),
        (Piece(-1, queued="router-1"),),
        (Piece(-1, replica="chat-0"),),
        (Piece(0, b"{", status=200, content_type=JSON, replica="chat-0"),),
    ],
)
@pytest.mark.parametrize("keep", [False, True])
def test_it_ends_in_every_phase(flights: Flights, said: tuple[Piece, ...], keep: bool) -> None:
    client = flights.ask(replace(REQUEST, keep=keep))
    for piece in said:
        flights.hears("r", piece)
    flights.happens("r", CancelRequested("key:ops"))
    last = client.ended()[-1]
    assert (last.failure, last.body) == (Failure.CANCELLED, b"")
    assert client.flight.done
    assert flights.cancels == [b"cancelled: key:ops"]
    assert flights.admission.waiting == 0


def test_one_that_has_ended_is_not_cancelled(flights: Flights) -> None:
    client = flights.ask()
    flights.says(Piece(0, b"{}", status=200, content_type=JSON, replica="chat-0", end=True))
    flights.perform(flights.core.happened(client.flight, CancelRequested("key:ops"), 1001.0))
    assert flights.cancels == []
    assert client.ended()[-1].failure == ""


def test_its_client_gets_an_error_that_is_not_tried_again() -> None:
    error = error_of(Piece(0, b"key:ops", end=True, failure=Failure.CANCELLED))
    assert (error.status, error.body.code) == (409, "request_cancelled")
    assert error.headers["x-should-retry"] == "false"
    assert "key:ops" not in str(error), "a client is not told which operator it was"


def test_what_its_client_got_is_recorded_with_the_operator(flights: Flights) -> None:
    client = flights.ask()
    flights.says(Piece(0, b"data: 1\n\n", status=200, content_type=STREAM, replica="chat-0"))
    flights.happens("r", CancelRequested("key:ops"))
    record = record_of(client.flight.answer, 7.0)
    assert record is not None
    assert (record.cut, record.cancelled_by) == (True, "key:ops")


def test_an_answer_that_a_gateway_ends_with_a_failure_is_recorded_as_cut(flights: Flights) -> None:
    client = flights.ask()
    flights.says(Piece(0, b"data: 1\n\n", status=200, content_type=STREAM, replica="chat-0"))
    flights.stops()
    record = record_of(client.flight.answer, 7.0)
    assert record is not None
    assert record.cut


def test_it_is_told_where_a_request_is(flights: Flights) -> None:
    client = flights.ask(replace(REQUEST, caller_ids=("mine",)))
    flights.hears("r", Piece(-1, queued="router-1"))
    told = in_flight_view.reply("gw", [client.flight], InFlightQuestion(), EMPTY, 1002.5, 50.0)
    [waits] = told.requests
    assert (waits.state, waits.router, waits.replica) == ("waiting", "router-1", "")
    assert (waits.started, waits.caller_ids) == (47.5, ("mine",))
    flights.says(Piece(0, b"data: 1\n\n", status=200, content_type=STREAM, replica="chat-0"))
    runs = in_flight_view.shown(client.flight, EMPTY, 2.5, 50.0)
    assert (runs.state, runs.router, runs.replica, runs.stream) == ("running", "", "chat-0", True)


def test_a_reply_is_bounded_and_tells_how_many_more_there_are(flights: Flights) -> None:
    clients = [flights.ask(replace(REQUEST, id=f"r{number}")) for number in range(5)]
    some = in_flight_view.reply(
        "gw", [each.flight for each in clients], InFlightQuestion(limit=2), EMPTY, 0.0, 0.0
    )
    assert (len(some.requests), some.more) == (2, 3)
    others = InFlightQuestion(model="other")
    none = in_flight_view.reply("gw", [clients[0].flight], others, EMPTY, 0.0, 0.0)
    assert (none.requests, none.more) == ((), 0)
    foreign = InFlightQuestion(tenant="team-a")
    assert not in_flight_view.reply("gw", [clients[0].flight], foreign, EMPTY, 0.0, 0.0).requests


def test_it_is_found_by_its_callers_id_but_for_its_tenant_only(flights: Flights) -> None:
    flight = flights.ask(replace(REQUEST, caller_ids=("mine",))).flight
    assert in_flight_view.meant([flight], CancelQuestion("mine"), EMPTY) is flight
    assert in_flight_view.meant([flight], CancelQuestion("r"), EMPTY) is flight
    assert in_flight_view.meant([flight], CancelQuestion("other"), EMPTY) is None
    assert in_flight_view.meant([flight], CancelQuestion("r", tenant="team-a"), EMPTY) is None
    flight.phase = Phase.DONE
    assert in_flight_view.meant([flight], CancelQuestion("r"), EMPTY) is None


def test_slack_has_its_place_behind_all_that_clients_wait_for() -> None:
    line = Line()
    line.slack.add(request("slack"))
    line.asked.add(request("one"))
    line.asked.add(request("two", "bob"))
    assert positions({"chat": line}, "", 10) == {"one": 1, "two": 2, "slack": 3}
    assert positions({"chat": line}, "chat", 2) == {"one": 1, "two": 2}
    assert positions({"chat": line}, "other", 10) == {}
