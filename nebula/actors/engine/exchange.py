"""One request for an engine's ASGI app, and its answer as pieces on NATS."""

import asyncio
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias

import msgspec

from nebula.actors.engine.bundling import PieceSender
from nebula.actors.engine.versions import Version
from nebula.events import carried_fields, envelope, inference
from nebula.events.endpoints import ENDPOINTS, REALTIME
from nebula.events.failures import Failure
from nebula.events.inference import HeaderFields, Piece, Request
from nebula.store.connection import Connection

log = logging.getLogger(__name__)

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

ABORT_GRACE = 5.0
"""Seconds after which an app that ignores its client's departure is cancelled."""

GATHER = 0.0009
"""Seconds between two pieces of a stream at least, while each turn of the event loop brings more.
A scheduler's steps are further apart, so that their tokens wait for nothing. uvloop's clock tells
milliseconds: of this one, never two pass."""

WITHOUT_CORE = frozenset(
    endpoint.path for endpoint in (*ENDPOINTS.values(), REALTIME) if not endpoint.computes
)
"""Paths that an engine's server answers without its core."""

_HELD_BACK = frozenset(
    {
        b"content-length",
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"transfer-encoding",
        b"te",
        b"trailer",
        b"upgrade",
        b"x-request-id",
        b"x-client-request-id",
        b"x-nebula-request-id",
        b"openai-processing-ms",
        b"server",
        b"date",
    }
)
"""Header fields of an engine's answer that concern its own connection (RFC 9110, 7.6.1), and those
that the gateway writes itself."""

FIELDS_SIZE = 48 * 1024
"""Bytes of the further header fields of an engine's answer, as JSON, at most: JetStream stores
messages with 64 KiB of headers."""

ANSWER_HEADER_ROOM = 64 * 1024
"""Bytes that the headers of an answer's first message may take."""

_EVENTS = "text/event-stream"
_TEXTS = ("application/json", _EVENTS)
"""Content types of answers that name a model in their text; events may also report an error."""

FITS = 4 * 1024
"""Bytes that fit into one message of any server, so that most answers need not ask."""

_ERROR = b'data: {"error"'
_ANTHROPIC_ERROR = b'"error":{"type":"internal_error"'
"""What stands only in the events with which vLLM ends a failed stream: inside a text, quotes are
escaped."""

_NOT_ITS_FAULT = frozenset(
    {
        Failure.ENGINE_TIMED_OUT,
        Failure.OTHER_PLAN,
        Failure.OTHER_VERSION,
        Failure.BODY_LOST,
    }
)

_HOST = (b"host", b"nebula")
_OF_JSON = (b"content-type", envelope.JSON.encode())

_CODE = re.compile(rb'"code": ?(\d{3})\b')
_LONGEST_RETRY = 24 * 3600


class EngineExchange:
    """One request in an engine. Body parts of one turn of the event loop are sent as one piece.

    So are those of several turns in a row that take no longer than GATHER, after the first piece.

    `version`: that of the adapter that answers, if it is known. `failed`: the engine is at fault.
    `proven`: the engine has answered correctly, so it is healthy. `gone`: its client is gone.
    """

    task: asyncio.Task[None] | None = None
    complete = failed = proven = announced = gone = False
    chunks = _gathered = 0
    _left = -math.inf
    _body: bytes | None = None
    _status = 0
    _content_type = ""
    _is_text = _is_stream = False
    _retry_after: int | None = None
    _fields: HeaderFields = ()
    _forcing: asyncio.TimerHandle | None = None
    _leaving: asyncio.Event | None = None

    def __init__(
        self,
        request: Request,
        replica: str,
        connection: Connection,
        pieces: PieceSender,
        spoke: Callable[[float], None],
        healthy: Callable[[], Awaitable[bool]],
        loop: asyncio.AbstractEventLoop,
        version: Version | None = None,
    ) -> None:
        self.request = request
        self.version = version
        self._replica = replica
        self._connection = connection
        self._pieces = pieces
        if not request.size:
            self.comes(request.body)
        self._spoke = spoke
        self._healthy = healthy
        self._parts: list[bytes] = []
        self._loop = loop
        self.began = loop.time()

    def scope(self) -> Scope:
        """Return the ASGI scope for the app; the body has come before."""
        return request_scope(self.request, len(self._body) if self._body is not None else 0)

    @property
    def has_body(self) -> bool:
        """Whether the body of the request has come, and was not read yet."""
        return self._body is not None

    def comes(self, body: bytes) -> None:
        """Take the body of the request."""
        version = self.version
        self._body = body if version is None else version.asks(body, self.request.content_type)

    async def receive(self) -> Message:
        """Return the body, then wait until the client is gone."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._until_gone()
        return {"type": "http.disconnect"}

    async def _until_gone(self) -> None:
        """Wait until the client is gone; few apps do, and only they need an event for it."""
        if self._leaving is None:
            self._leaving = asyncio.Event()
        if not self.gone:
            await self._leaving.wait()

    def _leave(self) -> None:
        self.gone = True
        if self._leaving is not None:
            self._leaving.set()

    async def send(self, message: Message) -> None:
        """Turn what the app sends into pieces; the head waits for the first part of the body."""
        if self.gone:
            raise OSError("the client is gone")
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self.failed = self._status >= 500 and inference.blames(self._status)
            for key, value in message.get("headers", ()):
                if key == b"content-type":
                    self._content_type = value.decode("latin-1")
                elif key == b"retry-after":
                    self._retry_after = seconds_until(value.decode("latin-1"), time.time())
                elif key not in _HELD_BACK:
                    self._fields += (self._field(key, value),)
            self._is_text = self._content_type.startswith(_TEXTS)
            self._is_stream = self._content_type.startswith(_EVENTS)
            if self._fields and carried_fields.size(self._fields) > FIELDS_SIZE:
                self._refuse_fields()
            return
        if message["type"] != "http.response.body" or self.complete:
            return
        body = message.get("body", b"")
        if self.version is not None and self._is_text:
            body = self.version.answers(body, self._status)
        if message.get("more_body", False):
            if body:
                if not self._parts:
                    self._connection.client.before_write(self._turn_ends)
                self._parts.append(body)
            return
        if self.failed and not self.chunks and not await self._healthy():
            self.fail(Failure.ENGINE_FAILED)  # it answers so to all that it had when it died
            return
        if self.complete:
            return
        self.complete = True
        self._say(b"".join([*self._parts, body]) if self._parts else body, end=True)
        self.proven = self._status < 400 and not self.failed

    def fail(self, failure: str) -> None:
        """End the answer with a reason, unless it is already complete."""
        if not self.complete:
            self._flush()
            self.complete = True
            # A client timeout or a stale plan is not the engine's fault.
            self.failed = failure not in _NOT_ITS_FAULT
            self._say(b"", end=True, failure=failure)

    def returned(self) -> None:
        """Note that the app has returned: without a whole answer it has failed."""
        self.fail(Failure.ENGINE_FAILED)

    def forbid(self) -> None:
        """Answer with 404, as for a path that the engine does not have."""
        text = "clients may not use this path of an engine"
        self._refuse(404, text, "unknown_url")

    def _refuse_fields(self) -> None:
        """Answer with an error in place of an answer whose header fields are too large."""
        text = (
            f"the engine's answer has more than {FIELDS_SIZE} bytes of header fields: ask for "
            'fewer inputs at once, or for "bytes_only" where it answers in bytes'
        )
        self._fields = ()
        self._refuse(422, text, "headers_too_large")

    def _refuse(self, status: int, text: str, code: str) -> None:
        self._status, self._content_type = status, "application/json"
        error = {"message": text, "type": "invalid_request_error", "param": None, "code": code}
        self.complete = True
        self._say(msgspec.json.encode({"error": error}), end=True)

    def _field(self, key: bytes, value: bytes) -> tuple[str, str]:
        if self.version is not None:
            value = self.version.answers(value, self._status)
        return key.decode("latin-1"), value.decode("latin-1")

    def abort(self) -> None:
        """Tell the app that its client is gone; cancel the app if it does not end soon."""
        self.complete = True
        self._leave()
        if self.task is not None and self._forcing is None:
            self._forcing = self._loop.call_later(ABORT_GRACE, self.task.cancel)

    def announce(self) -> None:
        """Confirm that this replica has the request, because its answer takes a while."""
        if not self.announced:
            self.announced = True
            note = Piece(-1, replica=self._replica, attempt=self.request.attempt)
            self._pieces.send(self.request, note, b"")

    def close(self) -> None:
        """Cancel the timer."""
        if self._forcing is not None:
            self._forcing.cancel()

    def _turn_ends(self) -> None:
        """Send the parts that came, unless they come so fast that the next turn's go with them."""
        came = len(self._parts)
        if came > self._gathered and self._loop.time() - self._left < GATHER:
            self._gathered = came
            self._connection.client.before_next_write(self._turn_ends)
        else:
            self._flush()

    def _flush(self) -> None:
        if self._parts and not self.complete:
            self._say(b"".join(self._parts))

    def _say(self, body: bytes, *, end: bool = False, failure: str = "") -> None:
        self._parts.clear()
        self._gathered, self._left = 0, self._loop.time()
        if self._status == 200:  # the engine's core may not have seen what its server refuses
            if not failure and self.request.path not in WITHOUT_CORE:
                self._spoke(self._left)
            if self._is_stream and (_ERROR in body or _ANTHROPIC_ERROR in body):
                self.failed = self.failed or _told(body)
        if len(body) > FITS:
            most = self._connection.max_body
            room = max(most - envelope.HEADER_ROOM, most // 2)  # a running answer continues
            if self._fields and not self.chunks:
                room = max(most - ANSWER_HEADER_ROOM, most // 2)
            while len(body) > room:
                self._piece(body[:room])
                body = body[room:]
        self._piece(body, end=end, failure=failure)

    def _piece(self, body: bytes, *, end: bool = False, failure: str = "") -> None:
        chunk, attempt = self.chunks, self.request.attempt
        self.chunks += 1
        self.announced = True
        if chunk and attempt == 1 and not end:
            self._pieces.send(self.request, chunk, body)
            return
        if chunk:
            piece = Piece(chunk, end=end, failure=failure, attempt=attempt)
        else:
            piece = Piece(
                chunk,
                status=self._status,
                content_type=self._content_type,
                retry_after=self._retry_after,
                replica=self._replica,
                end=end,
                failure=failure,
                attempt=attempt,
                continues=self.request.continues,
                version=self.version.digest if self.version is not None else "",
                fields=self._fields,
            )
        self._pieces.send(self.request, piece, body)


def seconds_until(value: str, now: float) -> int | None:
    """Read a `Retry-After` (RFC 9110, 10.2.3), seconds or a date, as seconds; None for others.

    `now`: seconds since the epoch.
    """
    if value.isascii() and value.isdigit():
        return min(int(value[:9]), _LONGEST_RETRY)
    try:
        then = parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(0, math.ceil(then - now)), _LONGEST_RETRY)


def _told(body: bytes) -> bool:
    """Return whether an event of a stream reports that the engine has failed the request."""
    code = _CODE.search(body, body.find(_ERROR))
    return code is None or inference.blames(int(code[1]))


def request_scope(request: Request, size: int) -> Scope:
    """Return the ASGI scope of a request with a body of `size` bytes, as from an HTTP server."""
    kind = request.content_type
    headers = [
        _HOST,
        _OF_JSON if kind == envelope.JSON else (b"content-type", kind.encode("latin-1", "replace")),
        (b"content-length", b"%d" % size),
        (b"x-request-id", request.id.encode()),
    ]
    for name, value in request.fields:
        headers.append((name.encode("latin-1", "replace"), value.encode("latin-1", "replace")))
    scope = _scope("POST", request.path, headers)
    if request.query:
        scope["query_string"] = request.query.encode("latin-1", "replace")
    return scope


def http_scope(method: str, path: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> Scope:
    """Return the ASGI scope of a request that did not come over a network."""
    return _scope(method, path, [_HOST, *headers])


def _scope(method: str, path: str, headers: list[tuple[bytes, bytes]]) -> Scope:
    return {
        "type": "http",
        # Up to ASGI 2.3 an app learns of a client's departure through `receive`; later only through
        # errors of `send`, which come with the next token.
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
        "extensions": {},
    }
