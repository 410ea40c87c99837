"""A WebSocket on a connection, as ASGI's events; `websockets` knows the protocol (RFC 6455).

The protocol comes without I/O. Extensions are not offered: audio in base64 is what travels, and a
compressed message would have to be bounded twice.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from litestar.types import ASGIApp, Message
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from nebula.events.endpoints import REALTIME
from nebula.events.frames import MESSAGE_SIZE
from nebula.http.errors import ApiError
from nebula.http.server.cycle import Cycle
from nebula.http.server.line import Line
from nebula.openai.realtime import INTERNAL, UNKNOWN

SOCKETS = frozenset({REALTIME.path})
"""Paths that are WebSockets: elsewhere the offer of one is passed over."""

PING = 20.0
"""Seconds between two pings. A client from which nothing came for two of them is gone."""

EARLY = 64 * 1024
"""Bytes that a client may send before it is told that its WebSocket is open."""

FRAGMENTS = 16 * 1024
"""Fragments of a message at most: those without content cost memory, too."""

_REALTIME = Subprotocol("realtime")
"""OpenAI's clients in browsers offer it, and end a WebSocket that names none."""

_SWITCHED = 101
_INVALID_TEXT = 1007
_TOO_BIG = 1009


class SocketCycle(Cycle):
    """One WebSocket, from its handshake on. An app may also answer it with HTTP instead."""

    def __init__(self, line: Line, scope: Any) -> None:
        of_socket: Any = {**scope, "type": "websocket", "scheme": "ws", "subprotocols": []}
        super().__init__(line, of_socket, keep_alive=False)
        self.more_body = False
        self._protocol = ServerProtocol(select_subprotocol=_subprotocol, max_size=MESSAGE_SIZE)
        self._protocol.receive_data(_head(scope))
        (request,) = self._protocol.events_received()
        assert isinstance(request, Request)
        self._response = self._protocol.accept(request)
        self._early = b""
        self._open = self._told = False
        self._closed = (UNKNOWN, "")
        self._messages: deque[tuple[Message, int]] = deque()
        self._fragments: list[bytes] = []
        self._kind = Opcode.TEXT
        self._size = 0
        self._heard = True
        self._timer: asyncio.TimerHandle | None = None

    # Called by the connection

    def feed(self, part: bytes) -> None:
        """Take bytes of the client, which count as `waiting` until the app has them."""
        self._heard = True
        self.waiting += len(part)
        if not self._open:
            self._early += part
            if len(self._early) > EARLY:
                self._line.break_off(evident=True)
            return
        self._protocol.receive_data(part)
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and not self.complete:
                self._frame(event)
        self._write()
        if self._event is not None:
            self._event.set()

    def end(self, code: int, reason: str = "") -> None:
        """Close the WebSocket, or break off what has not become one."""
        if self.complete or self.disconnected:
            return
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, reason)
            self._write()
            self._finish((code, reason))
        else:
            self._line.break_off(evident=True)

    def disconnect(self) -> None:
        """Note that the connection is lost."""
        self._stop_beating()
        self._messages.clear()
        super().disconnect()

    def leave(self) -> None:
        """Note that the client sends nothing more: without its close it is gone."""
        super().leave()
        if self._open and not self.complete:
            self._finish((UNKNOWN, ""))

    # Called by the application

    async def run(self, app: ASGIApp) -> None:
        """Let an application serve the WebSocket, if its handshake is valid."""
        response = self._response
        if response.status_code == _SWITCHED:
            await super().run(app)
            return
        text = response.body.decode(errors="replace").strip().partition("\n")[0]
        self._answer(ApiError(response.status_code, text, code="bad_handshake"))

    async def receive(self) -> Any:
        """ASGI's `receive` of a WebSocket."""
        if not self._told:
            self._told = True
            return {"type": "websocket.connect"}
        while not self._messages:
            if self.complete or self.disconnected or self.left:
                code, reason = self._closed
                return {"type": "websocket.disconnect", "code": code, "reason": reason}
            if self._event is None:
                self._event = asyncio.Event()
            self._event.clear()
            if not self._line.congested:
                self._line.wants_body()
            await self._event.wait()
        message, size = self._messages.popleft()
        self._release(size)
        return message

    async def send(self, message: Message) -> None:
        """ASGI's `send` of a WebSocket; after its end it discards everything."""
        kind = message["type"].removeprefix("websocket.")
        if kind.startswith("http.response."):
            answer: Any = {**message, "type": kind}
            await super().send(answer)
            return
        if self._line.congested:
            await self._line.writable()
        if self.complete or self.disconnected:
            return
        said: Any = message
        if kind == "accept":
            self._accept(said)
        elif kind == "send" and said.get("text") is not None:
            self._protocol.send_text(said["text"].encode())
        elif kind == "send":
            self._protocol.send_binary(said["bytes"])
        else:
            self.end(said.get("code", INTERNAL), said.get("reason") or "")
        self._write()

    def _accept(self, message: Any) -> None:
        for name, value in message.get("headers", ()):
            self._response.headers[name.decode("latin-1")] = value.decode("latin-1")
        self._protocol.send_response(self._response)
        self.started = self._open = True
        self._timer = asyncio.get_running_loop().call_later(PING, self._beat)
        early, self._early = self._early, b""
        self._write()
        if early:
            self.waiting -= len(early)
            self.feed(early)

    # The protocol

    def _answer(self, error: ApiError | None) -> None:
        if self._open:
            self.end(INTERNAL, "internal error")
        else:
            super()._answer(error)

    def _frame(self, frame: Frame) -> None:
        size = len(frame.data)
        wire = size + (6 if size < 126 else 8 if size < 65536 else 14)
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._release(wire)
            return
        if frame.opcode is not Opcode.CONT:
            self._kind, self._size = frame.opcode, 0
        self._fragments.append(bytes(frame.data))
        self._size += wire
        if len(self._fragments) > FRAGMENTS:
            self._fragments.clear()
            self.end(_TOO_BIG, f"a message has more than {FRAGMENTS} fragments")
            return
        if not frame.fin:
            return
        data = b"".join(self._fragments)
        self._fragments.clear()
        said: Any = {"type": "websocket.receive", "bytes": data}
        if self._kind is Opcode.TEXT:
            try:
                said = {"type": "websocket.receive", "text": data.decode()}
            except UnicodeDecodeError:
                self.end(_INVALID_TEXT, "a message of text is not valid UTF-8")
                return
        self._messages.append((said, self._size))

    def _release(self, size: int) -> None:
        if self.complete or self.disconnected:
            return  # the connection has released all of it
        self.waiting -= size
        self._line.took(size)

    def _write(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._line.write(data)
            else:  # the protocol is at its end: the client has closed, or broken its rules
                close = self._protocol.close_rcvd or self._protocol.close_sent
                self._finish((UNKNOWN, "") if close is None else (int(close.code), close.reason))

    def _finish(self, closed: tuple[int, str]) -> None:
        if self.complete:
            return
        self._closed = closed
        self.complete = True
        self._messages.clear()
        self._stop_beating()
        if self._event is not None:
            self._event.set()
        self._line.answered(self)

    def _beat(self) -> None:
        """Send a ping; end a WebSocket whose client has vanished."""
        if self._protocol.state is not State.OPEN:
            return
        if not self._heard:
            self._line.break_off(evident=True)
            return
        self._heard = False
        self._protocol.send_ping(b"")
        self._write()
        self._timer = asyncio.get_running_loop().call_later(PING, self._beat)

    def _stop_beating(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def _subprotocol(_: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return _REALTIME if _REALTIME in offered else None


def _head(scope: Any) -> bytes:
    """Return the part of a request's head that concerns its handshake."""
    lines = [
        b"%b: %b\r\n" % (name, value)
        for name, value in scope["headers"]
        if name in (b"host", b"connection", b"upgrade") or name.startswith(b"sec-websocket-")
    ]
    return b"GET %b HTTP/1.1\r\n%b\r\n" % (scope["raw_path"], b"".join(lines))
