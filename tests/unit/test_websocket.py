"""A WebSocket on a gateway's connection: its messages, its ends, and the bytes that it holds."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar.types import ASGIApp
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from nebula.http.server import websocket
from nebula.http.server.cycle import Cycle
from nebula.http.server.websocket import EARLY, FRAGMENTS, SocketCycle

pytestmark = pytest.mark.anyio


class Line:
    """A connection that writes down what is asked of it."""

    congested = False
    fields = b"date: now\r\n"

    def __init__(self) -> None:
        self.written = b""
        self.taken = 0
        self.broken = self.ended = False

    def write_now(self, data: bytes) -> None:
        self.write(data)

    def write(self, data: bytes) -> None:
        self.written += data

    def break_off(self, *, evident: bool) -> None:
        self.broken = evident

    async def writable(self) -> None:
        raise AssertionError("the client reads all the time")

    def wants_body(self) -> None:
        pass

    def took(self, size: int) -> None:
        self.taken += size

    def run(self, cycle: Cycle, app: ASGIApp) -> None:
        raise AssertionError("a session has a task from the start")

    def answered(self, cycle: Cycle) -> None:
        self.ended = True


class Client:
    """A client of a WebSocket without I/O, and the gateway's side of it."""

    def __init__(self, **headers: str) -> None:
        self.protocol = ClientProtocol(parse_uri("ws://gateway/v1/realtime?model=m"))
        asked = self.protocol.connect()
        asked.headers.update(headers)
        self.protocol.send_request(asked)
        self.protocol.data_to_send()
        fields = [(k.lower().encode(), v.encode()) for k, v in asked.headers.raw_items()]
        scope = {
            "path": "/v1/realtime",
            "raw_path": b"/v1/realtime",
            "headers": fields,
            "state": {},
        }
        self.line = Line()
        self.socket = SocketCycle(self.line, {**scope, "method": "GET"})

    def sent(self) -> bytes:
        return b"".join(self.protocol.data_to_send())

    def gets(self) -> list[Any]:
        """Return what has come, the answer to the handshake first."""
        data, self.line.written = self.line.written, b""
        self.protocol.receive_data(data)
        return list(self.protocol.events_received())

    @property
    def closed(self) -> tuple[int, str] | None:
        """The gateway's close, if one has come."""
        self.gets()
        close = self.protocol.close_rcvd
        return None if close is None else (int(close.code), close.reason)

    async def opens(self) -> None:
        assert (await self.socket.receive())["type"] == "websocket.connect"
        await self.socket.send({"type": "websocket.accept", "subprotocol": None, "headers": []})
        (answer,) = self.gets()
        assert answer.status_code == 101
        assert self.protocol.state.name == "OPEN"


async def test_messages_in_fragments_are_whole_and_text_and_bytes_stay_apart() -> None:
    client = Client()
    await client.opens()
    client.protocol.send_text("hé".encode()[:2], fin=False)
    client.protocol.send_ping(b"amid")
    client.protocol.send_continuation("hé".encode()[2:], fin=True)
    client.protocol.send_binary(b"\xff")
    client.socket.feed(client.sent())
    assert (await client.socket.receive())["text"] == "hé"
    assert (await client.socket.receive())["bytes"] == b"\xff"
    (pong,) = client.gets()
    assert (pong.opcode, pong.data) == (Opcode.PONG, b"amid")


@given(
    said=st.lists(
        st.tuples(st.sampled_from(["text", "bytes", "ping"]), st.integers(0, 70_000)), max_size=6
    ),
    slices=st.integers(1, 100_000),
)
def test_all_bytes_that_came_are_released_once_the_app_has_them(
    said: list[tuple[str, int]], slices: int
) -> None:
    async def exchange() -> None:
        client = Client()
        await client.opens()
        for kind, size in said:
            if kind == "ping":
                client.protocol.send_ping(bytes(size % 125))
            else:
                {"text": client.protocol.send_text, "bytes": client.protocol.send_binary}[kind](
                    b"x" * size
                )
        data = client.sent()
        for at in range(0, len(data), slices):
            client.socket.feed(data[at : at + slices])
        for kind, size in said:
            if kind != "ping":
                assert len((await client.socket.receive())[kind]) == size
        assert (client.socket.waiting, client.line.taken) == (0, len(data))
        client.socket.disconnect()

    asyncio.run(exchange())


async def test_what_a_client_says_before_it_is_answered_is_kept_and_only_so_much() -> None:
    client = Client()
    client.socket.feed(Frame(Opcode.TEXT, b"early").serialize(mask=True))
    await client.opens()
    assert (await client.socket.receive())["text"] == "early"
    greedy = Client()
    greedy.socket.feed(bytes(EARLY + 1))
    assert greedy.line.broken


async def test_each_side_may_close_and_the_other_learns_the_code() -> None:
    client = Client()
    await client.opens()
    await client.socket.send({"type": "websocket.close", "code": 1012, "reason": "gone"})
    assert client.closed == (1012, "gone")
    assert client.line.ended
    other = Client()
    await other.opens()
    other.protocol.send_close(4001, "enough")
    other.socket.feed(other.sent())
    assert await other.socket.receive() == {
        "type": "websocket.disconnect",
        "code": 4001,
        "reason": "enough",
    }
    assert other.closed == (4001, "enough")
    assert other.line.ended


async def test_text_that_is_not_utf_8_closes_it() -> None:
    client = Client()
    await client.opens()
    client.protocol.send_text(b"\xff")
    client.socket.feed(client.sent())
    assert client.closed == (1007, "a message of text is not valid UTF-8")
    assert (await client.socket.receive())["type"] == "websocket.disconnect"


async def test_fragments_without_an_end_close_it_and_keep_nothing() -> None:
    client = Client()
    await client.opens()
    client.protocol.send_text(b"x", fin=False)
    for _ in range(FRAGMENTS):
        client.protocol.send_continuation(b"", fin=False)
    client.protocol.send_continuation(b"", fin=True)
    client.protocol.send_text(b"more")
    client.socket.feed(client.sent())
    assert client.closed == (1009, f"a message has more than {FRAGMENTS} fragments")
    assert (await client.socket.receive())["type"] == "websocket.disconnect"


async def test_a_client_that_answers_no_ping_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "PING", 0.01)
    client = Client()
    await client.opens()
    broken = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(client.line, "break_off", lambda **_: broken.set_result(None))
    await broken
    assert [frame.opcode for frame in client.gets()] == [Opcode.PING]


async def test_an_app_that_returns_or_fails_closes_it() -> None:
    for app in (_returns, _fails):
        client = Client()
        await client.socket.run(app)
        assert client.closed == (1011, "internal error")
        assert client.line.ended


async def _returns(_: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept", "headers": []})


async def _fails(scope: Any, receive: Any, send: Any) -> None:
    await _returns(scope, receive, send)
    raise RuntimeError("a fault")


async def test_a_browser_s_protocol_is_named_and_no_other_one() -> None:
    chosen = {}
    for offered in ("realtime, openai-insecure-api-key.x", "other"):
        client = Client(**{"Sec-WebSocket-Protocol": offered})
        await client.socket.receive()
        await client.socket.send({"type": "websocket.accept", "subprotocol": None, "headers": []})
        head = client.line.written.lower()
        chosen[offered[:8]] = b"sec-websocket-protocol: realtime\r\n" in head
        client.socket.disconnect()
    assert chosen == {"realtime": True, "other": False}
