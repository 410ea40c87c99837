"""A gateway brings every request to an end, whatever routers, engines and NATS do.

There is no NATS here: what the gateway publishes is recorded, what it listens to is said by hand,
and the event loop's clock can be put forward.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, cast

import msgspec
import pytest
from msgspec import Struct
from msgspec.structs import replace
from nats.aio.msg import Msg
from nats.errors import MaxPayloadError

from nebula.actors.actor import cancel
from nebula.actors.gateway import actor, patience
from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.addressing import HEARD, UNHEARD
from nebula.actors.gateway.admission import CROWD, INTERVAL
from nebula.actors.gateway.budget import UNCOUNTED, Hold
from nebula.actors.gateway.exchange import (
    MAX_EARLY,
    MAX_EARLY_BYTES,
    MAX_WAITING_BYTES,
    ClientGone,
    Exchange,
)
from nebula.actors.gateway.failures import NotServed
from nebula.actors.gateway.fatal import MAX_FATAL
from nebula.actors.gateway.recovering import MAX_ATTEMPTS
from nebula.actors.gateway.resuming import prepared
from nebula.events import envelope, inference, subjects
from nebula.events.inference import (
    ALL_ATTEMPTS,
    ENGINE_FAILED,
    ENGINE_TIMED_OUT,
    Piece,
    Request,
    StillWanted,
    UnderWay,
    Unwanted,
)
from nebula.events.intents import ModelUnloadRequested
from nebula.events.record import parse_headers
from nebula.events.state import Named
from nebula.events.status import QueueStatus, ReplicaStatus, RouterStatus
from nebula.events.vocabulary import EngineReady, EngineStarted
from nebula.store.connection import Unavailable
from nebula.store.inference_log import Said
from tests.unit.story import Story, cluster, load
from tests.unit.test_continuing import request as body_of
from tests.unit.vllm_stream import Engine

pytestmark = pytest.mark.anyio

STREAM = "text/event-stream"
JSON = "application/json"
REQUEST = Request("r", "gw", "chat", "/v1/completions", b"{}")
CHAT = "/v1/chat/completions"
TOKENS = [b"Once", b" upon", b" a", b" time"]


class Posted(Struct, frozen=True):
    """What the gateway has published."""

    subject: str
    header: bytes
    body: bytes


class Nats:
    """Stands where the connection and its client stand."""

    def __init__(self) -> None:
        self.client = self
        self.name = "test"
        self.connected = True
        self.max_body = 2**20
        self.posted: list[Posted] = []
        self.heard: dict[str, Callable[..., Any]] = {}
        self.kept: list[Said] = []
        self.keeps = self.answers = True
        self.refuses: Exception | None = None
        self._lost: list[Callable[[], Awaitable[None]]] = []
        self._back: list[Callable[[], Awaitable[None]]] = []

    async def listen(self, subject: str, arrival: Callable[..., Any], queue: str = "") -> None:
        self.heard[subject] = arrival

    async def subscribe(self, subject: str, cb: Callable[..., Any]) -> None:
        self.heard[subject] = cb

    def post(self, subject: str, header: bytes = b"", body: bytes = b"") -> None:
        if self.refuses is not None:
            raise self.refuses
        self.posted.append(Posted(subject, header, body))

    def on_disconnect(self, listener: Callable[[], Awaitable[None]]) -> None:
        self._lost.append(listener)

    def on_reconnect(self, listener: Callable[[], Awaitable[None]]) -> None:
        self._back.append(listener)

    async def dies(self) -> None:
        self.connected = False
        for listener in self._lost:
            await listener()

    async def returns(self) -> None:
        self.connected = True
        for listener in self._back:
            await listener()

    async def read(self, _: object, wanted: Sequence[str]) -> AsyncIterator[Said]:
        """The stream of the data plane, as far as it is read here."""
        await asyncio.sleep(0)
        if not self.keeps:
            raise Unavailable("no stream")
        if not self.answers:
            await asyncio.Event().wait()
        for said in self.kept:
            if said.subject in wanted:
                yield said


class Bench:
    """A gateway `gw`, the cluster that it sees, and everybody who talks to it."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.nats = Nats()
        self.gateway = Gateway(cast("Any", self.nats), "gw")
        self.gateway.projection.state = story.state
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time
        self._ahead = 0.0
        self._loop.time = lambda: self._time() + self._ahead  # type: ignore[method-assign]

    async def begin(self) -> Bench:
        await self.gateway.begin()
        self.gateway.spawn(self.gateway.work(), "work")
        await self.settles()
        return self

    async def end(self) -> None:
        self._loop.time = self._time  # type: ignore[method-assign]
        await cancel(self.gateway._tasks)

    async def settles(self) -> None:
        """Let everything that can happen now happen."""
        for _ in range(30):
            await asyncio.sleep(0)

    async def later(self, seconds: float, *, alive: Sequence[str] = ()) -> None:
        """Let time pass; engines and routers that are `alive` say so meanwhile."""
        while seconds > 0:
            step = min(1.0, seconds)
            seconds -= step
            self._ahead += step
            for each in alive:
                self.beats(each)
            await self.settles()

    async def changes(self) -> None:
        """Let the gateway see what has happened to the cluster."""
        projection = self.gateway.projection
        projection.state = self.story.state
        changed, projection._changed = projection._changed, asyncio.Event()
        changed.set()
        await self.settles()

    def beats(self, name: str) -> None:
        if name.startswith("router"):
            queues = {"chat": QueueStatus(1, 0.5)}
            status = RouterStatus(name, queues, addressed=not name.endswith("old"))
            self.nats.heard[subjects.ROUTER_STATUS](b"", b"", msgspec.json.encode(status))
            return
        engine = self.story.state.replicas[name].engine
        assert engine is not None
        status = msgspec.json.encode(ReplicaStatus(name, engine.pid, 1, 1, context=1000))
        self.nats.heard[subjects.REPLICA_STATUS](b"", b"", status)

    async def engine_restarts(self, replica: str, pid: int = 8) -> None:
        version = self.story.state.replicas[replica].version
        self.story.given(replica, EngineStarted(pid, 2.0, 8001, "/log", version), EngineReady())
        await self.changes()

    def says(self, *pieces: Piece, to: str = "r", kept: bool = True, lost: bool = False) -> None:
        """Let somebody answer; the stream keeps it, and unless it is lost the gateway hears it."""
        subject = subjects.responses("gw", to)
        for piece in pieces:
            header = envelope.block(envelope.piece_headers(piece))
            if kept:
                self.nats.kept.append(Said(1, 1, subject, header, piece.body, len(piece.body)))
            if not lost:
                self.nats.heard[subjects.responses("gw", "*")](subject.encode(), header, piece.body)

    async def asks(self, replica: str, **chunks: int | UnderWay) -> dict[str, int]:
        """Let an engine ask which of its requests are wanted; give which are not."""
        under_way = {
            each: UnderWay(1, told) if isinstance(told, int) else told
            for each, told in chunks.items()
        }
        body = msgspec.json.encode(StillWanted(replica, under_way))
        message = Msg(cast("Any", None), subjects.waiting("gw"), "_INBOX.x", body)
        before = len(self.nats.posted)
        await self.nats.heard[subjects.waiting("gw")](message)
        replies = [each.body for each in self.nats.posted[before:] if each.subject == "_INBOX.x"]
        return msgspec.json.decode(replies[0], type=Unwanted).requests if replies else {}

    @property
    def requests(self) -> list[Request]:
        """The requests that were sent, in order."""
        found = []
        for each in self.nats.posted:
            if each.subject.startswith("nebula.inference.requests."):
                model = each.subject.split(".")[3]
                request = envelope.read_request(model, parse_headers(each.header), each.body)
                assert request is not None
                found.append(request)
        return found

    @property
    def addressees(self) -> list[str]:
        """The routers that requests were sent to, in order; "" for any of them."""
        sent = [each.subject.split(".")[2:] for each in self.nats.posted]
        return ["".join(rest[2:]) for rest in sent if rest[0] == "requests"]

    @property
    def cancels(self) -> list[bytes]:
        """The cancellations that were sent, in order."""
        return [each.body for each in self.nats.posted if ".cancel." in each.subject]

    def ask(self, request: Request = REQUEST, *, idle: float = 600.0) -> Exchange:
        return self.gateway.ask(request, Named("chat"), idle=idle)


Begin = Callable[..., Awaitable[Bench]]


@pytest.fixture
async def begin(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Begin]:
    opened: list[Bench] = []

    async def begin(story: Story | None = None) -> Bench:
        bench = Bench(story or serving())
        opened.append(bench)
        monkeypatch.setattr(actor.inference_log, "read", bench.nats.read)
        return await bench.begin()

    yield begin
    for bench in opened:
        await bench.end()


@pytest.fixture
async def bench(begin: Begin) -> Bench:
    return await begin()


def serving(replicas: int = 2) -> Story:
    story = cluster(alpha=[80]).given("chat", load(replicas, "8GiB"))
    story.settles()
    for number in range(replicas):
        story.runs(f"chat-{number}")
    return story


async def ended(exchange: Exchange) -> list[Piece]:
    """All that the client gets; it must be over by now."""
    given: list[Piece] = []
    while not given or not given[-1].end:
        async with asyncio.timeout(1):
            given.append(await exchange.next())
    return given


def text(given: Sequence[Piece]) -> bytes:
    return b"".join(piece.body for piece in given)


HEAD = Piece(0, b"one ", 200, JSON, "chat-0")
MIDDLE = Piece(1, b"two ")
LAST = Piece(2, b"three", end=True)
TAKEN = Piece(-1, replica="chat-0")


# Asking


async def test_a_request_is_sent_and_its_answer_given_as_it_comes(bench: Bench) -> None:
    exchange = bench.ask()
    assert bench.requests == [REQUEST]
    bench.says(TAKEN, HEAD)
    assert (await exchange.next()).body == b"one "
    bench.says(MIDDLE, LAST)
    assert text(await ended(exchange)) == b"two three"
    assert bench.cancels == []


async def test_what_nobody_waits_for_any_more_is_not_listened_to(bench: Bench) -> None:
    exchange = bench.ask()
    bench.says(HEAD, MIDDLE, LAST, LAST)
    await ended(exchange)
    bench.says(MIDDLE, to="unknown")
    await bench.later(60)
    assert len(bench.requests) == 1


@pytest.mark.parametrize("header", [b"", b"NATS/1.0\r\nX: y\r\n\r\n", b"\xff\xff"])
async def test_what_no_engine_has_sent_changes_nothing(bench: Bench, header: bytes) -> None:
    exchange = bench.ask()
    bench.nats.heard[subjects.responses("gw", "*")](b"nebula.inference.responses.gw.r", header, b"")
    bench.says(HEAD, MIDDLE, LAST)
    assert text(await ended(exchange)) == b"one two three"


async def test_without_nats_nothing_is_asked(bench: Bench) -> None:
    await bench.nats.dies()
    with pytest.raises(NotServed, match="NATS can't be reached") as refused:
        bench.ask()
    assert refused.value.retry_after == 1


async def test_what_nats_does_not_take_is_not_asked(bench: Bench) -> None:
    bench.nats.refuses = MaxPayloadError()
    with pytest.raises(NotServed, match="NATS refused the request"):
        bench.ask()
    assert await bench.asks("chat-0", r=1) == {}  # nothing can be posted
    bench.nats.refuses = None
    assert await bench.asks("chat-0", r=1) == {"r": ALL_ATTEMPTS}


async def test_what_can_only_be_refused_is_not_asked(begin: Begin) -> None:
    bench = await begin(serving().given("chat", ModelUnloadRequested()))
    with pytest.raises(NotServed, match="has been unloaded") as refused:
        bench.ask()
    assert refused.value.retry_after is None
    assert bench.requests == []


async def test_what_waits_everywhere_is_known_from_the_routers(bench: Bench) -> None:
    bench.beats("router-1")
    bench.beats("router-2")
    assert bench.gateway.queue("chat") == QueueStatus(2, 0.5)


# More than can be taken on


async def test_a_gateway_refuses_more_while_those_it_has_are_taken_on_late(bench: Bench) -> None:
    crowd = [f"r{number}" for number in range(CROWD + 1)]
    for each in crowd:
        bench.gateway.admit()
        bench.ask(replace(REQUEST, id=each))
    await bench.later(1.5)
    bench.says(HEAD, MIDDLE, LAST, to=crowd.pop())
    await bench.later(INTERVAL)
    with pytest.raises(NotServed, match="faster than") as refused:
        bench.gateway.admit()
    assert refused.value.retry_after == 1
    bench.says(HEAD, to=crowd.pop())
    bench.gateway.admit()


# Nobody takes it


async def test_a_request_that_nobody_takes_is_sent_again_and_then_given_up(bench: Bench) -> None:
    exchange = bench.ask()
    for number, seconds in enumerate(patience.ACCEPT):
        assert [each.attempt for each in bench.requests] == list(range(1, number + 2))
        await bench.later(seconds - 0.1)
        assert len(bench.requests) == number + 1
        await bench.later(0.5)
    assert not exchange.done, "a request may wait for as long as its model may load"
    await bench.later(exchange.answer.request.patience - patience.UNTAKEN)
    (failure,) = await ended(exchange)
    assert (failure.failure, failure.end) == ("not-taken", True)
    assert bench.cancels == [b"2", b"3", b"4", b"5", b"not-taken: no router has been heard from"]


async def test_one_whose_own_patience_is_short_gets_all_the_tries_there_are(bench: Bench) -> None:
    exchange = bench.ask(replace(REQUEST, patience=1.0))
    await bench.later(patience.UNTAKEN - 1)
    assert not exchange.done
    await bench.later(2)
    assert (await ended(exchange))[-1].failure == "not-taken"


async def test_what_is_left_of_the_time_in_a_line_goes_with_every_try(bench: Bench) -> None:
    bench.ask()
    await bench.later(patience.ACCEPT[0] + 0.5)
    first, second = bench.requests
    assert second.patience == pytest.approx(first.patience - patience.ACCEPT[0], abs=0.6)


async def test_a_lone_router_that_is_silent_is_named_with_the_time_for_which_it_was(
    bench: Bench,
) -> None:
    bench.beats("router-1")
    exchange = bench.ask()
    await bench.later(REQUEST.patience + 1)
    assert (await ended(exchange))[-1].body == (
        b"router-1, which it was sent to, has not been heard from for 30 s"
    )


async def test_it_is_told_when_the_router_lives_and_a_replica_is_silent(bench: Bench) -> None:
    bench.beats("chat-1")
    exchange = bench.ask()
    for _ in range(7):
        await bench.later(1, alive=["router-1"])
    await bench.later(REQUEST.patience, alive=["router-1"])
    said = (await ended(exchange))[-1].body.decode()
    assert said == (
        "router-1, which it was sent to, is there, and no replica has said that it has it; "
        "chat-1 has not been heard from for 30 s"
    )


async def test_tries_that_no_router_took_are_not_held_against_engines(bench: Bench) -> None:
    bench.ask()
    await bench.later(patience.UNTAKEN + 1)
    attempt = bench.requests[-1].attempt
    assert attempt >= MAX_ATTEMPTS
    bench.says(Piece(0, end=True, failure=ENGINE_FAILED, replica="chat-0", attempt=attempt))
    assert bench.requests[-1].attempt == attempt + 1


async def test_before_it_is_sent_again_all_are_told_to_forget_it(bench: Bench) -> None:
    bench.ask()
    await bench.later(patience.ACCEPT[0] + 0.5)
    assert [each.subject.split(".")[2] for each in bench.nats.posted] == [
        "requests",
        "cancel",
        "requests",
    ]


async def test_what_an_earlier_attempt_still_says_is_not_heard(bench: Bench) -> None:
    exchange = bench.ask()
    await bench.later(patience.ACCEPT[0] + 0.5)
    bench.says(HEAD, MIDDLE, LAST)
    other = [replace(each, attempt=2, body=b"x") for each in (HEAD, MIDDLE, LAST)]
    bench.says(*other)
    assert text(await ended(exchange)) == b"xxx"


async def test_a_request_in_the_line_of_a_router_that_lives_waits(bench: Bench) -> None:
    bench.ask()
    bench.says(Piece(-1, queued="router-1"))
    await bench.later(25, alive=["router-1"])
    assert len(bench.requests) == 1


async def test_a_request_in_the_line_of_a_router_that_died_is_sent_again(bench: Bench) -> None:
    bench.ask()
    bench.says(Piece(-1, queued="router-1"))
    await bench.later(2, alive=["router-1"])
    await bench.later(patience.ROUTER_SILENCE + 0.5)
    assert [each.attempt for each in bench.requests] == [1, 2]


async def test_a_request_that_a_replica_has_is_not_sent_again_however_long_it_takes(
    bench: Bench,
) -> None:
    exchange = bench.ask()
    bench.says(TAKEN)
    for _ in range(60):
        await bench.later(1, alive=["chat-0"])
        await bench.asks("chat-0", r=0)
    assert len(bench.requests) == 1
    bench.says(HEAD, MIDDLE, LAST)
    assert text(await ended(exchange)) == b"one two three"


async def test_a_routers_refusal_is_the_answer(bench: Bench) -> None:
    exchange = bench.ask()
    refusal = Piece(0, b"busy", 429, "text/plain", end=True, failure="refused", retry_after=3)
    bench.says(refusal)
    assert await ended(exchange) == [refusal]


# Routers


def number(count: int) -> Request:
    return replace(REQUEST, id=f"n{count}")


async def test_requests_are_shared_out_among_the_routers_that_are_heard(bench: Bench) -> None:
    for name in ("router-1", "router-2", "router-old"):
        bench.beats(name)
    for count in range(6):
        bench.ask(number(count))
        bench.says(TAKEN, to=f"n{count}")
    assert bench.addressees == ["router-1", "router-2"] * 3
    assert [each.model for each in bench.requests] == ["chat"] * 6


async def test_where_no_router_is_heard_or_has_a_subject_of_its_own_any_of_them_is_asked(
    bench: Bench,
) -> None:
    bench.ask(number(1))
    bench.beats("router-old")
    bench.ask(number(2))
    bench.says(TAKEN, to="n1")
    bench.says(TAKEN, to="n2")
    bench.beats("router-1")
    await bench.later(HEARD + 1)
    bench.ask(number(3))
    assert bench.addressees == ["", "", ""]


async def test_a_router_that_falls_silent_gets_one_request_and_then_none(bench: Bench) -> None:
    bench.beats("router-2")
    bench.beats("router-1")
    for count in range(20):
        bench.ask(number(count))
        if bench.addressees[-1] == "router-1":
            bench.says(TAKEN, to=f"n{count}")
        await bench.later(0.25, alive=["router-1"])
    assert bench.addressees.count("router-2") == 1


async def test_what_a_silent_router_has_goes_to_another_as_soon_as_its_heartbeat_is_overdue(
    bench: Bench,
) -> None:
    bench.beats("router-1")
    bench.ask()
    await bench.later(1, alive=["router-2"])
    assert bench.addressees == ["router-1"]
    await bench.later(UNHEARD, alive=["router-2"])
    assert bench.addressees == ["router-1", "router-2"]
    assert bench.cancels == [b"2"]


async def test_a_router_that_is_heard_has_its_time_to_find_a_replica(bench: Bench) -> None:
    bench.beats("router-1")
    bench.ask()
    await bench.later(patience.ACCEPT[0] - 0.5, alive=["router-1", "router-2"])
    assert bench.addressees == ["router-1"]
    await bench.later(1, alive=["router-1", "router-2"])
    assert bench.addressees == ["router-1", "router-2"]


async def test_a_line_is_left_for_that_of_another_router(bench: Bench) -> None:
    bench.beats("router-1")
    bench.ask()
    bench.says(Piece(-1, queued="router-1"))
    await bench.later(patience.ROUTER_SILENCE + 1, alive=["router-2"])
    assert bench.addressees == ["router-1", "router-2"]


async def test_requests_whose_clients_left_are_held_against_no_router(bench: Bench) -> None:
    for name in ("router-1", "router-2"):
        bench.beats(name)
    for count in range(4):
        bench.gateway.leave(bench.ask(number(count)))
    assert [each.untaken for each in bench.gateway._heartbeats.routers()] == [0, 0]


async def test_copies_go_to_living_routers_too(bench: Bench) -> None:
    bench.beats("router-1")
    bench.beats("router-2")
    for _ in range(2):
        bench.gateway.sending.copy(REQUEST)
    assert bench.addressees == ["router-1", "router-2"]


# Engines die


async def test_a_request_that_had_not_begun_when_its_engine_died_goes_to_another(
    bench: Bench,
) -> None:
    exchange = bench.ask(replace(REQUEST, timeout=100.0))
    bench.says(TAKEN)
    await bench.later(1, alive=["chat-0"])
    bench.story.stops("chat-0")
    await bench.changes()
    again = bench.requests[1]
    assert (again.attempt, again.avoid, again.body) == (2, "chat-0", REQUEST.body)
    assert again.gone
    assert again.timeout == pytest.approx(99.0, abs=0.5)
    bench.says(*(replace(each, attempt=2, replica="") for each in (HEAD, MIDDLE, LAST)))
    assert text(await ended(exchange)) == b"one two three"


async def test_an_engine_that_was_replaced_by_another_is_dead_too(bench: Bench) -> None:
    bench.ask()
    bench.says(TAKEN)
    await bench.later(1, alive=["chat-0"])
    await bench.engine_restarts("chat-0")
    assert [each.attempt for each in bench.requests] == [1, 2]


async def test_the_engine_that_has_the_next_attempt_is_another_one_and_alive(
    bench: Bench,
) -> None:
    await bench.engine_restarts("chat-1", pid=9)
    bench.ask()
    bench.says(TAKEN)
    await bench.later(1, alive=["chat-0"])
    bench.story.stops("chat-0")
    await bench.changes()
    bench.says(Piece(-1, replica="chat-1", attempt=2))
    await bench.later(1, alive=["chat-1"])
    assert [each.attempt for each in bench.requests] == [1, 2]


async def test_an_engine_that_says_itself_that_it_fails_is_not_waited_for(bench: Bench) -> None:
    bench.ask()
    bench.says(TAKEN, Piece(0, end=True, failure=ENGINE_FAILED, replica="chat-0"))
    assert [each.attempt for each in bench.requests] == [1, 2]
    assert bench.requests[1].avoid == "chat-0"


async def test_an_engine_that_is_not_heard_from_any_more_is_given_up(bench: Bench) -> None:
    bench.ask()
    bench.says(TAKEN)
    await bench.later(1, alive=["chat-0"])
    await bench.later(patience.SILENCE - 1)
    assert len(bench.requests) == 1
    await bench.later(2)
    assert [each.attempt for each in bench.requests] == [1, 2]


async def test_one_beside_which_no_other_is_heard_has_longer_it_may_only_pause(
    bench: Bench,
) -> None:
    bench.beats("chat-1")
    exchange = bench.ask()
    bench.says(TAKEN)
    await bench.later(1, alive=["chat-0"])
    await bench.later(patience.SILENCE_ALONE - 1)
    assert len(bench.requests) == 1
    await bench.later(2)
    assert [each.attempt for each in bench.requests] == [1, 2]
    assert not exchange.done


async def test_a_request_that_meets_one_silent_engine_after_another_is_not_what_ends_them(
    bench: Bench,
) -> None:
    exchange = bench.ask()
    for _ in range(MAX_ATTEMPTS - 1):
        attempt = bench.requests[-1].attempt
        bench.says(Piece(-1, replica="chat-0", attempt=attempt))
        await bench.later(1, alive=["chat-0"])
        await bench.later(patience.SILENCE + 1)
        assert bench.requests[-1].attempt == attempt + 1
        assert not exchange.done


async def test_an_engine_that_takes_a_request_lives_although_its_heartbeats_were_cut_off(
    bench: Bench,
) -> None:
    for name in ("chat-0", "chat-1"):
        bench.beats(name)
    await bench.later(40)
    bench.ask()
    bench.says(TAKEN)
    await bench.later(patience.SILENCE_ALONE - 1)
    assert len(bench.requests) == 1
    await bench.later(2)
    assert len(bench.requests) == 2


async def test_one_that_ends_because_its_time_is_over_says_who_was_silent(bench: Bench) -> None:
    exchange = bench.ask(replace(REQUEST, timeout=8.0))
    bench.says(TAKEN)
    await bench.later(1, alive=["chat-0"])
    await bench.later(8)
    failure = (await ended(exchange))[-1]
    assert failure.failure == "overdue"
    assert failure.body == b"chat-0, which has it, has not been heard from for 7 s"


async def test_a_request_that_its_engine_does_not_know_any_more_is_looked_for_and_sent_again(
    bench: Bench,
) -> None:
    bench.ask()
    bench.says(TAKEN)
    for _ in range(10):
        if len(bench.requests) == 1:
            await bench.later(1, alive=["chat-0"])  # and it never asks whether it is wanted
    assert [each.attempt for each in bench.requests] == [1, 2]


async def test_a_request_with_which_two_engines_failed_in_a_row_goes_to_no_third(
    bench: Bench,
) -> None:
    exchange = bench.ask()
    for attempt in range(1, MAX_FATAL + 1):
        assert [each.attempt for each in bench.requests] == list(range(1, attempt + 1))
        bench.says(Piece(0, end=True, failure=ENGINE_FAILED, replica="chat-0", attempt=attempt))
    (failure,) = await ended(exchange)
    assert (failure.failure, failure.body) == ("fatal", b"2")
    assert len(bench.requests) == MAX_FATAL
    assert bench.cancels[-1] == b"fatal: 2"


async def test_nor_one_with_which_two_engines_died(bench: Bench) -> None:
    exchange = bench.ask()
    for attempt, replica in ((1, "chat-0"), (2, "chat-1")):
        bench.says(Piece(-1, replica=replica, attempt=attempt))
        await bench.later(1, alive=[replica])
        bench.story.stops(replica)
        await bench.changes()
    (failure,) = await ended(exchange)
    assert failure.failure == "fatal"


async def test_an_error_that_an_engine_answers_with_is_asked_about_once_more(bench: Bench) -> None:
    exchange = bench.ask()
    error = Piece(0, b'{"error":{}}', 500, JSON, "chat-0", end=True)
    bench.says(error)
    assert [each.attempt for each in bench.requests] == [1, 2]
    second = replace(error, attempt=2, replica="chat-1", body=b'{"error":{"message":"no"}}')
    bench.says(second)
    assert await ended(exchange) == [second]
    assert len(bench.requests) == 2
    assert [each.gone for each in bench.requests] == [False, False]


async def test_but_not_the_same_engine_again(begin: Begin) -> None:
    bench = await begin(serving(1))
    exchange = bench.ask()
    error = Piece(0, b'{"error":{}}', 500, JSON, "chat-0", end=True)
    bench.says(error)
    assert await ended(exchange) == [error]
    assert len(bench.requests) == 1


@pytest.mark.parametrize("status", [429, 501, 503])
async def test_what_an_engine_says_that_is_full_is_passed_on_at_once(
    bench: Bench, status: int
) -> None:
    exchange = bench.ask()
    full = Piece(0, b'{"error":{}}', status, JSON, "chat-0", end=True, retry_after=7)
    bench.says(full)
    assert await ended(exchange) == [full]
    assert len(bench.requests) == 1


async def test_an_answer_that_is_no_stream_and_has_begun_can_not_go_on(bench: Bench) -> None:
    exchange = bench.ask()
    bench.says(HEAD, Piece(1, end=True, failure=ENGINE_FAILED))
    head, failure = await ended(exchange)
    assert head.body == b"one "
    assert failure.failure == "cant-continue"
    assert failure.body == b"engine-failed: it is no stream of text"
    assert bench.cancels == [b"cant-continue: engine-failed: it is no stream of text"]


async def test_a_request_whose_time_was_over_elsewhere_is_not_sent_again(bench: Bench) -> None:
    exchange = bench.ask()
    bench.says(Piece(0, end=True, failure=ENGINE_TIMED_OUT))
    (failure,) = await ended(exchange)
    assert failure.failure == "overdue"
    assert len(bench.requests) == 1


# Streams go on


def chat(**fields: Any) -> Request:
    body = body_of(CHAT, max_tokens=50, **fields)
    return prepared(Request("r", "gw", "chat", CHAT, body))


def stream(
    request: Request, number: int, replica: str, tokens: Sequence[bytes] = TOKENS
) -> list[Piece]:
    """The pieces of what an engine answers to a request."""
    events = Engine(list(tokens), created=number).stream(request.path, request.body)
    pieces = [Piece(chunk, event, attempt=request.attempt) for chunk, event in enumerate(events)]
    pieces[0] = replace(
        pieces[0], status=200, content_type=STREAM, replica=replica, continues=request.continues
    )
    pieces[-1] = replace(pieces[-1], end=True)
    return pieces


def words(given: Sequence[Piece]) -> str:
    """The text of a stream."""
    events = text(given).split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events[:-2]]
    assert len({chunk["id"] for chunk in chunks}) == 1
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


async def test_a_stream_whose_engine_dies_goes_on_elsewhere_with_the_rest(bench: Bench) -> None:
    request = chat()
    exchange = bench.ask(request)
    bench.beats("chat-0")
    bench.says(*stream(request, 1, "chat-0")[:3])
    await bench.later(1, alive=["chat-0"])
    bench.story.stops("chat-0")
    await bench.changes()
    again = bench.requests[1]
    assert (again.attempt, again.avoid, again.continues) == (2, "chat-0", "rest")
    assert (again.path, again.keep) == ("/v1/completions", False)
    assert json.loads(again.body)["max_tokens"] == 48
    bench.says(*stream(again, 2, "chat-1"))
    given = await ended(exchange)
    assert words(given) == "Once upon a time"
    assert [piece.status for piece in given if piece.status] == [200]


async def test_it_goes_on_as_often_as_an_engine_dies(bench: Bench) -> None:
    tokens = [*TOKENS, b" there", b" was", b" a", b" king", b"."]
    request = chat()
    exchange = bench.ask(request)
    bench.beats("chat-0")
    for attempt in range(1, MAX_ATTEMPTS):
        pieces = stream(bench.requests[-1], attempt, "chat-0", tokens)
        failure = Piece(9, end=True, failure=ENGINE_FAILED, attempt=attempt)
        bench.says(*pieces[:2], failure)
        assert bench.requests[-1].attempt == attempt + 1
    bench.says(*stream(bench.requests[-1], MAX_ATTEMPTS, "chat-1", tokens))
    assert words(await ended(exchange)) == "Once upon a time there was a king."


async def test_nor_one_that_engines_take_down_before_they_say_that_they_have_it(
    bench: Bench,
) -> None:
    exchange = bench.ask()
    for replica in ("chat-0", "chat-1"):
        bench.story.fails(replica)
        await bench.changes()
        await bench.later(patience.ACCEPT[1] + 0.1)
    (failure,) = await ended(exchange)
    assert failure.failure == "fatal"
    assert len(bench.requests) == MAX_FATAL


async def test_another_engine_that_stands_there_now_tells_the_same(bench: Bench) -> None:
    exchange = bench.ask()
    for pid in (8, 9):
        await bench.engine_restarts("chat-0", pid)
        await bench.later(patience.ACCEPT[1] + 0.1)
    (failure,) = await ended(exchange)
    assert failure.failure == "fatal"


async def test_one_that_was_lost_while_all_engines_live_is_sent_again(bench: Bench) -> None:
    bench.ask()
    for seconds in patience.ACCEPT[:2]:
        await bench.later(seconds + 0.1)
    assert len(bench.requests) == 3


async def test_a_stream_that_every_engine_fails_amid_its_answer_is_given_up(bench: Bench) -> None:
    exchange = bench.ask(chat())
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert len(bench.requests) == attempt
        pieces = stream(bench.requests[-1], attempt, "chat-0", TOKENS * 3)
        bench.says(*pieces[:2], Piece(9, end=True, failure=ENGINE_FAILED, attempt=attempt))
    assert (await ended(exchange))[-1].failure == ENGINE_FAILED
    assert len(bench.requests) == MAX_ATTEMPTS


async def test_a_stream_of_which_only_the_end_is_missing_needs_no_engine(bench: Bench) -> None:
    request = chat()
    exchange = bench.ask(request)
    pieces = stream(request, 1, "chat-0")
    bench.says(*pieces[:-1], Piece(9, end=True, failure=ENGINE_FAILED))
    assert words(await ended(exchange)) == "Once upon a time"
    assert len(bench.requests) == 1
    assert bench.cancels == [b"finished: data: [DONE]\n\n"]


async def test_a_stream_that_can_not_go_on_ends_with_the_reason(bench: Bench) -> None:
    request = chat(tools=[{"type": "function"}])
    exchange = bench.ask(request)
    bench.says(*stream(request, 1, "chat-0")[:3], Piece(9, end=True, failure=ENGINE_FAILED))
    failure = (await ended(exchange))[-1]
    assert failure.failure == "cant-continue"
    assert failure.body == b"engine-failed: tools may be called"


def doubtful(request: Request) -> list[Piece]:
    """The beginning of a stream whose last event had two tokens: both may have given their text."""
    events = Engine(TOKENS, created=1).stream(request.path, request.body, lambda: 2)
    head = Piece(0, events[0], 200, STREAM, "chat-0")
    return [head, Piece(1, events[1]), Piece(9, end=True, failure=ENGINE_FAILED)]


async def test_where_its_text_is_in_doubt_an_engine_is_asked_first(bench: Bench) -> None:
    request = chat()
    exchange = bench.ask(request)
    bench.beats("chat-0")
    bench.says(*doubtful(request))
    await bench.settles()
    asking = bench.requests[1]
    assert (asking.path, asking.avoid, asking.attempt) == ("/detokenize", "chat-0", 1)
    assert asking.id != "r"
    told = Engine(TOKENS).detokenize(asking.body)
    bench.says(Piece(0, told, 200, JSON, "chat-1", end=True), to=asking.id)
    await bench.settles()
    again = bench.requests[2]
    assert (again.id, again.continues) == ("r", "rest")
    bench.says(*stream(again, 2, "chat-1"))
    assert words(await ended(exchange)) == "Once upon a time"


async def test_where_nobody_knows_the_text_it_does_not_go_on(bench: Bench) -> None:
    request = chat()
    exchange = bench.ask(request)
    bench.beats("chat-0")
    bench.says(*doubtful(request))
    await bench.settles()
    bench.says(Piece(0, b"{}", 404, JSON, "chat-1", end=True), to=bench.requests[1].id)
    await bench.settles()
    failure = (await ended(exchange))[-1]
    assert failure.body == b"engine-failed: no engine says what text the last token ids are"


async def test_a_client_that_leaves_meanwhile_ends_it(bench: Bench) -> None:
    request = chat()
    exchange = bench.ask(request)
    bench.beats("chat-0")
    bench.says(*doubtful(request))
    await bench.settles()
    bench.gateway.leave(exchange)
    told = Engine(TOKENS).detokenize(bench.requests[1].body)
    bench.says(Piece(0, told, 200, JSON, "chat-1", end=True), to=bench.requests[1].id)
    await bench.settles()
    assert len(bench.requests) == 2


# Time


async def test_an_engine_that_falls_silent_in_an_answer_ends_it(bench: Bench) -> None:
    exchange = bench.ask(idle=5.0)
    bench.says(HEAD)
    for _ in range(7):
        await bench.later(1, alive=["chat-0"])
        await bench.asks("chat-0", r=1)
    failure = (await ended(exchange))[-1]
    assert failure.failure == "idle"
    assert bench.cancels == [b"idle: "]


async def test_a_request_ends_when_nobody_wants_its_answer_any_more(bench: Bench) -> None:
    exchange = bench.ask(replace(REQUEST, timeout=3.0))
    bench.says(Piece(-1, queued="router-1"))
    await bench.later(2.5, alive=["router-1"])
    assert bench.cancels == []
    await bench.later(1, alive=["router-1"])
    (failure,) = await ended(exchange)
    assert failure.failure == "overdue"
    assert bench.cancels == [b"overdue: "]


# NATS dies


async def test_requests_wait_a_moment_for_nats_to_come_back(bench: Bench) -> None:
    exchange = bench.ask()
    bench.says(TAKEN, HEAD)
    await bench.nats.dies()
    await bench.later(patience.NATS - 1)
    await bench.nats.returns()
    await bench.later(1, alive=["chat-0"])
    bench.says(MIDDLE, LAST)
    assert text(await ended(exchange)) == b"one two three"


async def test_then_they_end(bench: Bench) -> None:
    exchange = bench.ask()
    bench.says(TAKEN, HEAD)
    await bench.nats.dies()
    await bench.later(patience.NATS + 1)
    assert (await ended(exchange))[-1].failure == "nats-lost"


async def test_a_loss_that_was_noticed_late_is_waited_for_from_the_last_sign_of_life(
    bench: Bench,
) -> None:
    exchange = bench.ask()
    bench.says(TAKEN, HEAD)
    await bench.later(1, alive=["chat-0"])
    await bench.later(7)  # nothing comes, and nothing says that the server is gone
    await bench.nats.dies()
    await bench.later(patience.RECONNECTING - 0.5)
    assert not exchange.done
    await bench.later(1)
    assert (await ended(exchange))[-1].failure == "nats-lost"


async def test_a_gateway_that_was_cut_off_itself_listens_before_it_holds_an_engine_silent(
    bench: Bench,
) -> None:
    bench.ask()
    bench.says(TAKEN)
    await bench.later(1, alive=["chat-0", "chat-1"])
    await bench.later(8)
    await bench.nats.dies()
    await bench.later(4)
    await bench.nats.returns()
    await bench.later(patience.HEARD_LATELY - 0.5, alive=["chat-1"])
    assert len(bench.requests) == 1
    await bench.later(1, alive=["chat-1"])
    assert [each.attempt for each in bench.requests] == [1, 2]


async def test_what_was_said_while_nats_was_away_is_looked_up(bench: Bench) -> None:
    exchange = bench.ask()
    bench.says(TAKEN, HEAD)
    await bench.nats.dies()
    bench.says(MIDDLE, LAST, lost=True)
    await bench.nats.returns()
    await bench.settles()
    assert text(await ended(exchange)) == b"one two three"


async def test_a_request_that_nobody_had_taken_has_its_time_once_more(bench: Bench) -> None:
    bench.ask()
    await bench.later(patience.ACCEPT[0] - 0.5)
    await bench.nats.dies()
    await bench.later(1)
    await bench.nats.returns()
    await bench.later(patience.ACCEPT[0] - 0.5)
    assert len(bench.requests) == 1
    await bench.later(1)
    assert [each.attempt for each in bench.requests] == [1, 2]


async def test_nobody_is_held_silent_for_what_nats_did_not_carry(bench: Bench) -> None:
    bench.ask()
    bench.says(TAKEN)
    await bench.later(1, alive=["chat-0"])
    await bench.later(patience.SILENCE - 4)
    await bench.nats.dies()
    await bench.later(patience.NATS - 0.5)
    await bench.nats.returns()
    await bench.later(1)
    assert len(bench.requests) == 1


async def test_what_can_not_be_looked_up_without_nats_is_looked_up_when_it_is_back(
    bench: Bench,
) -> None:
    exchange = bench.ask()
    bench.nats.keeps = False
    bench.says(TAKEN)
    bench.says(HEAD, MIDDLE, lost=True)
    bench.says(LAST)
    await bench.nats.dies()
    await bench.settles()
    bench.nats.keeps = True
    await bench.nats.returns()
    await bench.settles()
    assert text(await ended(exchange)) == b"one two three"
    assert len(bench.requests) == 1


# Clients leave


async def test_a_client_that_leaves_ends_its_request_wherever_it_is(bench: Bench) -> None:
    exchange = bench.ask()
    bench.says(HEAD)
    bench.gateway.leave(exchange)
    assert [each.subject for each in bench.nats.posted[1:]] == ["nebula.inference.cancel.chat.r"]
    assert bench.cancels == [b""]
    with pytest.raises(ClientGone):
        await exchange.next()


async def test_one_that_leaves_after_the_end_ends_nothing(bench: Bench) -> None:
    exchange = bench.ask()
    bench.says(HEAD, MIDDLE, LAST)
    bench.gateway.leave(exchange)
    assert bench.cancels == []


async def test_a_request_that_is_to_be_resumable_goes_on_without_its_client(bench: Bench) -> None:
    exchange = bench.ask(replace(REQUEST, keep=True))
    bench.says(TAKEN)
    bench.gateway.leave(exchange)
    assert bench.cancels == []
    assert await bench.asks("chat-0", r=0) == {}
    bench.story.stops("chat-0")
    await bench.changes()
    assert [each.attempt for each in bench.requests] == [1, 2]


async def test_a_client_that_reads_too_slowly_is_let_go(bench: Bench) -> None:
    request = chat(tools=[{"type": "function"}])
    exchange = bench.ask(request)
    head, *_ = stream(request, 1, "chat-0")
    flood = b"data: " + b"x" * (MAX_WAITING_BYTES // 2) + b"\n\n"
    bench.says(head, *(Piece(chunk + 1, flood) for chunk in range(3)))
    assert (await ended(exchange))[-1].failure == "too-slow"
    assert bench.cancels == [b"too-slow: "]


async def test_where_too_much_waits_for_all_the_client_that_waits_longest_is_let_go(
    bench: Bench,
) -> None:
    bench.gateway._unread.limit = 3 * MAX_WAITING_BYTES // 4
    flood = b"data: " + b"x" * (MAX_WAITING_BYTES // 2) + b"\n\n"
    exchanges = []
    for identity in ("one", "two"):
        request = replace(chat(tools=[{"type": "function"}]), id=identity)
        exchanges.append(bench.ask(request))
        head, *_ = stream(request, 1, "chat-0")
        bench.says(head, Piece(1, flood), to=identity)
    slow, other = exchanges
    assert [piece.failure for piece in await ended(slow)] == ["too-slow"]
    assert not other.done
    assert len((await other.next()).body) + len((await other.next()).body) > len(flood)
    assert bench.gateway._unread.used == 0


async def test_an_answer_that_is_whole_is_let_go_like_any_other(bench: Bench) -> None:
    large = b"x" * (2 * UNCOUNTED)
    bench.gateway._unread.limit = 3 * UNCOUNTED
    slow, other = bench.ask(), bench.ask(replace(REQUEST, id="other"))
    bench.says(Piece(0, large, 200, JSON, "chat-0", end=True))
    assert slow.done
    bench.says(Piece(0, large, 200, JSON, "chat-0", end=True), to="other")
    assert [piece.failure for piece in await ended(slow)] == ["too-slow"]
    assert text(await ended(other)) == large


async def test_what_a_body_takes_is_held_until_neither_client_nor_gateway_needs_it(
    bench: Bench,
) -> None:
    for keep in (False, True):
        exchange = bench.ask(replace(REQUEST, keep=keep))
        hold = Hold(bench.gateway.bodies)
        hold.grow(100)
        bench.says(TAKEN)
        bench.gateway.leave(exchange, hold)
        hold.release()
        assert bench.gateway.bodies.used == (100 if keep else 0)
    bench.says(Piece(0, b"whole", 200, JSON, "chat-0", end=True))
    assert bench.gateway.bodies.used == 0


async def test_a_client_that_reads_a_resumable_answer_too_slowly_is_let_go_and_the_answer_goes_on(
    bench: Bench,
) -> None:
    request = replace(chat(tools=[{"type": "function"}]), keep=True)
    exchange = bench.ask(request)
    head, *_ = stream(request, 1, "chat-0")
    flood = b"data: " + b"x" * (MAX_WAITING_BYTES // 2) + b"\n\n"
    bench.says(head, *(Piece(chunk + 1, flood) for chunk in range(3)))
    assert (await exchange.next()).failure == "too-slow"
    assert not exchange.done
    assert bench.cancels == []


async def test_a_request_that_cant_be_watched_ends_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange, other = bench.ask(), bench.ask(replace(chat(), id="other"))
    monkeypatch.setattr(exchange, "sent_at", None)
    bench.gateway._watch()
    assert (await ended(exchange))[-1].failure == inference.ENGINE_FAILED
    assert not other.done


# Pieces get lost


async def test_a_piece_that_comes_early_waits_for_the_one_before_it(bench: Bench) -> None:
    exchange = bench.ask()
    bench.says(HEAD, LAST)
    assert (await exchange.next()).body == b"one "
    bench.says(MIDDLE)
    assert text(await ended(exchange)) == b"two three"


async def test_a_piece_that_got_lost_is_looked_up(bench: Bench) -> None:
    exchange = bench.ask()
    bench.says(HEAD)
    bench.says(MIDDLE, lost=True)
    bench.says(LAST)
    await bench.settles()
    assert text(await ended(exchange)) == b"one two three"
    assert len(bench.requests) == 1


async def test_where_it_is_lost_for_good_the_answer_goes_on_elsewhere_or_ends(
    bench: Bench,
) -> None:
    exchange = bench.ask()
    bench.says(HEAD, LAST)
    await bench.settles()
    assert (await ended(exchange))[-1].body == b"gap: it is no stream of text"
    request = replace(chat(), id="s")
    exchange = bench.ask(request)
    bench.beats("chat-0")
    pieces = stream(request, 1, "chat-0")
    bench.says(*pieces[:2], pieces[3], to="s")
    await bench.settles()
    again = bench.requests[-1]
    assert (again.id, again.continues) == ("s", "rest")
    bench.says(*stream(again, 2, "chat-1"), to="s")
    assert words(await ended(exchange)) == "Once upon a time"


async def test_a_head_that_is_lost_for_good_begins_anew(bench: Bench) -> None:
    exchange = bench.ask()
    bench.says(MIDDLE, LAST)
    await bench.settles()
    assert [each.attempt for each in bench.requests] == [1, 2]
    bench.says(*(replace(each, attempt=2) for each in (HEAD, MIDDLE, LAST)))
    assert text(await ended(exchange)) == b"one two three"


async def test_where_nothing_can_be_looked_up_it_is_as_lost(bench: Bench) -> None:
    bench.ask()
    bench.nats.keeps = False
    bench.says(MIDDLE)
    await bench.settles()
    assert [each.attempt for each in bench.requests] == [1, 2]


async def test_a_look_up_that_nobody_answers_does_not_take_long(bench: Bench) -> None:
    bench.nats.answers = False
    request = chat()
    bench.ask(request)
    bench.beats("chat-0")
    pieces = stream(request, 1, "chat-0")
    bench.says(*pieces[:2], pieces[3])
    await bench.settles()
    await bench.later(patience.LOOK_UP[1] - 0.5)
    assert len(bench.requests) == 1
    await bench.later(1)
    assert bench.requests[-1].continues == "rest"


async def test_what_is_left_for_it_counts_from_the_last_piece_though_its_engine_lives(
    bench: Bench,
) -> None:
    request = chat()
    bench.ask(request)
    pieces = stream(request, 1, "chat-0")
    bench.says(*pieces[:2])
    for _ in range(9):
        await bench.later(1, alive=["chat-0", "chat-1"])
        await bench.asks("chat-0", r=2)
    bench.nats.answers = False
    bench.says(pieces[3])
    await bench.settles()
    await bench.later(patience.LOOK_UP[0] - 0.5, alive=["chat-0"])
    assert len(bench.requests) == 1
    await bench.later(1, alive=["chat-0"])
    assert bench.requests[-1].continues == "rest"


async def test_what_is_looked_for_when_the_next_attempt_begins_is_not_missed(bench: Bench) -> None:
    bench.ask()
    bench.says(MIDDLE, Piece(2, end=True, failure=ENGINE_FAILED))
    await bench.settles()
    assert [each.attempt for each in bench.requests] == [1, 2]


async def test_only_so_many_pieces_wait_for_one_that_is_missing(bench: Bench) -> None:
    exchange = bench.ask()
    bench.says(*(Piece(chunk + 1, b"x") for chunk in range(MAX_EARLY + 1)), kept=False)
    (failure,) = await ended(exchange)
    assert failure.failure == "gap"


async def test_nor_more_bytes_of_them(bench: Bench) -> None:
    exchange = bench.ask()
    half = b"x" * (MAX_EARLY_BYTES // 2)
    bench.says(Piece(1, half), Piece(2, half), Piece(2, half), kept=False)
    assert not exchange.done
    bench.says(Piece(3, b"x"), kept=False)
    assert (await ended(exchange))[-1].failure == "gap"
    assert exchange.early == {}


# Engines ask


async def test_an_engine_hears_which_of_its_requests_nobody_waits_for(bench: Bench) -> None:
    bench.ask()
    assert await bench.asks("chat-0", r=0, unknown=0) == {"unknown": ALL_ATTEMPTS}


async def test_and_of_which_a_later_attempt_is_under_way(bench: Bench) -> None:
    bench.ask()
    await bench.later(patience.ACCEPT[0] + 0.5)
    assert await bench.asks("chat-0", r=UnderWay(1, 0)) == {"r": 2}
    assert await bench.asks("chat-1", r=UnderWay(2, 0)) == {}


async def test_an_engine_that_has_sent_more_than_came_shows_that_pieces_are_missing(
    bench: Bench,
) -> None:
    exchange = bench.ask()
    bench.says(HEAD)
    bench.says(MIDDLE, LAST, lost=True)
    await bench.asks("chat-0", r=3)
    await bench.settles()
    assert text(await ended(exchange)) == b"one two three"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"replica":1}'])
async def test_a_question_that_makes_no_sense_is_not_answered(bench: Bench, body: bytes) -> None:
    message = Msg(cast("Any", None), subjects.waiting("gw"), "_INBOX.x", body)
    await bench.nats.heard[subjects.waiting("gw")](message)
    assert bench.nats.posted == []
