"""The gateway's shell carries out what its core decides, and hears what is said to it.

There is no NATS here: what the gateway publishes is recorded, what it listens to is said by hand.
What is decided, and when, is tested without a shell: `test_in_flight.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import msgspec
import pytest
from msgspec.structs import replace
from nats.aio.msg import Msg
from nats.errors import MaxPayloadError

from nebula.actors.gateway.budget import UNCOUNTED, Hold
from nebula.actors.gateway.delivery import BEHIND, MAX_WAITING_BYTES, ClientGone, Delivery
from nebula.actors.gateway.large_bodies import CARRIED
from nebula.actors.gateway.not_served import AlreadyInFlight, NotServed
from nebula.events import envelope, pushed_bodies, subjects
from nebula.events.failures import Failure
from nebula.events.heartbeats import QueueLength, RouterHeartbeat
from nebula.events.inference import ALL_ATTEMPTS, Piece, Request, UnderWay
from nebula.events.leases import Lease, LeasesAsked, LeasesGranted
from nebula.events.record import parse_headers
from nebula.events.state import NameBinding
from nebula.store import inference_log
from tests.unit.flights import JSON, REQUEST, chat, serving, stream, text, words
from tests.unit.gateway_bench import Bench, listening
from tests.unit.vllm_stream import Engine

pytestmark = pytest.mark.anyio

HEAD = Piece(0, b"one ", status=200, content_type=JSON, replica="chat-0")
MIDDLE = Piece(1, b"two ")
LAST = Piece(2, b"three", end=True)
TAKEN = Piece(-1, replica="chat-0")


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    bench = Bench(answer_memory=3 * MAX_WAITING_BYTES // 4)
    monkeypatch.setattr(inference_log, "read", bench.nats.read)
    async with listening(bench):
        yield bench


async def ended(delivery: Delivery) -> list[Piece]:
    """Read all that the client gets."""
    given: list[Piece] = []
    while not given or not given[-1].end:
        async with asyncio.timeout(5):
            given.append(await delivery.next())
    return given


async def test_a_request_is_sent_and_its_answer_given_as_it_comes(bench: Bench) -> None:
    delivery = bench.ask()
    assert bench.requests == [REQUEST]
    bench.says(TAKEN, HEAD)
    assert (await delivery.next()).body == b"one "
    bench.says(MIDDLE, LAST)
    assert text(await ended(delivery)) == b"two three"
    assert bench.subjects == ["requests.chat"]


@pytest.mark.parametrize("header", [b"", b"NATS/1.0\r\nX: y\r\n\r\n", b"\xff\xff"])
async def test_what_no_engine_has_sent_changes_nothing(bench: Bench, header: bytes) -> None:
    delivery = bench.ask()
    bench.hears("nebula.inference.responses.gw.r", header, b"")
    bench.says(HEAD, MIDDLE, LAST)
    assert text(await ended(delivery)) == b"one two three"


async def test_what_a_router_has_lent_is_sent_to_directly_and_asked_with_reason(
    bench: Bench,
) -> None:
    bench.gateway.leasing.leases.asks = True
    status = RouterHeartbeat("router-1", {}, addressed=True)
    told = subjects.router_status("router-1").encode()
    bench.nats.heard[subjects.ROUTER_STATUS](told, b"", msgspec.json.encode(status))
    bench.ask()
    bench.gateway.leasing.report()
    [report] = [each for each in bench.nats.posted if each.subject.startswith("nebula.leases.")]
    asked = msgspec.json.decode(report.body, type=LeasesAsked)
    version = bench.gateway.projection.state.replicas["chat-0"].version
    answer = LeasesGranted(asked.serial, {"chat": (Lease("chat-0", version, 4),)})
    granted = subjects.leases_granted("gw", "router-1").encode()
    bench.nats.heard[subjects.leases_granted("gw", "*")](granted, b"", msgspec.json.encode(answer))
    bench.ask(replace(REQUEST, id="direct"))
    sent = bench.nats.posted[-1]
    assert sent.subject == subjects.replica_requests("chat", "chat-0")
    routed = envelope.read_routed(parse_headers(sent.header))
    assert routed is not None
    assert (routed.gateway, routed.router) == ("gw", "router-1")
    body = bytes(CARRIED + 1)
    bench.ask(replace(REQUEST, id="long", body=body))
    asked_first, behind = bench.nats.posted[-2:]
    assert (asked_first.subject, asked_first.body) == (sent.subject, b"")
    headers = parse_headers(asked_first.header)
    assert (headers[envelope.SIZE], headers[envelope.PUSHED]) == (str(len(body)), "1")
    assert behind.subject == subjects.pushed_bodies("chat", "chat-0")
    assert (pushed_bodies.request_of(behind.header), behind.body) == ("long", body)
    bench.ask(replace(REQUEST, id="again", avoid="chat-0"))
    assert bench.subjects[-1] == "requests.chat.router-1"
    bench.ask(replace(REQUEST, id="long-again", avoid="chat-0", body=body))
    assert bench.subjects[-1] == "requests.chat.router-1"
    assert envelope.PUSHED not in parse_headers(bench.nats.posted[-1].header)


async def test_requests_and_copies_go_to_the_routers_that_are_heard(bench: Bench) -> None:
    for name in ("router-1", "router-2"):
        status = RouterHeartbeat(name, {"chat": QueueLength(1, 0.5)}, addressed=True)
        subject = subjects.router_status(name).encode()
        bench.nats.heard[subjects.ROUTER_STATUS](subject, b"", msgspec.json.encode(status))
    bench.ask()
    for _ in range(2):
        bench.gateway.sending.copy(REQUEST)
    assert bench.subjects == [f"requests.chat.router-{number}" for number in (1, 2, 2)]
    assert bench.gateway.heartbeats.queue("chat") == QueueLength(2, 0.5)


@pytest.mark.parametrize("keep", [False, True])
async def test_a_request_that_can_not_be_sent_is_noted_as_not_begun_if_it_was_claimed(
    bench: Bench, keep: bool
) -> None:
    await bench.nats.dies()
    with pytest.raises(NotServed):
        bench.ask(replace(REQUEST, keep=keep))
    assert bench.subjects == (["cancel.chat.r", "responses.gw.r"] if keep else [])


async def test_a_request_whose_id_is_in_flight_ends_not_the_one_that_is(bench: Bench) -> None:
    request = replace(REQUEST, keep=True)
    bench.ask(request)
    with pytest.raises(AlreadyInFlight):
        bench.ask(request)
    assert bench.subjects == ["requests.chat"]


async def test_nats_is_lost_since_the_first_time_that_it_was_not_there(bench: Bench) -> None:
    await bench.nats.dies()
    first = bench.gateway.core.around.link
    await asyncio.sleep(0.01)
    await bench.nats.dies()
    assert bench.gateway.core.around.link == first
    await bench.nats.returns()
    assert bench.gateway.core.around.link.lost_at is None
    await bench.nats.dies()
    assert (bench.gateway.core.around.link.lost_at or 0) > (first.lost_at or 0)


async def test_without_nats_nothing_is_asked(bench: Bench) -> None:
    await bench.nats.dies()
    with pytest.raises(NotServed, match="NATS can't be reached") as refused:
        bench.ask()
    assert refused.value.retry_after == 1


async def test_what_nats_does_not_take_is_not_asked(bench: Bench) -> None:
    bench.nats.refuses = MaxPayloadError()
    with pytest.raises(NotServed, match="NATS refused the request"):
        bench.ask()
    assert await bench.asks("chat-0", r=UnderWay(1, 0)) == {}  # nothing can be posted
    bench.nats.refuses = None
    assert await bench.asks("chat-0", r=UnderWay(1, 0)) == {"r": ALL_ATTEMPTS}


async def test_a_resumable_request_that_is_not_sent_is_told_to_a_repeated_one(
    bench: Bench,
) -> None:
    bench.gateway.projection.state = serving(0).state
    with pytest.raises(NotServed):
        bench.gateway.ask(replace(REQUEST, keep=True, model="none"), NameBinding("none"))
    assert [each.body for each in bench.nats.posted] == [b"not-taken", b"not-taken"]
    assert bench.subjects == ["cancel.none.r", "responses.gw.r"]


async def test_one_that_is_in_flight_is_neither_sent_again_nor_ended(bench: Bench) -> None:
    delivery = bench.ask(replace(REQUEST, keep=True))
    with pytest.raises(NotServed, match="still being answered"):
        bench.ask(replace(REQUEST, keep=True))
    assert bench.subjects == ["requests.chat"]
    bench.says(HEAD, MIDDLE, LAST)
    assert text(await ended(delivery)) == b"one two three"


async def test_an_engine_that_fails_has_its_request_sent_elsewhere(bench: Bench) -> None:
    delivery = bench.ask()
    bench.says(TAKEN, Piece(0, end=True, failure=Failure.ENGINE_FAILED, replica="chat-0"))
    assert [each.attempt for each in bench.requests] == [1, 2]
    assert bench.subjects == ["requests.chat", "cancel.chat.r", "requests.chat"]
    bench.says(*(replace(each, attempt=2) for each in (HEAD, MIDDLE, LAST)))
    assert text(await ended(delivery)) == b"one two three"


async def test_a_further_attempt_that_nats_does_not_take_ends_the_request(bench: Bench) -> None:
    delivery = bench.ask()
    bench.nats.refuses = MaxPayloadError()
    bench.says(TAKEN, Piece(0, end=True, failure=Failure.ENGINE_FAILED, replica="chat-0"))
    (failure,) = await ended(delivery)
    assert failure.failure == Failure.CANT_CONTINUE


async def test_an_engine_is_asked_for_a_text_under_an_id_of_its_own(bench: Bench) -> None:
    request = chat()
    delivery = bench.ask(request)
    tokens = [b"Once", b" upon", b" a", b" time"]
    events = Engine(tokens, created=1).stream(request.path, request.body, lambda: 2)
    head = Piece(0, events[0], status=200, content_type="text/event-stream", replica="chat-0")
    bench.says(head, Piece(1, events[1]), Piece(9, end=True, failure=Failure.ENGINE_FAILED))
    asking = bench.requests[1]
    assert (asking.path, len(asking.id)) == ("/detokenize", 32)
    told = Engine(tokens).detokenize(asking.body)
    bench.says(
        Piece(0, told, status=200, content_type=JSON, replica="chat-1", end=True), to=asking.id
    )
    bench.says(*stream(bench.requests[2], 2, "chat-1"))
    assert words(await ended(delivery)) == "Once upon a time"


# What is looked up


async def test_a_piece_that_got_lost_is_looked_up(bench: Bench) -> None:
    delivery = bench.ask()
    bench.says(HEAD)
    bench.says(MIDDLE, lost=True)
    bench.says(LAST)
    assert text(await ended(delivery)) == b"one two three"


async def test_where_nothing_can_be_looked_up_it_is_as_lost(bench: Bench) -> None:
    delivery = bench.ask()
    bench.nats.keeps = False
    bench.says(HEAD, LAST)
    assert (await ended(delivery))[-1].failure == Failure.CANT_CONTINUE


async def test_what_was_said_while_nats_was_away_is_looked_up(bench: Bench) -> None:
    delivery = bench.ask()
    bench.says(TAKEN, HEAD)
    await bench.nats.dies()
    bench.says(MIDDLE, LAST, lost=True)
    await bench.nats.returns()
    assert text(await ended(delivery)) == b"one two three"


async def test_an_engine_that_has_sent_more_than_came_shows_that_pieces_are_missing(
    bench: Bench,
) -> None:
    delivery = bench.ask()
    bench.says(HEAD)
    bench.says(MIDDLE, LAST, lost=True)
    asked = await bench.asks("chat-0", r=UnderWay(1, 3), unknown=UnderWay(1, 0))
    assert asked == {"unknown": ALL_ATTEMPTS}
    assert text(await ended(delivery)) == b"one two three"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"replica":1}'])
async def test_a_question_that_makes_no_sense_is_not_answered(bench: Bench, body: bytes) -> None:
    message = Msg(cast("Any", None), subjects.waiting("gw"), "_INBOX.x", body)
    await bench.nats.heard[subjects.waiting("gw")](message)
    assert bench.nats.posted == []


# Clients that leave, and those that read slowly


async def test_a_client_that_leaves_ends_its_request_wherever_it_is(bench: Bench) -> None:
    delivery = bench.ask()
    bench.says(HEAD)
    bench.gateway.leave(delivery)
    assert bench.subjects[1:] == ["cancel.chat.r"]
    with pytest.raises(ClientGone):
        await delivery.next()


async def test_what_a_body_takes_is_held_until_neither_client_nor_gateway_needs_it(
    bench: Bench,
) -> None:
    for keep in (False, True):
        delivery = bench.ask(replace(REQUEST, keep=keep))
        hold = Hold(bench.gateway.bodies)
        hold.grow(100)
        bench.says(TAKEN)
        bench.gateway.leave(delivery, hold)
        hold.release()
        assert bench.gateway.bodies.used == (100 if keep else 0)
    bench.says(Piece(0, b"whole", status=200, content_type=JSON, replica="chat-0", end=True))
    assert bench.gateway.bodies.used == 0


def flood(request: Request, pieces: int) -> list[Piece]:
    """A stream whose client gets much in so many pieces."""
    head, *_ = stream(request, 1, "chat-0")
    much = b"data: " + b"x" * (MAX_WAITING_BYTES // 2) + b"\n\n"
    return [head, *(Piece(chunk + 1, much) for chunk in range(pieces))]


async def test_a_client_that_reads_too_slowly_is_let_go(bench: Bench) -> None:
    request = chat(tools=[{"type": "function"}])
    delivery = bench.ask(request)
    bench.says(*flood(request, 3))
    assert (await ended(delivery))[-1].failure == Failure.TOO_SLOW
    assert [each.body for each in bench.nats.posted[1:]] == [b"too-slow: "]


async def test_one_to_which_much_comes_at_once_is_too_slow_only_after_a_while() -> None:
    bench = Bench()
    async with listening(bench):
        request = chat(tools=[{"type": "function"}])
        delivery = bench.ask(request)
        begun = bench.gateway._now()
        bench.gateway._now = lambda: begun
        bench.says(*flood(request, 9))
        assert not delivery.flight.done
        bench.gateway._now = lambda: begun + BEHIND
        bench.says(Piece(10, b"data: 1\n\n"))
        assert (await ended(delivery))[-1].failure == Failure.TOO_SLOW


async def test_a_resumable_answer_goes_on_without_a_client_that_reads_too_slowly(
    bench: Bench,
) -> None:
    request = replace(chat(tools=[{"type": "function"}]), keep=True)
    delivery = bench.ask(request)
    bench.says(*flood(request, 3))
    assert (await delivery.next()).failure == Failure.TOO_SLOW
    assert not delivery.flight.done
    assert bench.subjects == ["requests.chat"]


async def test_where_too_much_waits_for_all_the_client_that_waits_longest_is_let_go(
    bench: Bench,
) -> None:
    slow, other = (
        bench.ask(chat(identity, tools=[{"type": "function"}])) for identity in ("one", "two")
    )
    for delivery in (slow, other):
        bench.says(*flood(delivery.flight.request, 1), to=delivery.id)
    assert [piece.failure for piece in await ended(slow)] == [Failure.TOO_SLOW]
    assert not other.flight.done
    assert len((await other.next()).body) + len((await other.next()).body) > MAX_WAITING_BYTES // 2


async def test_an_answer_that_is_whole_is_let_go_like_any_other(bench: Bench) -> None:
    large = b"x" * max(2 * UNCOUNTED, MAX_WAITING_BYTES // 2)
    slow, other = bench.ask(), bench.ask(replace(REQUEST, id="other"))
    bench.says(Piece(0, large, status=200, content_type=JSON, replica="chat-0", end=True))
    assert slow.flight.done
    bench.says(
        Piece(0, large, status=200, content_type=JSON, replica="chat-0", end=True), to="other"
    )
    assert [piece.failure for piece in await ended(slow)] == [Failure.TOO_SLOW]
    assert text(await ended(other)) == large


async def test_a_gateway_that_stops_tells_all_that_wait(bench: Bench) -> None:
    lost, kept = bench.ask(), bench.ask(replace(REQUEST, id="k", keep=True))
    bench.gateway.let_all_go()
    assert [piece.failure for piece in await ended(lost)] == [Failure.STOPPING]
    assert [piece.failure for piece in await ended(kept)] == [Failure.STOPPING]
    assert (lost.flight.done, kept.flight.done) == (True, False)


async def test_a_request_that_cant_be_watched_ends_alone(bench: Bench) -> None:
    delivery, other = bench.ask(), bench.ask(chat("other"))
    delivery.flight.orphaned_at = cast("Any", None)
    assert (await ended(delivery))[-1].failure == Failure.ENGINE_FAILED
    assert not other.flight.done
