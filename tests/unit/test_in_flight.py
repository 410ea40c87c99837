"""A request in flight comes to its end, whatever routers, engines, NATS and its client do.

What is said, and when, is played by hand; see `flights.py`. Streams that go on elsewhere are in
`test_streams_go_on.py`, laws that hold for any order of events in `test_in_flight_laws.py`.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from nebula.actors.gateway import early_pieces, timeouts
from nebula.actors.gateway.addressing import HEARD, UNHEARD
from nebula.actors.gateway.admission import CROWD, INTERVAL
from nebula.actors.gateway.fatal import MAX_FATAL
from nebula.actors.gateway.in_flight import (
    Cancel,
    Forget,
    NotSent,
    Send,
    Stuck,
)
from nebula.actors.gateway.not_served import AlreadyInFlight, NotServed
from nebula.actors.gateway.recovery import MAX_ATTEMPTS
from nebula.actors.gateway.timeouts import TICK
from nebula.events.failures import Failure
from nebula.events.heartbeats import QueueLength
from nebula.events.inference import ALL_ATTEMPTS, LOAD_PATIENCE, Piece, Request, UnderWay
from nebula.events.intents import ModelUnloadRequested
from tests.unit.flights import (
    JSON,
    REQUEST,
    STREAM,
    Flights,
    chat,
    serving,
    stream,
    text,
    words,
)


@pytest.fixture
def flights() -> Flights:
    return Flights()


HEAD = Piece(0, b"one ", status=200, content_type=JSON, replica="chat-0")
MIDDLE = Piece(1, b"two ")
LAST = Piece(2, b"three", end=True)
TAKEN = Piece(-1, replica="chat-0")


# Asking


def test_a_request_is_sent_and_its_answer_given_as_it_comes(flights: Flights) -> None:
    client = flights.ask()
    assert flights.requests == [REQUEST]
    flights.says(TAKEN, HEAD)
    assert client.next().body == b"one "
    flights.says(MIDDLE, LAST)
    assert text(client.ended()) == b"two three"
    assert flights.cancels == []


def test_what_is_no_longer_wanted_is_not_listened_to(flights: Flights) -> None:
    client = flights.ask()
    flights.says(HEAD, MIDDLE, LAST, LAST)
    client.ended()
    flights.says(MIDDLE, to="unknown")
    flights.later(60)
    assert len(flights.requests) == 1


def test_without_nats_nothing_is_asked(flights: Flights) -> None:
    flights.nats_dies()
    with pytest.raises(NotServed, match="NATS can't be reached") as refused:
        flights.ask()
    assert refused.value.retry_after == 1


def test_what_nats_does_not_take_is_over_before_it_began(flights: Flights) -> None:
    flights.refuses = NotSent("no room")
    flights.ask()
    assert flights.core.flights == {}
    assert flights.asks("chat-0", r=1) == {"r": ALL_ATTEMPTS}
    assert flights.admission.waiting == 0


def test_a_further_attempt_that_nats_does_not_take_is_the_end(flights: Flights) -> None:
    client = flights.ask()
    flights.refuses = NotSent("it is gone")
    flights.later(timeouts.ACCEPT[0] + 0.5)
    (failure,) = client.ended()
    assert (failure.failure, failure.body) == (Failure.NATS_LOST, b"it is gone")


def test_one_that_is_too_large_for_nats_can_not_go_on(flights: Flights) -> None:
    client = flights.ask()
    flights.refuses = NotSent("too large", too_large=True)
    flights.later(timeouts.ACCEPT[0] + 0.5)
    (failure,) = client.ended()
    assert failure.failure == Failure.CANT_CONTINUE
    assert b"more than NATS carries" in failure.body


def test_an_id_that_is_in_flight_is_not_asked_again(flights: Flights) -> None:
    flights.ask()
    with pytest.raises(AlreadyInFlight):
        flights.ask()
    assert len(flights.requests) == 1


def test_what_can_only_be_refused_is_not_asked() -> None:
    flights = Flights(serving().given("chat", ModelUnloadRequested()))
    with pytest.raises(NotServed, match="has been unloaded") as refused:
        flights.ask()
    assert refused.value.retry_after is None
    assert flights.requests == []


def test_what_waits_everywhere_is_known_from_the_routers(flights: Flights) -> None:
    flights.beats("router-1")
    flights.beats("router-2")
    assert flights.heartbeats.queue("chat") == QueueLength(2, 0.5)


# More than can be taken on


def test_more_is_refused_while_those_that_are_in_flight_are_taken_on_late(
    flights: Flights,
) -> None:
    crowd = [f"r{number}" for number in range(CROWD + 1)]
    for each in crowd:
        flights.ask(replace(REQUEST, id=each))
    flights.later(1.5)
    flights.says(HEAD, MIDDLE, LAST, to=crowd.pop())
    flights.later(INTERVAL)
    assert flights.admission.refuses(flights.now)
    flights.says(replace(HEAD, attempt=2), to=crowd.pop())
    assert not flights.admission.refuses(flights.now)


# Untaken


def test_an_untaken_request_is_sent_again_and_then_given_up(flights: Flights) -> None:
    client = flights.ask()
    for number, seconds in enumerate(timeouts.ACCEPT):
        assert [each.attempt for each in flights.requests] == list(range(1, number + 2))
        flights.later(client.flight.sent_at + seconds - flights.now)
        assert len(flights.requests) == number + 1
        flights.later(TICK)
    assert not client.flight.done, "a request may wait for as long as its model may load"
    flights.later(client.flight.answer.request.patience - timeouts.UNTAKEN)
    (failure,) = client.ended()
    assert (failure.failure, failure.end) == ("not-taken", True)
    assert flights.cancels == [
        *(b"2", b"3", b"4", b"5", b"6", b"7"),
        b"not-taken: no router has been heard from",
    ]


def test_one_whose_own_patience_is_short_gets_all_the_tries_there_are(flights: Flights) -> None:
    client = flights.ask(replace(REQUEST, patience=1.0))
    flights.later(timeouts.UNTAKEN - 1)
    assert not client.flight.done
    flights.later(2)
    assert client.ended()[-1].failure == "not-taken"


def test_one_that_would_wait_long_for_a_start_is_not_tried_for_so_long(flights: Flights) -> None:
    client = flights.ask(replace(REQUEST, patience=LOAD_PATIENCE))
    flights.later(timeouts.UNTAKEN_MOST - 1)
    assert not client.flight.done
    flights.later(2)
    assert client.ended()[-1].failure == "not-taken"


def test_what_is_left_of_the_time_in_a_line_goes_with_every_try(flights: Flights) -> None:
    flights.ask()
    flights.later(timeouts.ACCEPT[0] + 0.5)
    first, second = flights.requests
    assert second.patience == pytest.approx(first.patience - timeouts.ACCEPT[0], abs=0.6)


def test_a_lone_router_that_is_silent_is_named_with_the_time_for_which_it_was(
    flights: Flights,
) -> None:
    flights.beats("router-1")
    client = flights.ask()
    flights.later(REQUEST.patience + 1)
    assert client.ended()[-1].body == (
        b"router-1, which it was sent to, has not been heard from for 30 s"
    )


def test_it_is_told_when_the_router_lives_and_a_replica_is_silent(flights: Flights) -> None:
    flights.beats("chat-1")
    client = flights.ask()
    for _ in range(7):
        flights.later(1, alive=["router-1"])
    flights.later(REQUEST.patience, alive=["router-1"])
    said = client.ended()[-1].body.decode()
    assert said == (
        "router-1, which it was sent to, is there, and no replica has said that it has it; "
        "chat-1 has not been heard from for 30 s"
    )


def test_tries_that_no_router_took_are_not_held_against_engines(flights: Flights) -> None:
    flights.ask()
    flights.later(timeouts.UNTAKEN + 1)
    attempt = flights.requests[-1].attempt
    assert attempt >= MAX_ATTEMPTS
    flights.says(
        Piece(0, end=True, failure=Failure.ENGINE_FAILED, replica="chat-0", attempt=attempt)
    )
    assert flights.requests[-1].attempt == attempt + 1


def test_before_it_is_sent_again_all_are_told_to_forget_it(flights: Flights) -> None:
    flights.ask()
    flights.later(timeouts.ACCEPT[0] + 0.5)
    assert [type(each) for each in flights.effects] == [Send, Cancel, Send]


def test_what_an_earlier_attempt_still_says_is_not_heard(flights: Flights) -> None:
    client = flights.ask()
    flights.later(timeouts.ACCEPT[0] + 0.5)
    flights.says(HEAD, MIDDLE, LAST)
    other = [replace(each, attempt=2, body=b"x") for each in (HEAD, MIDDLE, LAST)]
    flights.says(*other)
    assert text(client.ended()) == b"xxx"


def test_a_request_in_the_line_of_a_router_that_lives_waits(flights: Flights) -> None:
    flights.ask()
    flights.says(Piece(-1, queued="router-1"))
    for waited in range(25):
        flights.line = QueueLength(1, waited + 1.0)
        flights.later(1, alive=["router-1"])
    assert len(flights.requests) == 1


def test_one_that_waited_long_in_a_line_has_its_tries_when_that_router_dies(
    flights: Flights,
) -> None:
    client = flights.ask(replace(REQUEST, patience=600.0))
    flights.says(Piece(-1, queued="router-1"))
    for waited in range(100):
        flights.line = QueueLength(1, waited + 1.0)
        flights.later(1, alive=["router-1"])
    flights.later(timeouts.ROUTER_SILENCE + 1)
    assert [each.attempt for each in flights.requests] == [1, 2]
    assert flights.requests[1].patience == pytest.approx(496, abs=2)
    flights.later(timeouts.UNTAKEN_MOST - timeouts.ROUTER_SILENCE - 2)
    assert not client.flight.done
    flights.later(3)
    assert client.ended()[-1].failure == "not-taken"


@pytest.mark.parametrize("line", [None, QueueLength(3, 0.5)])
def test_one_that_has_left_its_line_without_a_word_is_sent_again(
    flights: Flights, line: QueueLength | None
) -> None:
    flights.ask()
    flights.says(Piece(-1, queued="router-1"))
    flights.line = QueueLength(2, 3.0)
    flights.later(3, alive=["router-1"])
    flights.line = line
    flights.later(1, alive=["router-1"])
    assert len(flights.requests) == 1
    flights.later(timeouts.ACCEPT[0] + 1, alive=["router-1"])
    assert [each.attempt for each in flights.requests] == [1, 2]


def test_one_is_in_its_line_no_longer_than_it_may_be_whatever_the_router_tells(
    flights: Flights,
) -> None:
    client = flights.ask()
    flights.says(Piece(-1, queued="router-1"))
    flights.line = QueueLength(9, 1000.0)
    flights.later(REQUEST.patience + timeouts.UNASKED - 1, alive=["router-1"])
    assert not client.flight.done, "its router says so itself, and has its time for that"
    flights.later(2, alive=["router-1"])
    assert client.ended()[-1].failure == "not-taken"


SILENT_ANSWERS = {
    "nobody has it": (),
    "a router has it in line": (Piece(-1, queued="router-1"),),
    "a replica has it": (TAKEN,),
    "a replica has begun it": (TAKEN, HEAD),
    "a replica streams it": (replace(HEAD, content_type=STREAM), MIDDLE),
}


@pytest.mark.parametrize("told", SILENT_ANSWERS.values(), ids=SILENT_ANSWERS.keys())
@pytest.mark.parametrize("router", ["router-1", ""])
def test_a_request_ends_in_one_budget_after_the_last_sign_of_life_of_what_had_it(
    flights: Flights, told: tuple[Piece, ...], router: str
) -> None:
    client = flights.ask()
    for name in ("chat-0", "chat-1", "router-1"):
        flights.beats(name)
    flights.says(*told)
    flights.line = None
    for _ in range(5 if client.flight.answer.replica else 0):
        flights.later(1, alive=["chat-0", "chat-1", "router-1"])
        flights.asks("chat-0", r=client.flight.answer.pieces)
    assert len(flights.requests) == 1
    alive = [router] if router else []
    flights.later(REQUEST.patience + timeouts.UNASKED, alive=alive)
    assert client.flight.done


def test_what_was_on_its_way_when_the_gateway_moved_is_soon_sent_again(
    flights: Flights,
) -> None:
    flights.ask()
    flights.later(8, alive=["router-1"])
    tried = len(flights.requests)
    flights.nats_returns()
    flights.later(timeouts.ACCEPT[0] + 0.5, alive=["router-1"])
    assert len(flights.requests) == tried + 1


def test_a_request_in_the_line_of_a_router_that_died_is_sent_again(flights: Flights) -> None:
    flights.ask()
    flights.says(Piece(-1, queued="router-1"))
    flights.later(2, alive=["router-1"])
    flights.later(timeouts.ROUTER_SILENCE + 0.5)
    assert [each.attempt for each in flights.requests] == [1, 2]


def test_a_request_that_a_replica_has_is_not_sent_again_however_long_it_takes(
    flights: Flights,
) -> None:
    client = flights.ask()
    flights.says(TAKEN)
    for _ in range(60):
        flights.later(1, alive=["chat-0"])
        flights.asks("chat-0", r=0)
    assert len(flights.requests) == 1
    flights.says(HEAD, MIDDLE, LAST)
    assert text(client.ended()) == b"one two three"


def test_a_routers_refusal_is_the_answer(flights: Flights) -> None:
    client = flights.ask()
    refusal = Piece(
        0,
        b"busy",
        status=429,
        content_type="text/plain",
        end=True,
        failure="refused",
        retry_after=3,
    )
    flights.says(refusal)
    assert client.ended() == [refusal]


# Routers


def number(count: int) -> Request:
    return replace(REQUEST, id=f"n{count}")


def test_requests_are_shared_out_among_the_routers_that_are_heard(flights: Flights) -> None:
    for name in ("router-1", "router-2", "router-old"):
        flights.beats(name)
    for count in range(6):
        flights.ask(number(count))
        flights.says(TAKEN, to=f"n{count}")
    assert flights.addressees == ["router-1", "router-2"] * 3
    assert [each.model for each in flights.requests] == ["chat"] * 6


def test_where_no_router_is_heard_or_has_a_subject_of_its_own_any_of_them_is_asked(
    flights: Flights,
) -> None:
    flights.ask(number(1))
    flights.beats("router-old")
    flights.ask(number(2))
    flights.says(TAKEN, to="n1")
    flights.says(TAKEN, to="n2")
    flights.beats("router-1")
    flights.later(HEARD + 1)
    flights.ask(number(3))
    assert flights.addressees == ["", "", ""]


def test_a_router_that_falls_silent_gets_one_request_and_then_none(flights: Flights) -> None:
    flights.beats("router-2")
    flights.beats("router-1")
    flights.later(0.1)
    for count in range(20):
        flights.ask(number(count))
        if flights.addressees[-1] == "router-1":
            flights.says(TAKEN, to=f"n{count}")
        flights.later(0.25, alive=["router-1"])
    assert flights.addressees.count("router-2") == 1


def test_what_a_silent_router_has_goes_to_another_as_soon_as_its_heartbeat_is_overdue(
    flights: Flights,
) -> None:
    flights.beats("router-1")
    flights.ask()
    flights.later(1, alive=["router-2"])
    assert flights.addressees == ["router-1"]
    flights.later(UNHEARD, alive=["router-2"])
    assert flights.addressees == ["router-1", "router-2"]
    assert flights.cancels == [b"2"]


def test_a_router_that_is_heard_has_its_time_to_find_a_replica(flights: Flights) -> None:
    flights.beats("router-1")
    flights.ask()
    flights.later(timeouts.ACCEPT[0] - 0.5, alive=["router-1", "router-2"])
    assert flights.addressees == ["router-1"]
    flights.later(1, alive=["router-1", "router-2"])
    assert flights.addressees == ["router-1", "router-2"]


def test_a_line_is_left_for_that_of_another_router(flights: Flights) -> None:
    flights.beats("router-1")
    flights.ask()
    flights.says(Piece(-1, queued="router-1"))
    flights.later(timeouts.ROUTER_SILENCE + 1, alive=["router-2"])
    assert flights.addressees == ["router-1", "router-2"]


def test_requests_whose_clients_left_are_held_against_no_router(flights: Flights) -> None:
    for name in ("router-1", "router-2"):
        flights.beats(name)
    for count in range(4):
        flights.ask(number(count))
        flights.leaves(f"n{count}")
    assert [each.untaken for each in flights.heartbeats.routers()] == [0, 0]


# Engines die


def test_a_request_that_had_not_begun_when_its_engine_died_goes_to_another(
    flights: Flights,
) -> None:
    client = flights.ask(replace(REQUEST, timeout=100.0))
    flights.says(TAKEN)
    flights.later(1, alive=["chat-0"])
    flights.story.stops("chat-0")
    flights.ticks()
    again = flights.requests[1]
    assert (again.attempt, again.avoid, again.body) == (2, "chat-0", REQUEST.body)
    assert again.gone
    assert again.timeout == pytest.approx(99.0, abs=0.5)
    flights.says(*(replace(each, attempt=2, replica="") for each in (HEAD, MIDDLE, LAST)))
    assert text(client.ended()) == b"one two three"


def test_an_engine_that_was_replaced_by_another_is_dead_too(flights: Flights) -> None:
    flights.ask()
    flights.says(TAKEN)
    flights.later(1, alive=["chat-0"])
    flights.restarts("chat-0")
    assert [each.attempt for each in flights.requests] == [1, 2]


def test_the_engine_that_has_the_next_attempt_is_another_one_and_alive(
    flights: Flights,
) -> None:
    flights.restarts("chat-1", pid=9)
    flights.ask()
    flights.says(TAKEN)
    flights.later(1, alive=["chat-0"])
    flights.story.stops("chat-0")
    flights.ticks()
    flights.says(Piece(-1, replica="chat-1", attempt=2))
    flights.later(1, alive=["chat-1"])
    assert [each.attempt for each in flights.requests] == [1, 2]


def test_an_engine_that_says_itself_that_it_fails_is_not_waited_for(flights: Flights) -> None:
    flights.ask()
    flights.says(TAKEN, Piece(0, end=True, failure=Failure.ENGINE_FAILED, replica="chat-0"))
    assert [each.attempt for each in flights.requests] == [1, 2]
    assert flights.requests[1].avoid == "chat-0"


def test_an_engine_that_is_not_heard_from_any_more_is_given_up(flights: Flights) -> None:
    flights.ask()
    flights.says(TAKEN)
    flights.later(1, alive=["chat-0"])
    flights.later(timeouts.SILENCE - 1)
    assert len(flights.requests) == 1
    flights.later(2)
    assert [each.attempt for each in flights.requests] == [1, 2]


def test_one_beside_which_no_other_is_heard_has_longer_it_may_only_pause(
    flights: Flights,
) -> None:
    flights.beats("chat-1")
    client = flights.ask()
    flights.says(TAKEN)
    flights.later(1, alive=["chat-0"])
    flights.later(timeouts.SILENCE_ALONE - 1)
    assert len(flights.requests) == 1
    flights.later(2)
    assert [each.attempt for each in flights.requests] == [1, 2]
    assert not client.flight.done


def test_a_request_that_meets_one_silent_engine_after_another_is_not_what_ends_them(
    flights: Flights,
) -> None:
    client = flights.ask()
    for _ in range(MAX_ATTEMPTS - 1):
        attempt = flights.requests[-1].attempt
        flights.says(Piece(-1, replica="chat-0", attempt=attempt))
        flights.later(1, alive=["chat-0"])
        flights.later(timeouts.SILENCE + 1)
        assert flights.requests[-1].attempt == attempt + 1
        assert not client.flight.done


def test_an_engine_that_takes_a_request_lives_although_its_heartbeats_were_cut_off(
    flights: Flights,
) -> None:
    for name in ("chat-0", "chat-1"):
        flights.beats(name)
    flights.later(40)
    flights.ask()
    flights.says(TAKEN)
    flights.later(timeouts.SILENCE_ALONE - 1)
    assert len(flights.requests) == 1
    flights.later(2)
    assert len(flights.requests) == 2


def test_one_that_ends_because_its_time_is_over_says_which_actor_was_silent(
    flights: Flights,
) -> None:
    client = flights.ask(replace(REQUEST, timeout=8.0))
    flights.says(TAKEN)
    flights.later(1, alive=["chat-0"])
    flights.later(8)
    failure = client.ended()[-1]
    assert failure.failure == "overdue"
    assert failure.body == b"chat-0, which has it, has not been heard from for 7 s"


def test_a_request_that_its_engine_does_not_know_any_more_is_looked_for_and_sent_again(
    flights: Flights,
) -> None:
    flights.ask()
    flights.says(TAKEN)
    for _ in range(10):
        if len(flights.requests) == 1:
            flights.later(1, alive=["chat-0"])  # and it never asks whether it is wanted
    assert [each.attempt for each in flights.requests] == [1, 2]


def test_a_request_with_which_two_engines_failed_in_a_row_goes_to_no_third(
    flights: Flights,
) -> None:
    client = flights.ask()
    for attempt in range(1, MAX_FATAL + 1):
        assert [each.attempt for each in flights.requests] == list(range(1, attempt + 1))
        failed = Piece(0, end=True, failure=Failure.ENGINE_FAILED, replica=f"chat-{attempt - 1}")
        flights.says(replace(failed, attempt=attempt))
    (failure,) = client.ended()
    assert (failure.failure, failure.body) == ("fatal", b"2")
    assert len(flights.requests) == MAX_FATAL
    assert flights.cancels[-1] == b"fatal: 2"


def test_engines_that_fail_count_against_a_request_only_in_a_row(flights: Flights) -> None:
    client = flights.ask(chat())
    failed = Piece(0, end=True, failure=Failure.ENGINE_FAILED, replica="chat-0")
    flights.says(failed)
    refusal = Piece(0, b'{"error":{}}', status=500, content_type=JSON, replica="chat-1", attempt=2)
    flights.says(replace(refusal, end=True))
    assert not client.flight.done or client.flight.fatal == 0
    again = flights.ask(replace(REQUEST, id="again"))
    flights.says(failed, to="again")
    flights.says(Piece(-1, replica="chat-1", attempt=2), to="again")
    flights.says(replace(failed, attempt=2, failure=Failure.ENGINE_STOPPED), to="again")
    assert again.flight.fatal == 0, "it was stopped, and did not fail"
    flights.says(replace(failed, attempt=3, replica="chat-1"), to="again")
    assert not again.flight.done
    assert [each.attempt for each in flights.requests if each.id == "again"] == [1, 2, 3, 4]


def test_a_request_with_which_two_engines_died_goes_to_no_third(flights: Flights) -> None:
    client = flights.ask()
    for attempt, replica in ((1, "chat-0"), (2, "chat-1")):
        flights.says(Piece(-1, replica=replica, attempt=attempt))
        flights.later(1, alive=[replica])
        flights.story.fails(replica)
        flights.ticks()
    (failure,) = client.ended()
    assert failure.failure == "fatal"


def test_a_request_whose_engines_were_stopped_is_not_what_ends_them(flights: Flights) -> None:
    client = flights.ask()
    for attempt, replica in ((1, "chat-0"), (2, "chat-1")):
        flights.says(Piece(-1, replica=replica, attempt=attempt))
        flights.later(1, alive=[replica])
        flights.story.stops(replica)
        flights.ticks()
    assert not client.flight.done
    assert [each.attempt for each in flights.requests] == [1, 2, 3]


def test_one_death_counts_once_however_many_ways_a_gateway_hears_of_it(flights: Flights) -> None:
    client = flights.ask()
    flights.says(Piece(0, end=True, failure=Failure.ENGINE_FAILED, replica="chat-0"))
    assert client.flight.fatal == 1
    flights.story.fails("chat-0")  # the log has it only now, and the next attempt got lost
    flights.later(timeouts.ACCEPT[0] + 0.1)
    flights.restarts("chat-0")
    flights.later(timeouts.ACCEPT[1] + 0.1)
    assert [each.attempt for each in flights.requests] == [1, 2, 3, 4]
    assert (client.flight.done, client.flight.fatal) == (False, 1)


def test_the_start_of_the_next_engine_is_not_a_second_death() -> None:
    flights = Flights(serving(1))
    client = flights.ask()
    flights.says(TAKEN)
    flights.later(1, alive=["chat-0"])
    flights.story.fails("chat-0")
    flights.ticks()
    assert [each.attempt for each in flights.requests] == [1, 2]
    flights.restarts("chat-0")
    flights.later(timeouts.ACCEPT[0] + 0.1)
    assert [each.attempt for each in flights.requests] == [1, 2, 3]
    assert not client.flight.done


def test_an_engine_that_refuses_all_since_it_dies_is_waited_for(flights: Flights) -> None:
    client = flights.ask()
    failed = Piece(0, end=True, failure=Failure.ENGINE_FAILED, replica="chat-0")
    flights.says(failed)
    flights.says(replace(failed, attempt=2))
    assert [each.attempt for each in flights.requests] == [1, 2]
    flights.story.fails("chat-0")
    flights.later(timeouts.ACCEPT[0] + 0.1)
    assert [each.attempt for each in flights.requests] == [1, 2, 3]
    flights.says(*(replace(each, attempt=3, replica="") for each in (HEAD, MIDDLE, LAST)))
    assert text(client.ended()) == b"one two three"


def test_an_engine_that_fails_a_request_and_lives_is_asked_a_few_times(flights: Flights) -> None:
    client = flights.ask()
    failed = Piece(0, end=True, failure=Failure.ENGINE_FAILED, replica="chat-0")
    while not client.flight.done:
        flights.says(replace(failed, attempt=len(flights.requests)))
        if flights.requests[-1].attempt == client.flight.counted:
            flights.later(timeouts.ACCEPT[1] + 0.1)
    assert len(flights.requests) == MAX_ATTEMPTS
    assert client.ended()[-1].failure == "engine-failed"


def test_the_only_engine_that_dies_again_once_it_is_back_counts_again() -> None:
    flights = Flights(serving(1))
    client = flights.ask()
    for attempt in (1, 2):
        flights.says(replace(TAKEN, attempt=attempt))
        flights.story.fails("chat-0")
        flights.ticks()
        if attempt == 1:
            flights.says(Piece(-1, queued="router-1", attempt=2))
            flights.restarts("chat-0")
    (failure,) = client.ended()
    assert failure.failure == "fatal"


def test_an_error_that_an_engine_answers_with_is_asked_about_once_more(flights: Flights) -> None:
    client = flights.ask()
    error = Piece(0, b'{"error":{}}', status=500, content_type=JSON, replica="chat-0", end=True)
    flights.says(error)
    assert [each.attempt for each in flights.requests] == [1, 2]
    second = replace(error, attempt=2, replica="chat-1", body=b'{"error":{"message":"no"}}')
    flights.says(second)
    assert client.ended() == [second]
    assert len(flights.requests) == 2
    assert [each.gone for each in flights.requests] == [False, False]


def test_the_engine_that_answered_with_an_error_is_not_asked_a_second_time() -> None:
    flights = Flights(serving(1))
    client = flights.ask()
    error = Piece(0, b'{"error":{}}', status=500, content_type=JSON, replica="chat-0", end=True)
    flights.says(error)
    assert client.ended() == [error]
    assert len(flights.requests) == 1


@pytest.mark.parametrize("status", [429, 501, 503])
def test_what_an_engine_says_that_is_full_is_passed_on_at_once(
    flights: Flights, status: int
) -> None:
    client = flights.ask()
    full = Piece(
        0,
        b'{"error":{}}',
        status=status,
        content_type=JSON,
        replica="chat-0",
        end=True,
        retry_after=7,
    )
    flights.says(full)
    assert client.ended() == [full]
    assert len(flights.requests) == 1


def test_an_answer_without_a_stream_that_has_begun_can_not_go_on(flights: Flights) -> None:
    client = flights.ask()
    flights.says(HEAD, Piece(1, end=True, failure=Failure.ENGINE_FAILED))
    head, failure = client.ended()
    assert head.body == b"one "
    assert failure.failure == "cant-continue"
    assert failure.body == b"engine-failed: it is not a stream of text"
    assert flights.cancels == [b"cant-continue: engine-failed: it is not a stream of text"]


def test_a_request_whose_time_was_over_elsewhere_is_not_sent_again(flights: Flights) -> None:
    client = flights.ask()
    flights.says(Piece(0, end=True, failure=Failure.ENGINE_TIMED_OUT))
    (failure,) = client.ended()
    assert failure.failure == "overdue"
    assert len(flights.requests) == 1


# Time


def test_an_engine_that_falls_silent_in_an_answer_ends_it(flights: Flights) -> None:
    client = flights.ask(idle=5.0)
    flights.says(HEAD)
    for _ in range(7):
        flights.later(1, alive=["chat-0"])
        flights.asks("chat-0", r=1)
    failure = client.ended()[-1]
    assert failure.failure == "idle"
    assert flights.cancels == [b"idle: "]


def test_a_request_ends_when_its_answer_is_no_longer_wanted(flights: Flights) -> None:
    client = flights.ask(replace(REQUEST, timeout=3.0))
    flights.says(Piece(-1, queued="router-1"))
    flights.later(2.5, alive=["router-1"])
    assert flights.cancels == []
    flights.later(1, alive=["router-1"])
    (failure,) = client.ended()
    assert failure.failure == "overdue"
    assert flights.cancels == [b"overdue: "]


# NATS dies


def test_requests_wait_a_moment_for_nats_to_come_back(flights: Flights) -> None:
    client = flights.ask()
    flights.says(TAKEN, HEAD)
    flights.nats_dies()
    flights.later(timeouts.NATS - 1)
    flights.nats_returns()
    flights.later(1, alive=["chat-0"])
    flights.says(MIDDLE, LAST)
    assert text(client.ended()) == b"one two three"


def test_requests_end_when_nats_does_not_come_back(flights: Flights) -> None:
    client = flights.ask()
    flights.says(TAKEN, HEAD)
    flights.nats_dies()
    flights.later(timeouts.NATS + 1)
    assert client.ended()[-1].failure == "nats-lost"


def test_a_loss_that_was_noticed_late_is_waited_for_from_the_last_sign_of_life(
    flights: Flights,
) -> None:
    client = flights.ask()
    flights.says(TAKEN, HEAD)
    flights.later(1, alive=["chat-0"])
    flights.later(7)  # nothing comes, and nothing says that the server is gone
    flights.nats_dies()
    flights.later(timeouts.RECONNECTING - 0.5)
    assert not client.flight.done
    flights.later(1)
    assert client.ended()[-1].failure == "nats-lost"


def test_a_gateway_that_was_cut_off_itself_listens_before_it_holds_an_engine_silent(
    flights: Flights,
) -> None:
    flights.ask()
    flights.says(TAKEN)
    flights.later(1, alive=["chat-0", "chat-1"])
    flights.later(8)
    flights.nats_dies()
    flights.later(4)
    flights.nats_returns()
    flights.later(timeouts.HEARD_LATELY - 0.5, alive=["chat-1"])
    assert len(flights.requests) == 1
    flights.later(1, alive=["chat-1"])
    assert [each.attempt for each in flights.requests] == [1, 2]


def test_what_was_said_while_nats_was_away_is_looked_up(flights: Flights) -> None:
    client = flights.ask()
    flights.says(TAKEN, HEAD)
    flights.nats_dies()
    flights.says(MIDDLE, LAST, lost=True)
    flights.nats_returns()
    flights.looks()
    assert text(client.ended()) == b"one two three"


def test_an_untaken_request_has_its_time_once_more(flights: Flights) -> None:
    flights.ask()
    flights.later(timeouts.ACCEPT[0] - 0.5)
    flights.nats_dies()
    flights.later(1)
    flights.nats_returns()
    flights.later(timeouts.ACCEPT[0] - 0.5)
    assert len(flights.requests) == 1
    flights.later(1)
    assert [each.attempt for each in flights.requests] == [1, 2]


def test_no_actor_is_held_silent_for_what_nats_did_not_carry(flights: Flights) -> None:
    flights.ask()
    flights.says(TAKEN)
    flights.later(1, alive=["chat-0"])
    flights.later(timeouts.SILENCE - 4)
    flights.nats_dies()
    flights.later(timeouts.NATS - 0.5)
    flights.nats_returns()
    flights.later(1)
    assert len(flights.requests) == 1


def test_what_can_not_be_looked_up_without_nats_is_looked_up_when_it_is_back(
    flights: Flights,
) -> None:
    client = flights.ask()
    flights.keeps = False
    flights.says(TAKEN)
    flights.says(HEAD, MIDDLE, lost=True)
    flights.says(LAST)
    flights.nats_dies()
    flights.looks()
    flights.keeps = True
    flights.nats_returns()
    flights.looks()
    assert text(client.ended()) == b"one two three"
    assert len(flights.requests) == 1


# Clients leave


def test_a_client_that_leaves_ends_its_request_wherever_it_is(flights: Flights) -> None:
    client = flights.ask()
    flights.says(HEAD)
    flights.leaves()
    assert client.flight.done
    assert flights.cancels == [b""]
    assert [type(each) for each in flights.effects[-2:]] == [Cancel, Forget]


def test_a_client_that_reads_too_slowly_is_let_go(flights: Flights) -> None:
    client = flights.ask()
    flights.says(HEAD)
    flights.reads_too_slowly()
    assert [piece.failure for piece in client.ended()] == [Failure.TOO_SLOW]
    assert flights.cancels == [b"too-slow: "]
    assert client.flight.done


def test_a_resumable_answer_goes_on_without_a_client_that_reads_too_slowly(
    flights: Flights,
) -> None:
    client = flights.ask(replace(REQUEST, keep=True))
    flights.says(HEAD)
    flights.reads_too_slowly()
    assert [piece.failure for piece in client.ended()] == [Failure.TOO_SLOW]
    assert flights.cancels == []
    flights.says(MIDDLE, LAST)
    assert client.flight.done
    assert not client.given


def test_a_gateway_that_stops_ends_what_no_other_can_give_again(flights: Flights) -> None:
    lost, kept = flights.ask(), flights.ask(replace(REQUEST, id="k", keep=True))
    flights.stops()
    assert [piece.failure for piece in lost.ended()] == [Failure.STOPPING]
    (last,) = kept.ended()
    assert last.failure == Failure.STOPPING
    assert b"GET /v1/streams/k of another gateway" in last.body
    assert (lost.flight.done, kept.flight.done) == (True, False)
    assert flights.cancels == [b"stopping: "]


def test_a_request_that_can_not_be_watched_ends(flights: Flights) -> None:
    client = flights.ask()
    flights.happens("r", Stuck())
    assert [piece.failure for piece in client.ended()] == [Failure.ENGINE_FAILED]


def test_one_that_leaves_after_the_end_ends_nothing(flights: Flights) -> None:
    flights.ask()
    flights.says(HEAD, MIDDLE, LAST)
    flights.leaves()
    assert flights.cancels == []


def test_a_request_that_is_to_be_resumable_goes_on_without_its_client(flights: Flights) -> None:
    flights.ask(replace(REQUEST, keep=True))
    flights.says(TAKEN)
    flights.leaves()
    assert flights.cancels == []
    assert flights.asks("chat-0", r=0) == {}
    flights.story.stops("chat-0")
    flights.ticks()
    assert [each.attempt for each in flights.requests] == [1, 2]


# Pieces get lost


def test_a_piece_that_comes_early_waits_for_its_predecessor(flights: Flights) -> None:
    client = flights.ask()
    flights.says(HEAD, LAST)
    assert client.next().body == b"one "
    flights.says(MIDDLE)
    assert text(client.ended()) == b"two three"


def test_a_piece_that_got_lost_is_looked_up(flights: Flights) -> None:
    client = flights.ask()
    flights.says(HEAD)
    flights.says(MIDDLE, lost=True)
    flights.says(LAST)
    flights.looks()
    assert text(client.ended()) == b"one two three"
    assert len(flights.requests) == 1


def test_where_it_is_lost_for_good_the_answer_goes_on_elsewhere_or_ends(
    flights: Flights,
) -> None:
    client = flights.ask()
    flights.says(HEAD, LAST)
    flights.looks()
    assert client.ended()[-1].body == b"gap: it is not a stream of text"
    request = replace(chat(), id="s")
    client = flights.ask(request)
    flights.beats("chat-0")
    pieces = stream(request, 1, "chat-0")
    flights.says(*pieces[:2], pieces[3], to="s")
    flights.looks()
    again = flights.requests[-1]
    assert (again.id, again.continues) == ("s", "rest")
    flights.says(*stream(again, 2, "chat-1"), to="s")
    assert words(client.ended()) == "Once upon a time"


def test_a_head_that_is_lost_for_good_begins_anew(flights: Flights) -> None:
    client = flights.ask()
    flights.says(MIDDLE, LAST)
    flights.looks()
    assert [each.attempt for each in flights.requests] == [1, 2]
    flights.says(*(replace(each, attempt=2) for each in (HEAD, MIDDLE, LAST)))
    assert text(client.ended()) == b"one two three"


def test_where_nothing_can_be_looked_up_it_is_as_lost(flights: Flights) -> None:
    flights.ask()
    flights.keeps = False
    flights.says(MIDDLE)
    flights.looks()
    assert [each.attempt for each in flights.requests] == [1, 2]


def test_a_look_up_without_an_answer_does_not_take_long(flights: Flights) -> None:
    flights.answers = False
    request = chat()
    flights.ask(request)
    flights.beats("chat-0")
    pieces = stream(request, 1, "chat-0")
    flights.says(*pieces[:2], pieces[3])
    flights.looks()
    flights.later(timeouts.LOOK_UP[1] - 0.5)
    assert len(flights.requests) == 1
    flights.later(1)
    assert flights.requests[-1].continues == "rest"


def test_what_is_left_for_it_counts_from_the_last_piece_though_its_engine_lives(
    flights: Flights,
) -> None:
    request = chat()
    flights.ask(request)
    pieces = stream(request, 1, "chat-0")
    flights.says(*pieces[:2])
    for _ in range(9):
        flights.later(1, alive=["chat-0", "chat-1"])
        flights.asks("chat-0", r=2)
    flights.answers = False
    flights.says(pieces[3])
    flights.looks()
    flights.later(timeouts.LOOK_UP[0] - 0.5, alive=["chat-0"])
    assert len(flights.requests) == 1
    flights.later(1, alive=["chat-0"])
    assert flights.requests[-1].continues == "rest"


def test_what_is_looked_for_when_the_next_attempt_begins_is_not_missed(flights: Flights) -> None:
    flights.ask()
    flights.says(MIDDLE, Piece(2, end=True, failure=Failure.ENGINE_FAILED))
    flights.looks()
    assert [each.attempt for each in flights.requests] == [1, 2]


def test_only_so_many_pieces_wait_for_one_that_is_missing(flights: Flights) -> None:
    client = flights.ask()
    flights.says(*(Piece(chunk + 1, b"x") for chunk in range(early_pieces.MOST + 1)), kept=False)
    (failure,) = client.ended()
    assert failure.failure == "gap"


def test_only_so_many_bytes_wait_for_a_piece_that_is_missing(flights: Flights) -> None:
    client = flights.ask()
    half = b"x" * (early_pieces.MOST_BYTES // 2)
    flights.says(Piece(1, half), Piece(2, half), Piece(2, half), kept=False)
    assert not client.flight.done
    flights.says(Piece(3, b"x"), kept=False)
    assert client.ended()[-1].failure == "gap"
    assert client.flight.early == {}


# Engines ask


def test_an_engine_hears_which_of_its_requests_are_unwanted(flights: Flights) -> None:
    flights.ask()
    assert flights.asks("chat-0", r=0, unknown=0) == {"unknown": ALL_ATTEMPTS}


def test_an_engine_hears_of_which_of_its_requests_a_later_attempt_is_under_way(
    flights: Flights,
) -> None:
    flights.ask()
    flights.later(timeouts.ACCEPT[0] + 0.5)
    assert flights.asks("chat-0", r=UnderWay(1, 0)) == {"r": 2}
    assert flights.asks("chat-1", r=UnderWay(2, 0)) == {}


def test_an_engine_that_has_sent_more_than_came_shows_that_pieces_are_missing(
    flights: Flights,
) -> None:
    client = flights.ask()
    flights.says(HEAD)
    flights.says(MIDDLE, LAST, lost=True)
    flights.asks("chat-0", r=3)
    flights.looks()
    assert text(client.ended()) == b"one two three"
