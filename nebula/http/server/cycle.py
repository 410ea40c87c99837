"""One request and its answer on a connection: ASGI's `receive` and `send`, as bytes of HTTP/1.1."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from time import monotonic

from litestar.types import (
    ASGIApp,
    HTTPReceiveMessage,
    HTTPRequestEvent,
    HTTPScope,
    Message,
    Send,
)

from nebula.actors.gateway.delivery import new_id
from nebula.http import dialects, request_ids
from nebula.http.bodies import PROMISED
from nebula.http.errors import ApiError, stopping
from nebula.http.field_lines import read_once
from nebula.http.server.answer_lines import (
    ORDINARY,
    STATUS_LINES,
    joined,
    known_lines,
    naming,
    ordinary_line,
    valid_name,
)
from nebula.http.server.heads import framing
from nebula.http.server.line import Line

log = logging.getLogger(__name__)

DRAINED = 64 * 1024
"""Bytes of an unread body that are worth reading to keep the connection."""

_WITHOUT_CONTENT = (204, 304)

LINES = "lines"
"""Where the state of a scope has a function that returns further field lines of the answer."""


class Cycle:
    """One request, from the end of its head on, and its answer.

    `remaining`: bytes of the body that have not arrived yet, None if unknown.
    """

    __slots__ = (
        *("_body_told", "_chunked", "_event", "_expects", "_http_1_0", "_left", "_line", "_parts"),
        *("_arrived_at", "_promised", "_remaining", "_silent", "_sized", "complete"),
        *("disconnected", "keep_alive", "left", "more_body", "received", "refusal", "scope"),
        *("started", "take_over", "waiting"),
    )

    def __init__(
        self,
        line: Line,
        scope: HTTPScope,
        *,
        keep_alive: bool,
        remaining: int | None = 0,
        expects: bool = False,
        http_1_0: bool = False,
    ) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.more_body = True
        self.disconnected = False
        self.left = False
        self.started = False
        self.complete = False
        self.refusal: ApiError | None = None
        self.waiting = 0
        self.received = 0
        self.take_over: Callable[[], None] | None = None
        self._line = line
        self._remaining = remaining
        self._promised = 0
        self._expects = expects
        self._http_1_0 = http_1_0
        self._parts: list[bytes] = []
        self._body_told = False
        self._event: asyncio.Event | None = None
        self._chunked = False
        self._silent = False
        self._sized = False
        self._left = 0
        self._arrived_at = 0.0

    # Called by the connection

    def feed(self, part: bytes) -> None:
        """Take a part of the body."""
        self._parts.append(part)
        size = len(part)
        self.waiting += size
        self.received += size
        if self._event is not None:
            self._event.set()

    def promise(self, size: int) -> None:
        """Note the least length of the body."""
        self._promised = size
        if self._event is not None:
            self._event.set()

    def end_body(self) -> None:
        """Note that the body is complete."""
        self.more_body = False
        self._arrived_at = monotonic()
        if self._event is not None:
            self._event.set()

    def come_whole(self, size: int) -> None:
        """Note that a body of `size` bytes has come, and was handed to the application already."""
        self.more_body = False
        self._body_told = True
        self.received = size
        self._arrived_at = monotonic()

    def refuse(self, error: ApiError) -> None:
        """Raise this error in the application when it reads the body."""
        self.keep_alive = False
        self.refusal = error
        if self._event is not None:
            self._event.set()

    def disconnect(self) -> None:
        """Note that the client has disconnected."""
        self.disconnected = True
        self._left_now()

    def leave(self) -> None:
        """Note that the client sends nothing more: it may be gone, or wait for the answer."""
        self.left = True
        self._left_now()

    def _left_now(self) -> None:
        if self._event is not None:
            self._event.set()
        if self.take_over is not None:
            self.take_over()

    def run_now(self, app: ASGIApp) -> None:
        """Let an application answer in a task of its own."""
        self._line.run(self, app)

    # Called by the application

    async def run(self, app: ASGIApp) -> None:
        """Let an application answer, and send an error if it does not."""
        try:
            if self.refusal is not None:
                raise self.refusal
            await app(self.scope, self.receive, self.send)
        except ApiError as error:
            self._answer(error)
        except asyncio.CancelledError:
            self._answer(stopping())
        except ConnectionAbortedError as error:
            log.info("an answer was broken off: %s", error)
            self._answer(None)
        except BaseException as error:
            log.exception("a request to %s failed", self.scope["path"])
            self.scope["state"].pop(LINES, None)  # they may be what has failed
            text = f"internal error: {type(error).__name__}"
            self._answer(ApiError(500, text, kind="internal_error"))
        else:
            if self.left and not self.complete:
                self._answer(None)
            elif not self.complete and not self.disconnected:
                log.error("a request to %s got no complete answer", self.scope["path"])
                self._answer(ApiError(500, "internal error", kind="internal_error"))

    async def receive(self) -> HTTPReceiveMessage:
        """ASGI's `receive`. Raise ApiError for a request whose body turns out not to be valid."""
        line = self._line
        if not self._body_told:
            while not (self._parts or self._promised) and self.more_body and not self._over():
                if self.refusal is not None and not self.started:
                    raise self.refusal
                if self._expects and not self.started:
                    self._expects = False
                    line.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                await self._wait()
            if not self._over():
                parts, self._parts = self._parts, []
                body = parts[0] if len(parts) == 1 else b"".join(parts)
                line.took(self.waiting)
                self.waiting = 0
                self._body_told = not self.more_body
                message: HTTPRequestEvent
                message = {"type": "http.request", "body": body, "more_body": self.more_body}
                if self._promised:
                    message[PROMISED] = self._promised  # type: ignore[literal-required]
                    self._promised = 0
                return message
        while not (self.complete or self.disconnected or self.left):
            await self._wait()
        return {"type": "http.disconnect"}

    def _over(self) -> bool:
        return self.complete or self.disconnected or (self.left and self.more_body)

    async def _wait(self) -> None:
        self._line.wants_body()
        if self._event is None:
            self._event = asyncio.Event()
        self._event.clear()
        await self._event.wait()

    async def send(self, message: Message) -> None:
        """ASGI's `send`; after a disconnect it discards everything."""
        if self._line.congested:
            await self._line.writable()
        if self.disconnected:
            return
        if message["type"] == "http.response.body":
            body, more = message.get("body", b""), message.get("more_body", False)
            if more and body and self._chunked and not self.complete:
                self._line.write(b"%x\r\n%b\r\n" % (len(body), body))
            else:
                self._send(body, more=more)
        elif message["type"] == "http.response.start":
            self._start(message["status"], message.get("headers", ()))
        else:
            raise RuntimeError(f"the gateway sends no {message['type']}")

    def send_whole(self, status: int, identity: bytes, content_type: bytes, body: bytes) -> bool:
        """Send an answer that is complete at once; return False if `send` has to do it.

        `identity`: the id of the request in the cluster.
        """
        line = self._line
        if (
            self.more_body
            or self.started
            or self.disconnected
            or line.congested
            or self._http_1_0
            or not (self.keep_alive and identity.isalnum() and self.scope["method"] == "POST")
            or status in _WITHOUT_CONTENT
        ):
            return False
        field = b"content-type", content_type
        typed = known_lines.get(field) or ordinary_line(field)
        named = self._named(identity)
        told = self.scope["state"].get(LINES)
        answer = b"%b%b%b%bcontent-length: %d\r\nopenai-processing-ms: %d\r\n%b\r\n%b" % (
            STATUS_LINES[status],
            line.fields,
            typed,
            named,
            len(body),
            (monotonic() - self._arrived_at) * 1000,
            b"" if told is None else told(),
            body,
        )
        self.started = self.complete = self._sized = True
        line.write_now(answer)
        if self._event is not None:
            self._event.set()
        line.answered(self)
        return True

    # Bytes

    def _answer(self, error: ApiError | None) -> None:
        """Send an error, or break off an answer that had begun."""
        if self.complete or self.disconnected:
            return
        if self.started or error is None:
            self._line.break_off(evident=not self.started or self._chunked or self._sized)
            return
        dialect = dialects.dialect_for(self.scope["path"], self.scope["headers"])
        payload = dialects.payload(error, dialect)
        fields = [(b"content-type", b"application/json")]
        fields += [(name.encode(), value.encode()) for name, value in error.headers.items()]
        fields.append((b"content-length", b"%d" % len(payload)))
        self._start(error.status, fields)
        self._send(payload, more=False)

    def _named(self, identity: bytes) -> bytes:
        """Return the lines with the ids of the request."""
        ids, dialect = read_once(self.scope, naming)
        if ids or dialect == "anthropic" or not identity.isalnum():
            return joined(request_ids.lines(identity, ids, dialect))
        return b"x-request-id: %b\r\n" % identity

    def _start(self, status: int, fields: Iterable[tuple[bytes, bytes]]) -> None:
        if self.started:
            raise RuntimeError("an answer starts once")
        if self.more_body and (
            self._expects or self._remaining is None or self._remaining - self.received > DRAINED
        ):
            self.keep_alive = False
        content = framing(self.scope["method"], status)
        lines = []
        sized = closes = False
        identity = b""
        for field in fields:
            line = known_lines.get(field)
            if line is not None:
                lines.append(line)
                continue
            name, value = field
            if name == b"x-request-id":
                identity = value
            elif name == b"content-length":
                if content != "none":
                    sized = True
                    self._left = length = int(value)
                    lines.append(b"content-length: %d\r\n" % length)
            elif name in ORDINARY:
                lines.append(ordinary_line(field))
            else:
                name = valid_name(name)
                if name == b"connection":
                    closes = closes or b"close" in value.lower()
                elif name != b"transfer-encoding":
                    lines.append(joined([b"%b: %b\r\n" % (name, value)]))
        lines.append(self._named(identity or new_id().encode()))
        if self._arrived_at:
            took = (monotonic() - self._arrived_at) * 1000
            lines.append(b"openai-processing-ms: %d\r\n" % took)
        if content != "content":
            self._silent = True
        elif not sized:
            # RFC 9112 6.1: a client of HTTP/1.0 does not know chunks; the end of the connection
            # ends the answer.
            self._chunked = not self._http_1_0
            closes = closes or self._http_1_0
            if self._chunked:
                lines.append(b"transfer-encoding: chunked\r\n")
        self.keep_alive = self.keep_alive and not closes
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        elif self._http_1_0:
            lines.append(b"connection: keep-alive\r\n")
        self._sized = sized
        more = self.scope["state"].get(LINES)
        told = more() if more is not None else b""
        lines += (told, b"\r\n")
        head = b"%b%b%b" % (STATUS_LINES[status], self._line.fields, b"".join(lines))
        self.started = True
        self._line.write(head)

    def _send(self, body: bytes, *, more: bool) -> None:
        if not self.started or self.complete:
            raise RuntimeError("a part of an answer comes between its start and its end")
        if self._silent:
            pass
        elif self._chunked:
            if body:
                end = b"\r\n" if more else b"\r\n0\r\n\r\n"
                self._line.write(b"%x\r\n%b%b" % (len(body), body, end))
            elif not more:
                self._line.write(b"0\r\n\r\n")
        else:
            if self._sized:
                self._left -= len(body)
                if self._left < 0 or (self._left and not more):
                    raise RuntimeError("an answer is not as long as it says")
            if body:
                self._line.write(body)
        if not more:
            self.complete = True
            if self._event is not None:
                self._event.set()
            self._line.answered(self)


def whole_of(send: Send) -> Callable[[int, bytes, bytes, bytes], bool] | None:
    """Return the `Cycle.send_whole` of ASGI's `send`; None for a `send` that something else sees.

    What stands before a cycle's own, such as CORS or a trace, must see each message.
    """
    cycle = getattr(send, "__self__", None)
    return cycle.send_whole if type(cycle) is Cycle else None
