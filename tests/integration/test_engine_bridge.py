"""The bridge inside an engine, with a real NATS server and an ASGI app that does as it is told."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from typing import Any

import msgspec
import nats
import pytest
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from zmq import LINGER, XPUB
from zmq.asyncio import Context

from nebula.actors.engine import bridge as engine
from nebula.actors.engine import ended as engine_ended
from nebula.actors.engine import exchange as engine_exchange
from nebula.actors.engine import liveness
from nebula.actors.engine.bridge import EngineBridge
from nebula.actors.engine.exchange import Message, Receive, Scope, Send
from nebula.events import bundles, envelope, frames, piece_envelope, subjects
from nebula.events.cache_news import CacheNews
from nebula.events.failures import Failure
from nebula.events.frames import Frame, FrameReader
from nebula.events.heartbeats import ReplicaHeartbeat
from nebula.events.inference import (
    BodyWanted,
    Finished,
    Piece,
    Request,
    StillWanted,
    UnderWay,
    Unwanted,
)
from nebula.store.connection import Connection
from nebula.store.server import MAX_PAYLOAD, EmbeddedServer

pytestmark = pytest.mark.anyio

VERSION = 3

PATIENCE = 10.0
Behaviour = Callable[[Scope, Receive, Send], Awaitable[None]]


class App:
    """An ASGI app: it goes through its lifespan, and answers requests as a test wants it.

    What the bridge asks it for itself, it answers as vLLM does.
    """

    def __init__(self) -> None:
        self.behave: Behaviour = answers(b"{}")
        self.scopes: list[Scope] = []
        self.lifespan: list[str] = []
        self.own = {
            "/v1/models": b'{"object":"list","data":[{"id":"chat","max_model_len":2048}]}',
            "/metrics": b"vllm:num_requests_waiting 0.0\nvllm:kv_cache_usage_perc 0.0\n",
            "/health": b"",
        }
        self.health = 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in self.own:
            status = self.health if scope["path"] == "/health" else 200
            await answers(self.own[scope["path"]], status=status)(scope, receive, send)
            return
        if scope["type"] in ("http", "websocket"):
            self.scopes.append(scope)
            await self.behave(scope, receive, send)
            return
        for step in ("startup", "shutdown"):
            self.lifespan.append((await receive())["type"])
            scope["state"]["step"] = step
            await send({"type": f"lifespan.{step}.complete"})


def answers(
    *bodies: bytes,
    status: int = 200,
    content_type: bytes = b"application/json",
    at_once: bool = False,
    retry_after: bytes = b"",
) -> Behaviour:
    """Answer with these bodies, each in a turn of the event loop of its own, or all in one."""

    async def behave(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", content_type)]
        headers += [(b"retry-after", retry_after)] if retry_after else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for body in bodies[:-1]:
            await send({"type": "http.response.body", "body": body, "more_body": True})
            if not at_once:
                await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": bodies[-1]})

    return behave


async def echoes(scope: Scope, receive: Receive, send: Send) -> None:
    await answers((await receive())["body"])(scope, receive, send)


class Holding:
    """Begins an answer, then waits until it is let go or its client is gone."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.released = asyncio.Event()
        self.ended = asyncio.Event()
        self.received: list[Message] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        self.begun.set()
        gone = asyncio.ensure_future(receive())
        released = asyncio.create_task(self.released.wait())
        try:
            await asyncio.wait((gone, released), return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                self.received.append(gone.result())
            else:
                await send({"type": "http.response.body", "body": b"done"})
        finally:
            gone.cancel()
            released.cancel()
            self.ended.set()


class Engine:
    """An app behind its bridge, as a server with this lifespan runs it."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.bridge = EngineBridge(app)
        self.scope: Scope = {"type": "lifespan", "state": {"weights": "loaded"}, "app": app}
        self.sent: asyncio.Queue[Message] = asyncio.Queue()
        self._told: asyncio.Queue[Message] = asyncio.Queue()
        self._life = asyncio.create_task(
            self.bridge(self.scope, self._told.get, self.sent.put), name="lifespan"
        )

    async def lives(self, step: str) -> Message:
        self._told.put_nowait({"type": f"lifespan.{step}"})
        return await asyncio.wait_for(self.sent.get(), PATIENCE)

    async def stop(self) -> None:
        if not self._life.done():
            await self.lives("shutdown")
            await self._life


class Gateway:
    """A gateway by hand: it sends requests straight to the replica and reads what comes back."""

    def __init__(self, client: Client, pieces: Subscription) -> None:
        self.client = client
        self._pieces = pieces

    async def asks(self, identity: str = "r1", body: bytes = b"{}", **fields: Any) -> None:
        plan, path = fields.pop("plan", None), fields.pop("path", "/v1/chat/completions")
        request = Request(identity, "g1", "chat", path, body, **fields)
        headers = envelope.request_headers(request)
        await self.client.publish(
            subjects.replica_requests("chat", "chat-0"),
            body,
            headers=headers if plan is None else {**headers, envelope.PLAN: str(plan)},
        )

    async def pushes(self, identity: str, body: bytes) -> None:
        """Send the body of a request that has gone ahead."""
        header = {envelope.REQUEST: identity}
        await self.client.publish(subjects.pushed_bodies("chat", "chat-0"), body, headers=header)

    async def cancels(self, identity: str = "r1", below: str = "") -> None:
        """Cancel all attempts of a request, or those below a number."""
        await self.client.publish(subjects.cancel("chat", identity), below.encode())

    async def piece(self) -> Piece:
        message = await self._pieces.next_msg(PATIENCE)
        piece = piece_envelope.read(message.headers, message.data)
        assert piece is not None
        return piece

    async def answer(self) -> list[Piece]:
        """Return all pieces up to the end."""
        pieces = [await self.piece()]
        while not pieces[-1].end:
            pieces.append(await self.piece())
        return pieces

    async def hears_nothing_more(self) -> None:
        """Check that no piece comes: what the bridge has sent before a later answer is all."""
        await self.asks("last")
        (last,) = await self.answer()
        assert last.body == b"{}"
        assert self._pieces.pending_msgs == 0


@pytest.fixture
def url(nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("NEBULA_NATS_URL", nats_server.url)
    monkeypatch.setenv("NEBULA_MODEL", "chat")
    monkeypatch.setenv("NEBULA_REPLICA", "chat-0")
    monkeypatch.setenv("NEBULA_VERSION", str(VERSION))
    return nats_server.url


@pytest.fixture
async def running(url: str) -> AsyncIterator[Engine]:
    started = Engine(App())
    await started.lives("startup")
    yield started
    await started.stop()


@pytest.fixture
async def gateway(url: str) -> AsyncIterator[Gateway]:
    client = await nats.connect(url)
    pieces = await client.subscribe(subjects.responses("g1", "*"))
    await client.flush()
    yield Gateway(client, pieces)
    await client.close()


async def test_the_lifespan_passes_through_and_is_answered_once_the_bridge_listens(
    url: str, gateway: Gateway
) -> None:
    started = Engine(App())
    assert await started.lives("startup") == {"type": "lifespan.startup.complete"}
    await gateway.asks()
    assert (await gateway.answer())[-1].status == 200  # on a busy machine it is announced first
    assert await started.lives("shutdown") == {"type": "lifespan.shutdown.complete"}
    await started.stop()
    assert started.app.lifespan == ["lifespan.startup", "lifespan.shutdown"]


async def test_a_request_over_the_engines_own_port_passes_through_untouched(
    running: Engine,
) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"over http"}

    running.app.behave = echoes
    scope: Scope = {"type": "http", "path": "/version"}
    await running.bridge(scope, receive, send)
    assert running.app.scopes == [scope]
    assert sent[-1]["body"] == b"over http"


async def test_a_short_answer_is_one_message(running: Engine, gateway: Gateway) -> None:
    running.app.behave = answers(b'{"id":1}', status=404, content_type=b"text/plain")
    await gateway.asks()
    assert await gateway.answer() == [
        Piece(0, b'{"id":1}', status=404, content_type="text/plain", replica="chat-0", end=True),
    ]


async def test_the_app_sees_the_request_as_if_it_had_come_over_http(
    running: Engine, gateway: Gateway
) -> None:
    running.app.behave = echoes
    await gateway.asks("r7", b"caf\xc3\xa9")
    assert (await gateway.answer())[0].body == b"caf\xc3\xa9"
    (scope,) = running.app.scopes
    assert (scope["method"], scope["path"]) == ("POST", "/v1/chat/completions")
    headers = dict(scope["headers"])
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"content-length"] == b"5"
    assert headers[b"x-request-id"] == b"r7"


async def test_the_app_finds_what_its_lifespan_has_prepared_and_each_request_a_copy_of_it(
    running: Engine, gateway: Gateway
) -> None:
    for identity in ("r1", "r2"):
        await gateway.asks(identity)
        await gateway.answer()
    first, second = running.app.scopes
    assert first["app"] is running.app
    assert first["state"]["weights"] == "loaded"
    first["state"]["mine"] = True
    assert "mine" not in second["state"]


async def test_a_stream_comes_in_pieces_that_are_numbered_without_gaps(
    running: Engine, gateway: Gateway
) -> None:
    bodies = [b"data: %d\n\n" % number for number in range(500)]
    running.app.behave = answers(*bodies, b"", content_type=b"text/event-stream")
    await gateway.asks()
    pieces = await gateway.answer()
    assert [piece.chunk for piece in pieces] == list(range(len(pieces)))
    assert pieces[0].body == bodies[0]  # the first part waits for no others
    assert b"".join(piece.body for piece in pieces) == b"".join(bodies)
    assert [piece.end for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    head, *others = pieces
    assert (head.status, head.content_type, head.replica) == (200, "text/event-stream", "chat-0")
    assert {(piece.status, piece.content_type, piece.replica) for piece in others} == {(0, "", "")}


async def test_pieces_of_streams_that_step_together_come_in_bundles_if_that_is_asked_for(
    running: Engine, gateway: Gateway, connection: Connection
) -> None:
    heard: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue()
    subject = subjects.bundles("g1", "chat", "chat-0")
    await connection.client.listen(subject, lambda _, *said: heard.put_nowait(said))
    await connection.client.flush()
    streams, all_here = ("r1", "r2", "r3"), asyncio.Event()
    bodies = [b"data: %d\n\n" % number for number in range(50)]
    stepping = answers(*bodies, content_type=b"text/event-stream")

    async def together(scope: Scope, receive: Receive, send: Send) -> None:
        if len(running.app.scopes) == len(streams) + 1:
            all_here.set()
        await all_here.wait()
        await stepping(scope, receive, send)

    running.app.behave = together
    for identity in streams:
        await gateway.asks(identity, bundled=True)
    await gateway.asks("alone")
    assert b"".join(piece.body for piece in await gateway.answer()) == b"".join(bodies)
    came: dict[str, list[Piece]] = {identity: [] for identity in streams}
    while not all(pieces and pieces[-1].end for pieces in came.values()):
        header, body = await asyncio.wait_for(heard.get(), PATIENCE)
        for request, head, part in bundles.read(header, body):
            came[request].append(piece_envelope.with_body(head, part))
    for pieces in came.values():
        assert b"".join(piece.body for piece in pieces) == b"".join(bodies)
        chunks = [piece.chunk for piece in pieces if piece.chunk >= 0]
        assert chunks == list(range(len(chunks)))
        assert pieces[-1].end


async def test_what_is_sent_in_one_turn_of_the_event_loop_leaves_as_one_piece(
    running: Engine, gateway: Gateway
) -> None:
    running.app.behave = answers(b"a", b"b", b"c", at_once=True)
    await gateway.asks()
    assert [piece.body for piece in await gateway.answer()] == [b"abc"]

    async def in_two_turns(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        for body in (b"a", b"b"):
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await asyncio.sleep(0)
        for body in (b"c", b"d"):
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"e"})

    running.app.behave = in_two_turns
    await gateway.asks("r2")
    assert [piece.body for piece in await gateway.answer()] == [b"ab", b"cde"]


async def test_a_body_beyond_what_nats_carries_is_split_and_can_be_joined(
    running: Engine, gateway: Gateway
) -> None:
    body = os.urandom(MAX_PAYLOAD * 2 + 12_345)
    running.app.behave = answers(body, status=201)
    await gateway.asks()
    pieces = await gateway.answer()
    assert [piece.chunk for piece in pieces] == list(range(len(pieces)))
    assert b"".join(piece.body for piece in pieces) == body
    assert [piece.status for piece in pieces] == [201] + [0] * (len(pieces) - 1)


async def test_a_body_that_is_sent_behind_its_request_is_not_asked_for(
    running: Engine, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PUSHED_WITHIN", 10 * PATIENCE)
    questions = await gateway.client.subscribe(subjects.bodies("g1"))
    running.app.behave = echoes
    body = os.urandom(20_000)
    await gateway.asks(body=b"", size=len(body), pushed=True)
    await gateway.pushes("r1", body)
    assert b"".join(piece.body for piece in await gateway.answer()) == body
    assert questions.pending_msgs == 0


@pytest.mark.parametrize("wrong", [b"", b"too short"])
async def test_a_body_that_does_not_come_behind_its_request_is_fetched(
    running: Engine, gateway: Gateway, wrong: bytes
) -> None:
    questions = await gateway.client.subscribe(subjects.bodies("g1"))
    running.app.behave = echoes
    body = os.urandom(20_000)
    await gateway.asks(body=b"", size=len(body), pushed=True)
    await gateway.pushes("r1", wrong)
    asked = await questions.next_msg(PATIENCE)
    await asked.respond(body)
    assert b"".join(piece.body for piece in await gateway.answer()) == body
    await gateway.pushes("r1", body)  # too late, as is one that was never asked for
    await gateway.pushes("r2", body)
    await gateway.asks("r3", body=b"{}")
    assert b"".join(piece.body for piece in await gateway.answer()) == b"{}"


async def test_a_request_that_is_cancelled_before_its_body_comes_never_begins(
    running: Engine, gateway: Gateway
) -> None:
    running.app.behave = echoes
    await gateway.asks(body=b"", size=2, pushed=True)
    await gateway.cancels()
    await gateway.pushes("r1", b"{}")
    await gateway.asks("r2", body=b"[]")
    pieces = await gateway.answer()
    assert b"".join(piece.body for piece in pieces) == b"[]"


async def test_requests_are_served_at_the_same_time(running: Engine, gateway: Gateway) -> None:
    running.app.behave = holding = Holding()
    await gateway.asks("r1")
    await holding.begun.wait()
    running.app.behave = answers(b"quick")
    await gateway.asks("r2")
    assert [(await gateway.piece()).body for _ in range(2)] == [b"begun", b"quick"]
    holding.released.set()
    assert (await gateway.piece()).body == b"done"


async def test_a_cancelled_request_sees_its_client_leave_and_nothing_more_is_said_of_it(
    running: Engine, gateway: Gateway
) -> None:
    ordinary, running.app.behave = running.app.behave, (holding := Holding())
    await gateway.asks()
    assert (await gateway.piece()).body == b"begun"
    await gateway.cancels()
    await asyncio.wait_for(holding.ended.wait(), PATIENCE)
    assert holding.received == [{"type": "http.disconnect"}]
    running.app.behave = ordinary
    await gateway.hears_nothing_more()


async def test_an_app_that_does_not_care_about_its_client_is_stopped(
    running: Engine, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_exchange, "ABORT_GRACE", 0.05)
    stopped = asyncio.Event()

    async def deaf(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    running.app.behave = deaf
    await gateway.asks()
    assert (await gateway.piece()).chunk == -1
    await gateway.cancels()
    await asyncio.wait_for(stopped.wait(), PATIENCE)


async def test_a_cancellation_that_overtakes_its_request_keeps_it_from_starting(
    running: Engine, gateway: Gateway
) -> None:
    await gateway.cancels("r1")
    await gateway.asks("r1")
    await gateway.hears_nothing_more()
    assert len(running.app.scopes) == 1


async def test_a_request_that_comes_twice_is_answered_once(
    running: Engine, gateway: Gateway
) -> None:
    await gateway.asks("r1")
    await gateway.asks("r1")
    await gateway.answer()
    await gateway.asks("r1")
    await gateway.hears_nothing_more()
    assert len(running.app.scopes) == 2


async def test_an_app_that_raises_fails_the_answer(running: Engine, gateway: Gateway) -> None:
    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("CUDA error")

    running.app.behave = breaks
    await gateway.asks()
    (failure,) = await gateway.answer()
    assert (failure.chunk, failure.failure) == (0, Failure.ENGINE_FAILED)


async def test_an_app_that_raises_amid_its_answer_fails_the_rest_of_it(
    running: Engine, gateway: Gateway
) -> None:
    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("CUDA error")

    running.app.behave = breaks
    await gateway.asks()
    half, failure = await gateway.answer()
    assert half.body == b"half"
    assert (failure.chunk, failure.failure) == (1, Failure.ENGINE_FAILED)


async def test_an_app_that_returns_without_an_answer_has_failed(
    running: Engine, gateway: Gateway
) -> None:
    async def forgets(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})

    running.app.behave = forgets
    await gateway.asks()
    assert [piece.failure for piece in await gateway.answer()] == [Failure.ENGINE_FAILED]


async def test_a_slow_answer_is_announced_and_a_quick_one_is_not(
    running: Engine, gateway: Gateway
) -> None:
    await gateway.asks("quick")
    assert (await gateway.piece()).chunk == 0
    release = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await release.wait()
        await answers(b"at last")(scope, receive, send)

    running.app.behave = slow
    await gateway.asks("slow")
    assert await gateway.piece() == Piece(-1, replica="chat-0")
    release.set()
    (answer,) = await gateway.answer()
    assert (answer.chunk, answer.body) == (0, b"at last")


async def test_an_answer_that_has_begun_is_not_announced_any_more(
    running: Engine, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "ANNOUNCE_AFTER", 0.02)
    running.app.behave = holding = Holding()
    await gateway.asks()
    assert (await gateway.piece()).body == b"begun"

    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    running.app.behave = silent
    await gateway.asks("r2")  # which is announced later than the first one would have been
    assert await gateway.piece() == Piece(-1, replica="chat-0")
    holding.released.set()
    assert (await gateway.piece()).chunk == 1


async def test_every_end_of_a_request_is_told_to_the_routers(
    running: Engine, gateway: Gateway
) -> None:
    ends = await gateway.client.subscribe(subjects.FINISHED)
    await gateway.client.flush()

    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("CUDA error")

    holding = Holding()
    for identity, behaviour in (("r1", answers(b"")), ("r2", breaks), ("r3", holding)):
        running.app.behave = behaviour
        await gateway.asks(identity)
        await gateway.piece()
    await gateway.cancels("r3")
    told: list[Finished] = []
    while sum(len(finished.requests) for finished in told) < 3:
        told.append(msgspec.json.decode((await ends.next_msg(PATIENCE)).data, type=Finished))
    assert [identity for each in told for identity in each.requests] == ["r1", "r2", "r3"]
    assert [identity for each in told for identity in each.failed] == ["r2"]
    assert {each.replica for each in told} == {"chat-0"}
    assert told[-1].active == 0


async def test_prompts_that_an_engine_gets_are_told_by_their_digests_once(
    running: Engine, gateway: Gateway
) -> None:
    caches = await gateway.client.subscribe(subjects.CACHES)
    for identity, prefix in (("r1", ("d1", "d2")), ("r2", ()), ("r3", ("d1", "d2"))):
        await gateway.asks(identity, prefix=prefix)
        await gateway.answer()
    told = await caches.next_msg(PATIENCE)
    assert told.subject == "nebula.cache.chat.chat-0"
    news = msgspec.json.decode(told.data, type=CacheNews)
    assert (news.replica, news.pid, news.serial) == ("chat-0", os.getpid(), 1)
    assert (news.held, news.gone, news.evictions) == (("d2", "d1"), (), False)
    await gateway.asks("r4", prefix=("d1", "d3"))
    news = msgspec.json.decode((await caches.next_msg(PATIENCE)).data, type=CacheNews)
    assert (news.serial, news.held) == (2, ("d3",))


async def test_what_vllm_says_to_have_evicted_is_told_by_its_digests(
    url: str, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any
) -> None:
    endpoint = f"ipc://{tmp_path_factory.mktemp('kv')}/kv"
    monkeypatch.setenv("NEBULA_KV_EVENTS_ENDPOINT", endpoint)
    caches = await gateway.client.subscribe(subjects.CACHES)
    serials = count()

    async def news() -> CacheNews:
        return msgspec.json.decode((await caches.next_msg(PATIENCE)).data, type=CacheNews)

    with Context() as context, context.socket(XPUB) as vllm:
        vllm.setsockopt(LINGER, 0)
        vllm.bind(endpoint)

        async def publishes(*events: dict[str, object]) -> None:
            payload = msgspec.msgpack.encode([0.0, events, 0])
            await vllm.send_multipart([b"", next(serials).to_bytes(8, "big"), payload])

        started = Engine(App())
        await started.lives("startup")
        assert await vllm.recv() == b"\1", "the bridge has subscribed"
        await gateway.asks(body=b"x" * 700, prefix=("d1", "d2"))
        await gateway.answer()
        assert (b"x-session-id", b"r1") in started.app.scopes[-1]["headers"]
        await gateway.asks("r2", prefix=("d3",), fields=(("x-session-id", "mine"),))
        await gateway.answer()
        fields = started.app.scopes[-1]["headers"]
        assert [value for name, value in fields if name == b"x-session-id"] == [b"mine"]
        held: set[str] = set()
        while held != {"d1", "d2", "d3"}:
            held |= set((await news()).held)

        stored: dict[str, object] = {
            "type": "BlockStored",
            "block_hashes": [1, 2],
            "session_id": "r1",
        }
        await publishes(stored, {"type": "BlockRemoved", "block_hashes": [2]})
        told = await news()
        assert (told.evictions, told.held, told.gone) == (True, (), ("d2",))
        next(serials)
        await publishes({"type": "BlockRemoved", "block_hashes": [1]})
        told = await news()
        assert (told.forgotten, told.gone) == (True, ())
        await started.stop()


async def test_an_end_is_told_at_once_and_those_that_follow_it_closely_together(
    running: Engine, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_ended, "TOLD_EVERY", 1.0)
    ends = await gateway.client.subscribe(subjects.FINISHED)
    for identity in ("r1", "r2", "r3"):
        await gateway.asks(identity)
        await gateway.answer()
    for told in (("r1",), ("r2", "r3")):
        finished = msgspec.json.decode((await ends.next_msg(PATIENCE)).data, type=Finished)
        assert finished == Finished("chat-0", told)


async def test_an_answer_that_the_engine_itself_fails_counts_as_failed(
    running: Engine, gateway: Gateway
) -> None:
    ends = await gateway.client.subscribe(subjects.FINISHED)
    running.app.behave = answers(b"{}", status=500)
    await gateway.asks()
    assert (await gateway.answer())[0].status == 500
    finished = msgspec.json.decode((await ends.next_msg(PATIENCE)).data, type=Finished)
    assert finished.failed == ("r1",)


ERROR = b'data: {"error": {"message": "no", "code": %d}}\n\n'
OF_MESSAGES = (
    b'event: error\ndata: {"type":"error","error":{"type":"internal_error","message":"no"}}\n\n'
)
TALKED_OF = b"data: " + json.dumps({"text": OF_MESSAGES.decode()}).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("behaviour", "failed", "unproven"),
    [
        (answers(b"{}"), False, False),
        (answers(b"{}", status=400), False, True),
        (answers(b"{}", status=429), False, True),
        (answers(b"{}", status=501), False, True),
        (answers(b"{}", status=503), False, True),
        (answers(b"data: {}\n\n", ERROR % 500, content_type=b"text/event-stream"), True, False),
        (answers(b"data: {}\n\n", ERROR % 400, content_type=b"text/event-stream"), False, False),
        (answers(b"data: {}\n\n", OF_MESSAGES, content_type=b"text/event-stream"), True, False),
        (answers(TALKED_OF, b"data: {}\n\n", content_type=b"text/event-stream"), False, False),
        (answers(b"\x00" + ERROR % 500, content_type=b"audio/wav"), False, False),
    ],
)
async def test_only_what_an_engine_breaks_is_held_against_it(
    running: Engine, gateway: Gateway, behaviour: Behaviour, failed: bool, unproven: bool
) -> None:
    ends = await gateway.client.subscribe(subjects.FINISHED)
    running.app.behave = behaviour
    await gateway.asks()
    await gateway.answer()
    finished = msgspec.json.decode((await ends.next_msg(PATIENCE)).data, type=Finished)
    assert (bool(finished.failed), bool(finished.unproven)) == (failed, unproven)


@pytest.mark.parametrize("status", [429, 503])
async def test_what_a_full_engine_says_of_when_to_come_back_is_kept(
    running: Engine, gateway: Gateway, status: int
) -> None:
    running.app.behave = answers(b"{}", status=status, retry_after=b"7")
    await gateway.asks()
    (piece,) = await gateway.answer()
    assert (piece.status, piece.retry_after, piece.failure) == (status, 7, "")


async def test_an_error_of_an_engine_that_is_dead_does_not_count_as_its_own_answer(
    running: Engine, gateway: Gateway
) -> None:
    running.app.behave = answers(b"EngineCore encountered an issue", status=500)
    running.app.health = 503
    await gateway.asks()
    (piece,) = await gateway.answer()
    assert (piece.failure, piece.body) == (Failure.ENGINE_FAILED, b"")


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7),
        ("0", 0),
        ("99999999999", 86400),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0),
        ("soon", None),
        ("-1", None),
        ("", None),
    ],
)
def test_when_to_come_back_is_read_as_seconds(said: str, seconds: int | None) -> None:
    assert engine_exchange.seconds_until(said, 10.0) == seconds


async def test_a_further_attempt_replaces_the_previous_one(
    running: Engine, gateway: Gateway
) -> None:
    ordinary, running.app.behave = running.app.behave, (first := Holding())
    await gateway.asks()
    assert (await gateway.piece()).attempt == 1
    running.app.behave = answers(b"again ", b"done")
    await gateway.asks(attempt=2, continues="again")
    await asyncio.wait_for(first.ended.wait(), PATIENCE)
    announced, head, last = await gateway.answer()
    assert (announced.chunk, announced.body, announced.attempt) == (-1, b"", 2)
    assert (head.chunk, head.body, head.attempt, head.continues) == (0, b"again ", 2, "again")
    assert (last.chunk, last.body, last.attempt) == (1, b"done", 2)

    running.app.behave = ordinary
    await gateway.asks(attempt=1)  # late: it was on its way for long
    await gateway.hears_nothing_more()


async def test_a_cancellation_with_a_number_ends_the_attempts_below_it_only(
    running: Engine, gateway: Gateway
) -> None:
    running.app.behave = holding = Holding()
    await gateway.asks(attempt=2)
    assert (await gateway.piece()).body == b"", "a further attempt is announced at once"
    assert (await gateway.piece()).body == b"begun"
    await gateway.cancels(below="2")
    holding.released.set()
    assert (await gateway.piece()).body == b"done"

    running.app.behave = holding = Holding()
    await gateway.asks("r2", attempt=2)
    assert (await gateway.piece()).body == b""
    assert (await gateway.piece()).body == b"begun"
    await gateway.cancels("r2", below="3")
    await asyncio.wait_for(holding.ended.wait(), PATIENCE)
    assert holding.received == [{"type": "http.disconnect"}]


async def test_a_request_whose_time_is_over_is_ended_and_says_so(
    running: Engine, gateway: Gateway
) -> None:
    running.app.behave = holding = Holding()
    await gateway.asks(timeout=0.3)
    begun, failure = await gateway.answer()
    assert begun.body == b"begun"
    assert (failure.chunk, failure.failure) == (1, Failure.ENGINE_TIMED_OUT)
    await asyncio.wait_for(holding.ended.wait(), PATIENCE)
    assert holding.received == [{"type": "http.disconnect"}]


async def test_with_each_heartbeat_gateways_are_asked_which_requests_are_still_wanted(
    running: Engine, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "HEARTBEAT", 0.05)
    asked = await gateway.client.subscribe(subjects.waiting("g1"))
    kept, dropped = Holding(), Holding()
    for identity, behaviour in (("kept", kept), ("dropped", dropped)):
        running.app.behave = behaviour
        await gateway.asks(identity)
        await gateway.piece()

    wanted = {"kept": UnderWay(1, 1), "dropped": UnderWay(1, 1)}
    async with asyncio.timeout(PATIENCE):
        while True:
            message = await asked.next_msg(PATIENCE)
            asking = msgspec.json.decode(message.data, type=StillWanted)
            if asking == StillWanted("chat-0", wanted):
                break
    answer = Unwanted({"dropped": 2, "kept": 1})
    await message.respond(msgspec.json.encode(answer))
    await asyncio.wait_for(dropped.ended.wait(), PATIENCE)
    assert not kept.ended.is_set()
    kept.released.set()
    assert (await gateway.piece()).body == b"done"


async def test_a_request_is_asked_about_before_the_heartbeat_without_which_it_would_count_as_lost(
    running: Engine, gateway: Gateway
) -> None:
    told = await gateway.client.subscribe(">")
    running.app.behave = Holding()
    await gateway.asks()
    await gateway.piece()
    beat, question = subjects.replica_status("chat", "chat-0"), subjects.waiting("g1")
    async with asyncio.timeout(PATIENCE):
        while (message := await told.next_msg(PATIENCE)).subject != question:
            if message.subject == beat:
                status = msgspec.json.decode(message.data, type=ReplicaHeartbeat)
                assert status.running == 0, "it was not asked about yet"


async def test_without_an_answer_to_the_question_only_resumable_requests_go_on(
    running: Engine, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, dropped = Holding(), Holding()
    for identity, behaviour, keep in (("kept", kept, True), ("dropped", dropped, False)):
        running.app.behave = behaviour
        await gateway.asks(identity, keep=keep)
        await gateway.piece()
    # There is no listener on the gateway's subject for such questions: as after its kill -9.
    await asyncio.wait_for(dropped.ended.wait(), PATIENCE)
    assert not kept.ended.is_set()
    kept.released.set()
    assert (await gateway.piece()).body == b"done"


async def test_the_heartbeat_tells_its_replica_and_how_much_it_has_to_do(
    running: Engine, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "HEARTBEAT", 0.02)
    beats = await gateway.client.subscribe(subjects.replica_status("chat", "chat-0"))

    async def next_beat() -> ReplicaHeartbeat:
        return msgspec.json.decode((await beats.next_msg(PATIENCE)).data, type=ReplicaHeartbeat)

    idle = ReplicaHeartbeat(replica="chat-0", pid=os.getpid(), running=0, version=3, context=2048)
    assert await next_beat() == idle
    running.app.behave = holding = Holding()
    await gateway.asks()
    await holding.begun.wait()
    async with asyncio.timeout(PATIENCE):
        while (await next_beat()).running != 1:
            continue
        holding.released.set()
        while (await next_beat()).running != 0:
            continue


async def test_the_heartbeat_tells_how_full_the_engine_is_and_how_long_it_has_said_nothing(
    running: Engine, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "HEARTBEAT", 0.02)
    beats = await gateway.client.subscribe(subjects.replica_status("chat", "chat-0"))
    await gateway.client.subscribe(subjects.waiting("g1"))  # so that the request is wanted
    running.app.own["/metrics"] = (
        b"# TYPE vllm:num_requests_waiting gauge\n"
        b'vllm:num_requests_waiting{engine="0",model_name="chat"} 7.0\n'
        b'vllm:kv_cache_usage_perc{engine="0",model_name="chat"} 0.25\n'
    )
    running.app.behave = holding = Holding()
    await gateway.asks()
    async with asyncio.timeout(PATIENCE):
        while True:
            beat = msgspec.json.decode((await beats.next_msg(PATIENCE)).data, type=ReplicaHeartbeat)
            if beat.stalled > 0.1:
                break
    assert (beat.running, beat.waiting, beat.cache) == (1, 7, 0.25)
    holding.released.set()
    async with asyncio.timeout(PATIENCE):
        while beat.stalled or beat.running:
            beat = msgspec.json.decode((await beats.next_msg(PATIENCE)).data, type=ReplicaHeartbeat)


async def test_a_request_that_left_without_an_answer_leaves_its_silence_until_a_probe_is_answered(
    running: Engine, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "HEARTBEAT", 0.02)
    monkeypatch.setattr(liveness, "PROBE_AFTER", 0.3)
    beats = await gateway.client.subscribe(subjects.replica_status("chat", "chat-0"))
    probes, answers_probes = list[bytes](), False

    async def stands(scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        if b"max_tokens" in body:
            probes.append(body)
            await answers(b"{}", status=200 if answers_probes else 500)(scope, receive, send)
            return
        await receive()

    running.app.behave = stands
    await gateway.asks(timeout=0.1)
    assert (await gateway.answer())[-1].failure == Failure.ENGINE_TIMED_OUT
    await gateway.asks("r2")
    async with asyncio.timeout(PATIENCE):
        while True:
            beat = msgspec.json.decode((await beats.next_msg(PATIENCE)).data, type=ReplicaHeartbeat)
            if beat.stalled > 1:
                break
        assert len(probes) <= beat.stalled / 0.3 + 1  # those that fail at once leave a pause
        answers_probes = True
        await gateway.cancels("r2")
        while beat.stalled:
            beat = msgspec.json.decode((await beats.next_msg(PATIENCE)).data, type=ReplicaHeartbeat)
    assert msgspec.json.decode(probes[-1])["model"] == "chat"


async def test_an_engine_that_tells_nothing_of_itself_serves_all_the_same(
    url: str, gateway: Gateway
) -> None:
    beats = await gateway.client.subscribe(subjects.replica_status("chat", "chat-0"))
    await gateway.client.flush()
    started = Engine(App())
    started.app.own = {"/v1/models": b"not found", "/metrics": b"vllm:num_requests_waiting soon"}
    await started.lives("startup")
    beat = msgspec.json.decode((await beats.next_msg(PATIENCE)).data, type=ReplicaHeartbeat)
    assert (beat.context, beat.waiting, beat.cache) == (0, 0, 0.0)
    await gateway.asks()
    assert (await gateway.answer())[-1].status == 200  # on a busy machine it is announced first
    await started.stop()


async def test_what_no_gateway_has_sent_is_not_served(running: Engine, gateway: Gateway) -> None:
    subject = subjects.replica_requests("chat", "chat-0")
    await gateway.client.publish(subject, b"{}")
    await gateway.client.publish(subject, b"{}", headers={"Nebula-Request": "r1"})
    await gateway.hears_nothing_more()
    assert len(running.app.scopes) == 1


async def test_a_request_for_the_engine_s_own_plan_is_served(
    running: Engine, gateway: Gateway
) -> None:
    await gateway.asks(plan=VERSION)
    assert (await gateway.answer())[-1].status == 200  # on a busy machine it is announced first


async def test_a_request_for_an_older_plan_is_sent_back_and_counts_as_no_failure(
    running: Engine, gateway: Gateway
) -> None:
    ends = await gateway.client.subscribe(subjects.finished("chat"))
    await gateway.client.flush()
    await gateway.asks(plan=VERSION - 1)
    [refused] = await gateway.answer()
    assert (refused.failure, refused.body) == (Failure.OTHER_PLAN, b"")
    told = msgspec.json.decode((await ends.next_msg(PATIENCE)).data, type=Finished)
    assert (told.requests, told.failed, told.active) == (("r1",), (), 0)
    assert running.app.scopes == []


async def test_to_a_request_for_a_newer_plan_a_stale_engine_says_nothing(
    running: Engine, gateway: Gateway
) -> None:
    await gateway.asks(plan=VERSION + 1)
    await gateway.hears_nothing_more()
    assert len(running.app.scopes) == 1, "the last one, by which that is seen"


async def test_an_engine_that_shuts_down_tells_the_waiting_clients(
    running: Engine, gateway: Gateway
) -> None:
    running.app.behave = holding = Holding()
    await gateway.asks()
    await holding.begun.wait()
    await running.stop()
    begun, failure = await gateway.answer()
    assert begun.body == b"begun"
    assert (failure.chunk, failure.failure) == (1, Failure.ENGINE_STOPPED)
    holding.released.set()
    await holding.ended.wait()


def test_an_engine_that_no_node_has_started_does_not_come_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NEBULA_NATS_URL", raising=False)
    with pytest.raises(KeyError, match="NEBULA_NATS_URL"):
        EngineBridge(App())


@pytest.mark.parametrize("path", ["/collective_rpc", "/v1/load_lora_adapter", "/nebula/adapters"])
async def test_a_path_that_is_not_for_clients_never_reaches_the_engine(
    path: str, running: Engine, gateway: Gateway
) -> None:
    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError(scope["path"])

    running.app.behave = never
    await gateway.asks(path=path)
    (answer,) = await gateway.answer()
    assert (answer.status, answer.failure) == (404, "")
    assert json.loads(answer.body)["error"]["code"] == "unknown_url"


async def test_query_and_header_fields_reach_the_engine_and_its_own_come_back(
    running: Engine, gateway: Gateway
) -> None:
    seen: list[Scope] = []

    async def tells(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"2"),
            (b"connection", b"close"),
            (b"openai-version", b"caf\xe9"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})

    running.app.behave = tells
    trace = (("traceparent", "00-1-2-01"), ("anthropic-beta", "caf\xe9"))
    await gateway.asks(path="/v1/messages", query="beta=true", fields=trace)
    (answer,) = await gateway.answer()
    assert answer.fields == (("openai-version", "caf\xe9"),)
    (scope,) = seen
    assert (scope["path"], scope["query_string"]) == ("/v1/messages", b"beta=true")
    assert dict(scope["headers"])[b"traceparent"] == b"00-1-2-01"
    assert dict(scope["headers"])[b"anthropic-beta"] == b"caf\xe9"


async def test_a_session_is_answered_by_frames_and_asks_for_what_its_client_says(
    running: Engine, gateway: Gateway
) -> None:
    ended = asyncio.Event()

    async def echoes_messages(scope: Scope, receive: Receive, send: Send) -> None:
        assert (scope["type"], scope["path"]) == ("websocket", "/v1/realtime")
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({**message, "type": "websocket.send"})
        ended.set()

    running.app.behave = echoes_messages
    questions = await gateway.client.subscribe(subjects.bodies("g1"))
    await gateway.asks(path="/v1/realtime")
    opened = await gateway.piece()
    assert (opened.status, opened.body, opened.end) == (101, b"", False)
    said = [Frame("text", "hé".encode()), Frame("bytes", b"\xff")]
    data = b"".join(map(frames.encode, said))
    heard = b""
    for start, end in ((0, 3), (3, len(data))):  # cut amid a frame
        asked = await questions.next_msg(PATIENCE)
        wanted = msgspec.json.decode(asked.data, type=BodyWanted)
        assert (wanted.request, wanted.attempt, wanted.offset) == ("r1", 1, start)
        await asked.respond(data[start:end])
    while len(heard) < len(data):
        heard += (await gateway.piece()).body
    assert heard == data
    await gateway.cancels()
    await asyncio.wait_for(ended.wait(), PATIENCE)


async def test_an_app_may_refuse_a_session_or_close_it(running: Engine, gateway: Gateway) -> None:
    async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.close", "code": 1000})

    async def closes(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4000, "reason": "enough"})

    running.app.behave = refuses
    await gateway.asks(path="/v1/realtime")
    (refused,) = await gateway.answer()
    assert refused.status == 403
    assert json.loads(refused.body)["error"]["code"] == "session_refused"
    running.app.behave = closes
    await gateway.asks("r2", path="/v1/realtime")
    opened, closed = await gateway.answer()
    assert (opened.status, closed.failure) == (101, "")
    assert list(FrameReader().feed(closed.body)) == [Frame("close", b"enough", 4000)]


async def test_a_session_whose_gateway_does_not_know_it_ends(
    running: Engine, gateway: Gateway
) -> None:
    left = asyncio.Event()

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        assert (await receive())["type"] == "websocket.disconnect"
        left.set()

    running.app.behave = waits
    questions = await gateway.client.subscribe(subjects.bodies("g1"))
    await gateway.asks(path="/v1/realtime")
    asked = await questions.next_msg(PATIENCE)
    await gateway.client.publish(asked.reply, b"", headers={envelope.FAILURE: "unknown"})
    await asyncio.wait_for(left.wait(), PATIENCE)
    assert (await gateway.answer())[-1].failure == Failure.BODY_LOST
