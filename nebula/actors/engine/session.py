"""One session for an engine's ASGI app: a WebSocket whose messages travel over NATS.

To routers and gateways a session is a request whose answer is what the app sends, frame by frame.
What its client sends is fetched from the gateway as the app reads it: that is the back-pressure.
"""

import asyncio
import logging
from collections import deque

import msgspec
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from nebula.actors.engine.exchange import EngineExchange, Message, Scope, request_scope
from nebula.events import envelope, frames, subjects
from nebula.events.failures import Failure
from nebula.events.frames import BadFrame, Frame, FrameReader
from nebula.events.inference import SWITCHED, BodyWanted
from nebula.openai import realtime

log = logging.getLogger(__name__)

ANSWER_WITHIN = 10.0
"""Seconds within which a gateway answers: it does so after 5 s although its client says nothing."""

RECONNECTING = 10.0
"""Seconds for which a gateway that can't be asked is asked again: it may be reconnecting."""

PAUSE = 0.25
"""Seconds between two questions that failed at once."""

_NORMAL, _REFUSED = 1000, 403


class SessionLost(Exception):
    """A session's gateway is gone, or its client is."""


class EngineSession(EngineExchange):
    """One WebSocket session in an engine."""

    _connected = _accepted = False
    _offset = 0

    def scope(self) -> Scope:
        """Return the ASGI scope of a WebSocket."""
        scope = request_scope(self.request, 0)
        kept = [field for field in scope["headers"] if not field[0].startswith(b"content-")]
        del scope["method"]
        return {
            **scope,
            "type": "websocket",
            "scheme": "ws",
            "headers": kept,
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
        }

    async def receive(self) -> Message:
        """Return the next event of ASGI's WebSocket."""
        if not self._connected:
            self._connected = True
            self._reader, self._came = FrameReader(), deque[Frame]()
            return {"type": "websocket.connect"}
        while not self._came:
            if self.gone:
                return {"type": "websocket.disconnect", "code": 1006, "reason": ""}
            try:
                data = await self._more()
                self._offset += len(data)
                self._came.extend(self._reader.feed(data))
            except (SessionLost, BadFrame) as error:
                log.warning("session %s has lost its client: %s", self.request.id, error)
                self.fail(Failure.BODY_LOST)
                self._leave()
        frame = self._came.popleft()
        if frame.kind == "text":
            data = frame.data
            if self.version is not None:
                data = realtime.with_model(data, self.version.own)
            return {"type": "websocket.receive", "text": data.decode(errors="replace")}
        return {"type": "websocket.receive", "bytes": frame.data}

    async def send(self, message: Message) -> None:
        """Turn what the app sends into frames."""
        if self.gone:
            raise OSError("the client is gone")
        if self.complete:
            return
        match message["type"]:
            case "websocket.accept":
                self._accepted = True
                self._status = SWITCHED
                self._say(b"")
            case "websocket.send":
                text, data = message.get("text"), message.get("bytes") or b""
                frame = Frame("bytes", data) if text is None else Frame("text", text.encode())
                if not self._parts:
                    self._connection.client.before_write(self._flush)
                self._parts.append(frames.encode(frame))
            case "websocket.close" if self._accepted:
                code = message.get("code", _NORMAL) or _NORMAL
                self._close(code, (message.get("reason") or "").encode())
            case "websocket.close":
                text = "the engine does not take this session"
                self._refuse(_REFUSED, text, "session_refused")
            case "websocket.http.response.start" | "websocket.http.response.body":
                await super().send({**message, "type": message["type"].removeprefix("websocket.")})
            case other:
                raise RuntimeError(f"a session has no {other}")

    def returned(self) -> None:
        """Note that the app has returned, which ends an accepted session."""
        if self._accepted:
            self._close(_NORMAL, b"")
        else:
            self.fail(Failure.ENGINE_FAILED)

    def _close(self, code: int, reason: bytes) -> None:
        if not self.complete:
            self.complete = True
            self.proven = True
            last = frames.encode(Frame("close", reason, code))
            self._say(b"".join([*self._parts, last]), end=True)

    async def _more(self) -> bytes:
        """Return what the client has sent further, b"" for nothing. Raise SessionLost."""
        asking = asyncio.ensure_future(self._ask())
        gone = asyncio.ensure_future(self._until_gone())
        try:
            await asyncio.wait((asking, gone), return_when=asyncio.FIRST_COMPLETED)
            return asking.result() if asking.done() else b""
        finally:
            asking.cancel()
            gone.cancel()

    async def _ask(self) -> bytes:
        request, client = self.request, self._connection.client
        room = self._connection.max_body - envelope.HEADER_ROOM
        wanted = BodyWanted(request.id, request.attempt, self._offset, max(room, 1))
        question, subject = msgspec.json.encode(wanted), subjects.bodies(request.gateway)
        until = self._loop.time() + RECONNECTING
        while True:
            try:
                reply = await client.request(subject, question, timeout=ANSWER_WITHIN)
            except (NatsError, TimeoutError) as error:
                if self._loop.time() >= until:
                    why = "is gone" if isinstance(error, NoRespondersError) else "does not answer"
                    raise SessionLost(f"its gateway {why}") from error
                await asyncio.sleep(PAUSE)
                continue
            if reply.headers and envelope.FAILURE in reply.headers:
                raise SessionLost("its gateway does not know it any more")
            return bytes(reply.data)
