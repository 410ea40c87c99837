"""One request as an engine's ASGI app sees it, and its answer as pieces on NATS."""

import asyncio
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias

from nats.errors import Error as NatsError

from nebula.events import envelope, inference, subjects
from nebula.events.inference import Piece, Request
from nebula.store.connection import Connection

log = logging.getLogger(__name__)

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

ABORT_GRACE = 5.0
"""Seconds after which an app that does not heed its client's departure is cancelled."""

WITHOUT_CORE = frozenset({"/tokenize", "/detokenize"})
"""Paths that an engine's server answers by itself: they say nothing of its core."""

_ERROR = b'data: {"error"'
"""How vLLM begins the event by which a stream ends that it has failed."""

_CODE = re.compile(rb'"code": ?(\d{3})\b')
_LONGEST_RETRY = 24 * 3600


class EngineExchange:
    """See the module. Body parts that come in one turn of the event loop leave as one piece.

    `failed`: the engine is at fault. `proven`: it has answered as it should, so that it is well.
    """

    def __init__(
        self,
        request: Request,
        replica: str,
        connection: Connection,
        spoke: Callable[[], None],
        healthy: Callable[[], Awaitable[bool]],
    ) -> None:
        self.request = request
        self.task: asyncio.Task[None] | None = None
        self.complete = False
        self.failed = self.proven = False
        self.announced = False
        self._replica = replica
        self._connection = connection
        self._subject = subjects.responses(request.gateway, request.id)
        self._body: bytes | None = request.body
        self._spoke = spoke
        self._healthy = healthy
        self._gone = asyncio.Event()
        self.chunks = 0
        self._status = 0
        self._content_type = ""
        self._retry_after: int | None = None
        self._parts: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self.began = self._loop.time()
        self._forcing: asyncio.TimerHandle | None = None

    async def receive(self) -> Message:
        """Give the body, then nothing until the client is gone."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Turn what the app sends into pieces; the head waits for the first of the body."""
        if self._gone.is_set():
            raise OSError("the client is gone")
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self.failed = inference.blames(self._status)
            for key, value in message.get("headers", ()):
                if key == b"content-type":
                    self._content_type = value.decode("latin-1")
                elif key == b"retry-after":
                    self._retry_after = seconds_until(value.decode("latin-1"), time.time())
            return
        if message["type"] != "http.response.body" or self.complete:
            return
        body = message.get("body", b"")
        if message.get("more_body", False):
            if body:
                if not self._parts:
                    self._loop.call_soon(self._flush)
                self._parts.append(body)
            return
        if self.failed and not self.chunks and not await self._healthy():
            self.fail(inference.ENGINE_FAILED)  # it answers so to all that it had when it died
            return
        if self.complete:
            return
        self.complete = True
        self._say(b"".join([*self._parts, body]), end=True)
        self.proven = self._status < 400 and not self.failed

    def fail(self, failure: str) -> None:
        """End the answer with a reason, unless it is whole already."""
        if not self.complete:
            self._flush()
            self.complete = True
            # What the client gave too little time, or was not for it, is no failure of the engine.
            self.failed = failure not in (inference.ENGINE_TIMED_OUT, inference.OTHER_PLAN)
            self._say(b"", end=True, failure=failure)

    def abort(self) -> None:
        """Tell the app that its client is gone; cancel it if that does not end it soon."""
        self.complete = True
        self._gone.set()
        if self.task is not None and self._forcing is None:
            self._forcing = self._loop.call_later(ABORT_GRACE, self.task.cancel)

    def announce(self) -> None:
        """Say that this replica has the request: its answer takes a while."""
        if not self.announced:
            self.announced = True
            self._post(Piece(-1, replica=self._replica, attempt=self.request.attempt), b"")

    def close(self) -> None:
        """Let go of the timer."""
        if self._forcing is not None:
            self._forcing.cancel()

    def _flush(self) -> None:
        if self._parts and not self.complete:
            self._say(b"".join(self._parts))

    def _say(self, body: bytes, *, end: bool = False, failure: str = "") -> None:
        self._parts.clear()
        if self._status == 200 and not failure and self.request.path not in WITHOUT_CORE:
            self._spoke()  # of what it refuses, or cuts off, an engine's core need not know
        if _ERROR in body and self._status == 200:
            self.failed = self.failed or _told(body)
        room = self._connection.max_body - envelope.HEADER_ROOM
        while len(body) > room:
            self._piece(body[:room])
            body = body[room:]
        self._piece(body, end=end, failure=failure)

    def _piece(self, body: bytes, *, end: bool = False, failure: str = "") -> None:
        chunk, attempt = self.chunks, self.request.attempt
        self.chunks += 1
        self.announced = True
        if chunk and attempt == 1 and not end:
            _post(self._connection, self._subject, envelope.plain_block(chunk), body)
            return
        first = chunk == 0
        piece = Piece(
            chunk,
            status=self._status if first else 0,
            content_type=self._content_type if first else "",
            retry_after=self._retry_after if first else None,
            replica=self._replica if first else "",
            end=end,
            failure=failure,
            attempt=attempt,
            continues=self.request.continues if first else "",
        )
        self._post(piece, body)

    def _post(self, piece: Piece, body: bytes) -> None:
        header = envelope.piece_block(piece)
        _post(self._connection, self._subject, header, body)


def _post(connection: Connection, subject: str, header: bytes, body: bytes) -> None:
    try:
        connection.client.post(subject, header, body)
    except NatsError as error:
        log.warning("could not publish to %s: %r", subject, error)


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
    """Return whether an event of a stream says that the engine has failed the request."""
    code = _CODE.search(body, body.find(_ERROR))
    return code is None or inference.blames(int(code[1]))


def request_scope(request: Request) -> Scope:
    """Give the ASGI scope that an HTTP server would make of a request."""
    headers = [
        (b"content-type", request.content_type.encode("latin-1", "replace")),
        (b"content-length", str(len(request.body)).encode()),
        (b"x-request-id", request.id.encode()),
    ]
    return http_scope("POST", request.path, headers)


def http_scope(method: str, path: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> Scope:
    """Give an ASGI scope of a request that came over no network."""
    return {
        "type": "http",
        # Up to 2.3 an app learns of a client's departure through `receive`; later ones through
        # errors of `send` alone, which come only with the next token.
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"nebula"), *headers],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
        "extensions": {},
    }
