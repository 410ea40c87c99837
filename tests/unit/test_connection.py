"""The gateway's side of a connection, before a small application: its clocks and its bounds."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import cast

import pytest
import uvicorn
from litestar.types import ASGIApp, Receive, Scope, Send

from nebula.actors.gateway.budget import Budget, Hold
from nebula.http.bodies import ClientLeft, read_body
from nebula.http.errors import ApiError
from nebula.http.relay import fail
from nebula.http.server import arrival, connection, lingering
from nebula.http.server.capacity import Capacity, connections_within
from nebula.http.server.connection import HttpConnection
from nebula.http.server.listening import listen

pytestmark = pytest.mark.anyio

PATIENCE = 10.0
LIMIT = 100_000


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the body; `/deaf` reads none, `/flood` says more than anybody reads."""
    headers = dict(scope["headers"])
    body = b"hello"
    try:
        if scope["path"] == "/flood":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while (await receive_now(receive)) != "http.disconnect":
                await send({"type": "http.response.body", "body": b"x" * LIMIT, "more_body": True})
            return
        if scope["path"] != "/deaf":
            body = await read_body(receive, headers, LIMIT, Hold(Budget(10 * LIMIT)))
    except ApiError as error:
        await fail(error, send)
        return
    except ClientLeft:
        return
    fields = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def receive_now(receive: Receive) -> str:
    """Return what kind of message is there now, "" for none."""
    message = asyncio.ensure_future(receive())
    await asyncio.sleep(0)
    if message.done():
        return str(message.result()["type"])
    message.cancel()
    return ""


class Peer:
    """A client of the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, *parts: bytes) -> tuple[int, str]:
        """Send parts, and return an answer's status and all that it says."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            await asyncio.sleep(0.01)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        size = int(head.lower().partition("content-length: ")[2].partition("\r")[0])
        body = (await self.reader.readexactly(size)).decode()
        return int(head.split()[1]), head + body

    async def closed(self) -> bytes:
        """Return what comes until the server closes."""
        return await self.reader.read()


class Served:
    """A server in this process."""

    def __init__(self, capacity: Capacity, port: int, server: uvicorn.Server) -> None:
        self.capacity = capacity
        self.port = port
        self._server = server
        self._peers: list[Peer] = []

    async def peer(self) -> Peer:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.port))
        self._peers.append(peer)
        return peer

    def end(self) -> None:
        self._server.should_exit = True

    def close(self) -> None:
        for peer in self._peers:
            peer.writer.close()


@contextlib.asynccontextmanager
async def serving(capacity: Capacity, app: ASGIApp = echo) -> AsyncIterator[Served]:
    sockets = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        cast("Callable[..., None]", app),
        loop="none",
        http=partial(HttpConnection, capacity=capacity),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    with contextlib.ExitStack() as kept:
        kept.enter_context(pytest.MonkeyPatch.context()).setattr(
            server, "capture_signals", contextlib.nullcontext
        )
        task = asyncio.create_task(server.serve(sockets=sockets))
        served = Served(capacity, sockets[0].getsockname()[1], server)
        try:
            async with asyncio.timeout(PATIENCE):
                yield served
        finally:
            served.close()
            server.should_exit = True
            await task


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what no event announces."""
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def capacity(**bounds: float) -> Capacity:
    made = Capacity(Budget(int(bounds.pop("bodies", 10 * LIMIT))))
    for name, value in bounds.items():
        setattr(made, name, value)
    return made


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def post(size: int, *fields: str, path: str = "/") -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {size}", *fields]
    return "".join(f"{line}\r\n" for line in head).encode() + b"\r\n"


# Time


async def test_a_connection_that_stays_idle_is_closed_cleanly_and_not_before() -> None:
    async with serving(capacity(keep_alive=0.3)) as served:
        fresh, used = await served.peer(), await served.peer()
        await asyncio.sleep(0.15)
        assert (await used.ask(GET))[0] == 200
        order: list[str] = []

        async def ends(name: str, peer: Peer) -> None:
            assert await peer.closed() == b""
            order.append(name)

        await asyncio.gather(ends("used", used), ends("fresh", fresh))
        assert order == ["fresh", "used"]


async def test_empty_lines_do_not_keep_a_connection() -> None:
    async with serving(capacity(keep_alive=0.2)) as served:
        peer = await served.peer()
        with contextlib.suppress(ConnectionError):
            for _ in range(10):
                peer.writer.write(b"\r\n")
                await asyncio.sleep(0.05)
        await until(lambda: not served.capacity.open)


@pytest.mark.parametrize("head", [b"G", b"GET / HTTP/1.1\r\nHos", GET[:-2]])
async def test_a_head_that_does_not_arrive_in_time_is_a_408(
    monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    monkeypatch.setattr(arrival, "HEAD_TIME", 0.1)
    async with serving(capacity()) as served:
        peer = await served.peer()
        status, text = await peer.ask(head)
        assert status == 408
        assert "connection: close" in text
        assert "head did not arrive" in text
        assert await peer.closed() == b""


async def test_a_body_that_drips_is_a_408_however_often_a_byte_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arrival, "HEAD_TIME", 0.05)
    monkeypatch.setattr(arrival, "BODY_TIME", 0.1)
    async with serving(capacity()) as served:
        peer = await served.peer()
        peer.writer.write(post(5000))

        async def drip() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    peer.writer.write(b"x")
                    await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        status, text = await peer.ask()
        dripping.cancel()
        assert status == 408
        assert "too slowly" in text


async def test_a_slow_upload_that_keeps_its_pace_is_spared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arrival, "HEAD_TIME", 0.05)
    monkeypatch.setattr(arrival, "BODY_TIME", 0.1)
    monkeypatch.setattr(arrival, "PACE", 100)
    async with serving(capacity()) as served:
        peer = await served.peer()
        status, _ = await peer.ask(post(500), *(b"x" * 50 for _ in range(10)))
        assert status == 200


async def test_a_client_that_reads_nothing_for_long_is_hung_up_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "UNREAD", 0.1)
    async with serving(capacity()) as served:
        peer = await served.peer()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        peer.writer.write(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: bool(served.capacity.open))
        await until(lambda: not (served.capacity.open))


# Bytes


async def test_a_refused_upload_is_heard_out_so_that_its_client_reads_why() -> None:
    async with serving(capacity()) as served:
        peer = await served.peer()
        peer.writer.write(post(40 * LIMIT))
        for _ in range(40):
            peer.writer.write(b"x" * LIMIT)
            await peer.writer.drain()
        status, text = await peer.ask()
        assert status == 413
        assert "connection: close" in text
        assert await peer.closed() == b""


async def test_a_client_that_never_ends_sending_is_hung_up_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lingering, "LINGERING", 0.2)
    monkeypatch.setattr(lingering, "LINGERING_STILL", 0.05)
    async with serving(capacity()) as served:
        peer = await served.peer()
        assert (await peer.ask(post(10**12)))[0] == 413

        async def send_on() -> None:
            while True:
                peer.writer.write(b"x" * 1000)
                await peer.writer.drain()
                await asyncio.sleep(0.01)

        with pytest.raises(ConnectionError):
            await send_on()


async def test_a_small_unread_body_does_not_cost_the_connection() -> None:
    async with serving(capacity()) as served:
        peer = await served.peer()
        assert (await peer.ask(post(10, path="/deaf"), b"x" * 10))[0] == 200
        assert (await peer.ask(GET))[0] == 200


async def test_bodies_that_are_not_asked_for_yet_are_counted_in_the_budget() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            begun.set()
            await ended.wait()
            raise ConnectionAbortedError
        await echo(scope, receive, send)

    bounds = capacity(bodies=50_000)
    async with serving(bounds, slow) as served:
        first, second = await served.peer(), await served.peer()
        first.writer.write(post(40_000, path="/slow") + b"x" * 40_000)
        await begun.wait()
        await until(lambda: bounds.bodies.used == 40_000)
        status, text = await second.ask(post(20_000), b"x" * 20_000)
        assert status == 503
        assert "retry-after: 1" in text
        ended.set()
        await until(lambda: not (bounds.bodies.used))
        third = await served.peer()
        assert (await third.ask(post(20_000), b"x" * 20_000))[0] == 200
        assert not bounds.bodies.used


async def test_heads_that_are_not_whole_are_counted_too() -> None:
    bounds = capacity()
    async with serving(bounds) as served:
        peer = await served.peer()
        for part in (GET[:-2], b"A: ", b"x" * 5000):
            peer.writer.write(part)
            await asyncio.sleep(0.05)
        await until(lambda: not (bounds.bodies.used < 5000))
        assert (await peer.ask(b"\r\n\r\n"))[0] == 200
        assert not bounds.bodies.used


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"x" * 8191 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /" + b"x" * 8192 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (GET[:-2] + b"a: b\r\n" * 99 + b"\r\n", 200),
        (GET[:-2] + b"a: b\r\n" * 100 + b"\r\n", 431),
        (GET[:-2] + b"a: " + b"b" * 65_000 + b"\r\n\r\n", 200),
        (GET[:-2] + b"a: " + b"b" * 66_000 + b"\r\n\r\n", 431),
    ],
)
@pytest.mark.parametrize("pieces", [1, 50])
async def test_heads_have_bounds(head: bytes, status: int, pieces: int) -> None:
    async with serving(capacity()) as served:
        peer = await served.peer()
        step = len(head) // pieces + 1
        parts = [head[at : at + step] for at in range(0, len(head), step)]
        found, text = await peer.ask(*parts)
        assert found == status
        assert ("connection: close" in text) == (status != 200)


@pytest.mark.parametrize(
    "endless",
    [
        b"GET /",
        GET[:-2] + b"a: ",
        GET[:-2] + b"a",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nt: ",
    ],
)
async def test_what_never_ends_is_refused_and_held_only_so_far(endless: bytes) -> None:
    bounds = capacity()
    async with serving(bounds) as served:
        peer = await served.peer()
        peer.writer.write(endless)
        for _ in range(500):
            peer.writer.write(b"x" * 1000)
            await peer.writer.drain()
        status, _ = await peer.ask()
        assert status in (414, 431)
        assert bounds.bodies.used < 80_000


async def test_only_so_many_requests_wait_on_a_connection_and_the_last_one_says_so() -> None:
    async with serving(capacity()) as served:
        peer = await served.peer()
        peer.writer.write(GET * 1000)
        said = await peer.closed()
        assert said.count(b"HTTP/1.1 200") == connection.PIPELINED + 2
        assert said.count(b"connection: close") == 1


# Connections


async def test_connections_beyond_the_bound_get_a_503_and_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bounds = capacity(connections=2)
    async with serving(bounds) as served:
        first, second = await served.peer(), await served.peer()
        assert (await first.ask(GET))[0] == (await second.ask(GET))[0] == 200
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                third = await served.peer()
                status, text = await third.ask(GET)
                assert status == 503
                assert "retry-after: 1" in text
                assert "2 connections are open already" in text
                assert await third.closed() == b""
        assert len(caplog.records) == 1
        assert "limit of open files" in caplog.text
        assert (await first.ask(GET))[0] == 200
        second.writer.close()
        await until(lambda: not (bounds.open > 1))
        fourth = await served.peer()
        assert (await fourth.ask(GET))[0] == 200


def test_connections_leave_files_for_all_else() -> None:
    assert connections_within(100) == 45
    assert connections_within(1024) == 738
    assert all(connections_within(limit) < limit for limit in range(30, 3000))


async def test_a_gateway_without_descriptors_says_so_and_not_often(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("nebula.http.server.capacity.os.open", none)
    monkeypatch.setattr("nebula.http.server.capacity._LOOK_EVERY", 0.01)
    watching = asyncio.create_task(capacity().watch())
    await until(lambda: bool(caplog.records))
    await asyncio.sleep(0.1)
    watching.cancel()
    assert len(caplog.records) == 1
    assert "no file descriptor is left" in caplog.text


# Ends


async def test_a_gateway_that_stops_tells_those_whose_requests_it_ends() -> None:
    begun: asyncio.Future[asyncio.Task[object]] = asyncio.get_running_loop().create_future()

    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        begun.set_result(task)
        await asyncio.Event().wait()

    async with serving(capacity(), never) as served:
        peer = await served.peer()
        peer.writer.write(GET)
        running = await begun
        reading = asyncio.create_task(peer.ask())
        running.cancel()
        status, text = await reading
        assert status == 503
        assert "the gateway is stopping" in text


@pytest.mark.parametrize("half", [GET[:-2], b"POST", post(500) + b"x"])
async def test_one_whose_request_is_not_whole_is_told_that_the_gateway_ends(half: bytes) -> None:
    async with serving(capacity()) as served:
        peer = await served.peer()
        peer.writer.write(half)
        await until(lambda: served.capacity.open > 0)
        await asyncio.sleep(0.05)
        served.end()
        status, text = await peer.ask()
        assert status == 503
        assert "the gateway is stopping" in text
        assert "connection: close" in text
        assert await peer.closed() == b""


async def test_a_server_that_ends_waits_for_no_client_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lingering, "LINGERING_LAST", 0.2)
    async with serving(capacity()) as served:
        refused, half = await served.peer(), await served.peer()
        assert (await refused.ask(post(10**12)))[0] == 413
        half.writer.write(post(500) + b"x")
        await asyncio.sleep(0.05)
        served.end()
        assert (await half.ask())[0] == 503

        async def drip() -> None:
            while True:
                for peer in (refused, half):
                    peer.writer.write(b"x")
                    await peer.writer.drain()
                await asyncio.sleep(0.01)

        with pytest.raises(ConnectionError):
            await drip()
        await until(lambda: not served.capacity.open)


async def test_a_fault_of_the_application_is_a_500_in_openais_form() -> None:
    async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("secret")

    async with serving(capacity(), faulty) as served:
        peer = await served.peer()
        status, text = await peer.ask(GET)
        assert status == 500
        assert '"internal_error"' in text
        assert "secret" not in text


@pytest.mark.parametrize("sent", [GET, post(5) + b"hello", GET * 3])
async def test_a_client_that_has_said_all_it_has_to_say_is_answered(sent: bytes) -> None:
    async with serving(capacity()) as served:
        peer = await served.peer()
        peer.writer.write(sent)
        peer.writer.write_eof()
        said = await peer.closed()
        assert said.count(b"HTTP/1.1 200") == sent.count(b"HTTP/1.1")
        await until(lambda: not served.capacity.open)


async def test_a_client_that_sends_half_a_request_is_not() -> None:
    async with serving(capacity()) as served:
        for half in (GET[:-2], post(5) + b"hell"):
            peer = await served.peer()
            peer.writer.write(half)
            peer.writer.write_eof()
            assert await peer.closed() == b""
        await until(lambda: not served.capacity.open)


async def test_applications_hear_that_it_may_have_left() -> None:
    heard = asyncio.Event()

    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            continue
        heard.set()

    async with serving(capacity(), waiting) as served:
        peer = await served.peer()
        peer.writer.write(GET)
        peer.writer.write_eof()
        await heard.wait()
        assert await peer.closed() == b""


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_an_answer_that_breaks_off_is_never_taken_for_whole(version: str) -> None:
    async def breaking(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        await asyncio.sleep(0.1)
        raise ConnectionAbortedError

    async with serving(capacity(), breaking) as served:
        peer = await served.peer()
        peer.writer.write(GET.replace(b"1.1", version.encode()))
        assert b"half" in await peer.reader.readuntil(b"half")
        if version == "1.1":
            assert await peer.closed() == b"\r\n"  # the last chunk is missing
        else:
            with pytest.raises(ConnectionResetError):
                await peer.closed()


async def test_sockets_are_free_when_a_client_resets() -> None:
    async with serving(capacity()) as served:
        peer = await served.peer()
        peer.writer.write(post(1000) + b"x" * 500)
        await until(lambda: bool(served.capacity.open))
        raw = peer.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.writer.transport.abort()
        await until(lambda: not (served.capacity.open))
        assert not served.capacity.bodies.used


@pytest.mark.parametrize("size", [b"FFFFFFFFFFFFFFFF", b"186a1", b"0186A1;a=b"])
@pytest.mark.parametrize("apart", [False, True])
async def test_a_chunk_larger_than_a_body_may_be_is_refused_by_its_size(
    size: bytes, apart: bool
) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    line = size + b"\r\n"
    async with serving(capacity()) as served:
        peer = await served.peer()
        sent = (head, b"1\r\n{\r\n", line[:3], line[3:]) if apart else (head + line,)
        status, text = await peer.ask(*sent)
        assert status == 413
        assert "connection: close" in text
        assert await peer.closed() == b""


async def test_a_chunk_as_large_as_a_body_may_be_is_taken() -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving(capacity()) as served:
        peer = await served.peer()
        body = b"x" * LIMIT
        sent = head + b"%x\r\n" % LIMIT
        status, text = await peer.ask(sent, body[:50], body[50:] + b"\r\n", b"0\r\n\r\n")
        assert status == 200
        assert text.endswith(body.decode())
