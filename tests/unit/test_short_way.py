"""The short way sends and answers what the usual way does, and has no task.

The usual way has the first requests of a connection, the short way those whose head came before.
Bytes come and go by hand, and NATS is played.
"""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import AsyncIterator
from typing import Any, cast

import msgspec
import pytest
import uvicorn
from litestar.types import ASGIApp
from msgspec.structs import replace
from uvicorn.server import ServerState

from nebula.events.failures import Failure
from nebula.events.inference import Piece, Request
from nebula.events.intents import AliasRequested
from nebula.events.values import Target
from nebula.http.app import create_app
from nebula.http.guard import Guard
from nebula.http.inference import Limits
from nebula.http.origins import Doors
from nebula.http.server.capacity import Capacity
from nebula.http.server.connection import HttpConnection
from nebula.http.server.cycle import LINES
from nebula.http.server.stopping import Stopping
from tests.unit.flights import JSON, STREAM, serving
from tests.unit.gateway_bench import Bench, listening
from tests.unit.test_connection_clock import Transport, turns

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning"),
]

CHAT = "/v1/chat/completions"
SAID: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
WHOLE = Piece(
    0,
    b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}',
    status=200,
    content_type=JSON,
    replica="chat-0",
    end=True,
)
_VARIES = re.compile(rb"(x-request-id|date|openai-processing-ms): [^\r]*\r\n")


class Client:
    """A client's connection to a gateway: to an application of its own, or to that of another."""

    def __init__(self, bench: Bench, other: Client | None = None) -> None:
        self.bench = bench
        self.transport = Transport()
        self.stopping: Stopping = other.stopping if other else Stopping()
        doors = Doors(open_scopes=("infer",))
        self.app: ASGIApp = (
            other.app if other else create_app(bench.gateway, Limits(), doors, self.stopping)
        )
        config = uvicorn.Config(self.app, lifespan="off", log_config=None, interface="asgi3")
        self.server = ServerState()
        self.server.tasks = self.stopping.under_way
        capacity = Capacity(bench.gateway.bodies)
        self.connection = HttpConnection(
            config,
            self.server,
            {},
            capacity=capacity,
            short_way=cast("Guard", self.app).short_way,
        )
        self.connection.connection_made(cast("Any", self.transport))

    def sends(self, body: Any, *fields: str, path: str = CHAT) -> None:
        """Send a request at once; nothing that has to wait for a turn happens in this call."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        head = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(data)}", *fields]
        self.connection.data_received("\r\n".join([*head, "", ""]).encode() + data)

    def got(self) -> bytes:
        """Return what was written since the last call, without what differs each time."""
        written, self.transport.written = self.transport.written, b""
        return _VARIES.sub(b"", written)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with listening(Bench()) as bench:
        yield bench


@pytest.fixture
async def client(bench: Bench) -> Client:
    return await known(Client(bench), SAID)


def sent(bench: Bench) -> list[Request]:
    """Return the requests that were sent since the last call, without their ids."""
    found = [replace(each, id="") for each in bench.requests]
    bench.nats.posted.clear()
    return found


async def known(client: Client, body: Any, path: str = CHAT) -> Client:
    """Let a client ask until the gateway knows what the heads of its requests mean."""
    for _ in range(2):
        await asked(client, body, WHOLE, path=path)
    client.bench.nats.posted.clear()
    client.bench.gateway.figures.counts.rows.known.clear()
    return client


async def usual(client: Client, body: Any, *answer: Piece, path: str = CHAT) -> bytes:
    """Let the usual way answer a request of a new connection; return what its client gets."""
    return await asked(Client(client.bench, client), body, *answer, path=path)


async def asked(client: Client, body: Any, *answer: Piece, path: str = CHAT) -> bytes:
    """Let a request be answered; return what its client gets."""
    client.sends(body, path=path)
    await turns()
    if answer:
        client.bench.says(*answer, to=client.bench.requests[-1].id)
        await turns()
    assert not client.server.tasks
    return client.got()


async def test_a_short_request_is_sent_and_answered_in_the_turn_in_which_it_comes(
    bench: Bench, client: Client
) -> None:
    answer = await usual(client, SAID, WHOLE)
    first = sent(bench)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(WHOLE.body)
    client.sends(SAID)
    assert not client.server.tasks
    bench.says(WHOLE, to=bench.requests[-1].id)
    assert client.got() == answer
    assert sent(bench) == first
    assert not client.server.tasks
    assert not bench.gateway.core.flights
    assert bench.gateway.bodies.used == 0
    rows = bench.gateway.figures.counts.rows.known
    assert [row.statuses for row in rows.values()] == [{200: 2}]
    assert bench.gateway.usage.waiting == 4


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {**SAID, "max_tokens": 7, "user": "u", "priority": 3}),
        (CHAT, {**SAID, "messages": [{"role": "user", "content": "long " * 2000}]}),
        (CHAT, {**SAID, "cache_salt": "s"}),
        (CHAT, {**SAID, "model": "gpt"}),
        ("/v1/completions", {"model": "chat", "prompt": "hi", "n": 2}),
        (f"{CHAT}?api-version=1", SAID),
    ],
)
async def test_both_ways_send_the_same_and_answer_the_same(
    bench: Bench, client: Client, path: str, body: Any
) -> None:
    story = serving().given("gpt", AliasRequested((Target("chat", 1),)))
    bench.gateway.projection.state = story.state
    answer = await usual(client, body, WHOLE, path=path)
    first = sent(bench)
    await known(client, body, path)
    client.sends(body, path=path)
    assert len(bench.requests) == 1
    bench.says(WHOLE, to=bench.requests[-1].id)
    await turns()
    assert (client.got(), sent(bench)) == (answer, first)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"model": "chat", "messages": [{"role": "user", "content": "\xff"}]}',
        {},
        {"model": "none", "messages": []},
        {"model": "chat"},
        {"model": "chat", "messages": "hi"},
        {"model": 3, "messages": []},
    ],
)
async def test_what_is_refused_is_refused_alike_and_counted_once(
    bench: Bench, client: Client, body: Any
) -> None:
    sent(bench)
    refused = await usual(client, body)
    client.sends(body)
    await turns()
    assert client.got() == refused
    assert refused.startswith(b"HTTP/1.1 4")
    assert not bench.requests
    assert bench.gateway.bodies.used == 0
    counts = bench.gateway.figures.counts.refused.known.values()
    assert [count.value for count in counts] == [2]


@pytest.mark.parametrize(
    "answer",
    [
        [replace(WHOLE, status=400, body=b'{"error": {"message": "no"}}')],
        [replace(WHOLE, retry_after=3, status=429)],
        [replace(WHOLE, fields=(("x-engine", "a"),))],
        [replace(WHOLE, end=False), Piece(1, b" more", end=True)],
        [Piece(0, b"", status=503, failure=Failure.REFUSED, retry_after=1, end=True)],
    ],
)
async def test_an_answer_that_is_not_plain_is_written_by_a_task(
    bench: Bench, client: Client, answer: list[Piece]
) -> None:
    first = await usual(client, SAID, *answer)
    client.sends(SAID)
    bench.says(*answer, to=bench.requests[-1].id)
    await turns()
    assert client.got() == first
    assert not client.server.tasks
    assert bench.gateway.bodies.used == 0


async def test_a_stream_is_sent_at_once_and_written_by_a_task(bench: Bench, client: Client) -> None:
    asked = {**SAID, "stream": True}
    event = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"token_ids":[1]}]}\n\n'
    pieces = [
        Piece(0, event, status=200, content_type=STREAM, replica="chat-0"),
        Piece(1, b"data: [DONE]\n\n", end=True),
    ]
    answer = await usual(client, asked, *pieces)
    first = sent(bench)
    client.sends(asked)
    assert len(bench.requests) == 1
    assert client.server.tasks
    bench.says(*pieces, to=bench.requests[-1].id)
    await turns()
    assert (client.got(), sent(bench)) == (answer, first)


async def test_a_compressed_body_takes_the_usual_way_each_time(bench: Bench) -> None:
    client, body = Client(bench), msgspec.json.encode(SAID)
    for _ in range(3):
        client.sends(gzip.compress(body), "Content-Encoding: gzip")
        await turns()
        bench.says(WHOLE, to=bench.requests[-1].id)
        await turns()
        assert client.got().endswith(WHOLE.body)
    assert [each.body for each in bench.requests] == [body] * 3


@pytest.mark.parametrize("half", [False, True])
async def test_a_client_that_leaves_ends_its_request(
    bench: Bench, client: Client, half: bool
) -> None:
    client.sends(SAID)
    assert len(bench.gateway.core.flights) == 1
    if half:
        client.connection.eof_received()
    else:
        client.connection.connection_lost(None)
    async with asyncio.timeout(10):
        while client.server.tasks:
            await asyncio.wait(tuple(client.server.tasks))
    assert not bench.gateway.core.flights
    assert bench.gateway.bodies.used == 0
    assert any(each.startswith("cancel.chat") for each in bench.subjects)


async def test_requests_behind_another_one_are_answered_in_order(
    bench: Bench, client: Client
) -> None:
    client.sends(SAID)
    client.sends({**SAID, "max_tokens": 1})
    await turns()
    assert len(bench.requests) == 1  # the second waits until the first is answered, as always
    bench.says(replace(WHOLE, body=b"1"), to=bench.requests[0].id)
    await turns()
    bench.says(replace(WHOLE, body=b"2"), to=bench.requests[-1].id)
    await turns()
    assert re.findall(rb"\r\n\r\n(.)", client.got()) == [b"1", b"2"]


async def test_an_ending_gateway_waits_for_short_requests_and_takes_no_more(
    bench: Bench, client: Client
) -> None:
    answer = await usual(client, SAID, WHOLE)
    client.sends(SAID)
    client.connection.take_over()
    client.stopping.signal()
    assert len(client.stopping.under_way) == 1
    bench.says(WHOLE, to=bench.requests[-1].id)
    await turns()
    assert client.got() == answer
    client.sends(SAID)
    await turns()
    assert client.got().startswith(b"HTTP/1.1 503 ")


async def test_a_client_that_reads_nothing_gets_its_answer_once_it_reads(
    bench: Bench, client: Client
) -> None:
    answer = await usual(client, SAID, WHOLE)
    client.sends(SAID)
    client.connection.pause_writing()
    bench.says(WHOLE, to=bench.requests[-1].id)
    await turns()
    assert client.got() == b""
    client.connection.resume_writing()
    await turns()
    assert client.got() == answer


async def test_a_gateway_that_gives_up_tells_the_client_of_a_short_request(
    bench: Bench, client: Client
) -> None:
    client.sends(SAID)
    bench.gateway.let_all_go()
    await turns()
    assert client.got().startswith(b"HTTP/1.1 503 ")
    assert bench.gateway.bodies.used == 0


async def test_a_client_whose_answer_can_not_be_written_does_not_wait_for_ever(
    bench: Bench, client: Client
) -> None:
    client.sends(SAID)

    def broken() -> bytes:
        raise ValueError("no such limit")

    running = client.connection._running
    assert running is not None
    running.scope["state"][LINES] = broken
    bench.says(WHOLE, to=bench.requests[-1].id)
    await turns()
    assert client.transport.ended or client.got().startswith(b"HTTP/1.1 500 ")
    assert not client.server.tasks


def test_a_gateway_that_pages_of_other_origins_may_ask_has_no_short_way() -> None:
    app = create_app(Bench().gateway, Limits(), Doors(origins=("https://a.b",)))
    assert not isinstance(app, Guard)
