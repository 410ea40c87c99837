"""One HTTP request over ASGI for a simulated engine, with vLLM's error messages.

Reads and refuses bodies, sends responses, and notices a client that goes away. It knows nothing
of models. ASGI: https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from http import HTTPStatus
from typing import Any, TypeVar, cast

import msgspec

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
T = TypeVar("T")

encode = msgspec.json.Encoder().encode

# vLLM strips paths out of every error message: serve/exception_handling/utils.py
_PATH = re.compile(r"/(?:home|usr|opt|var|tmp|root|lib|mnt|srv)(?:/[\w.\-]+)+")


class Refusal(Exception):
    """A request that the engine refuses; ``body`` is vLLM's error object as JSON."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str | None = None,
        param: str = "",
        *,
        retry_after: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.message = _PATH.sub("<path>", message)
        # vLLM uses the HTTP phrase ("Bad Request") for what its framework refuses, and a class
        # name ("BadRequestError") for what it refuses itself.
        self.kind = kind or HTTPStatus(status).phrase
        error = {
            "message": self.message,
            "type": self.kind,
            "param": param or None,
            "code": status,
        }
        self.body = encode({"error": error})


class NoRoute(Refusal):
    """A path or a method that the engine does not have; vLLM's framework answers it alone."""

    def __init__(self, status: int) -> None:
        super().__init__(status, HTTPStatus(status).phrase)
        self.body = encode({"detail": self.message})


def invalid(location: str, message: str, kind: str = "value_error") -> Refusal:
    """The refusal of a body that does not have the right form, worded as vLLM's (pydantic's)."""
    entry = {"type": kind, "loc": location, "msg": message}
    return Refusal(400, f"1 validation error:\n  {entry}", param=location)


class Exchange:
    """One HTTP request and the way back to its client, which may disconnect at any time.

    `begun`: the monotonic time at which the engine began to work on it.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun = 0.0
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.path: str = scope["path"]
        self.send = send
        self._receive = receive
        self._departure: asyncio.Task[None] | None = None

    async def read_bytes(self) -> bytes:
        """Return the body as it came. Raise ConnectionAbortedError if the client leaves."""
        parts = []
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ConnectionAbortedError
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        return b"".join(parts)

    async def read(self, decoder: msgspec.json.Decoder[T], *, typed: bool = True) -> T:
        """Return the body; refuse it as vLLM does if it is not JSON, or not declared as JSON."""
        body = await self.read_bytes()
        declared = self.headers.get(b"content-type", b"").partition(b";")[0].lower()
        if typed and declared != b"application/json":
            text = "Unsupported Media Type: Only 'application/json' is allowed"
            raise Refusal(400, f"1 validation error:\n  {text}")
        try:
            return decoder.decode(body)
        except msgspec.ValidationError as error:
            # "Object missing required field `role` - at `$.messages[0]`": body.messages.0.role
            missing = re.search(r"missing required field `(\w+)`", str(error))
            where = re.search(r"`\$([^`]*)`$", str(error))
            path = re.sub(r"\[(\w+|\.\.\.)\]", r".\1", where[1]) if where else ""
            path += f".{missing[1]}" if missing else ""
            kind = "missing" if missing else "value_error"
            raise invalid(f"body{path}", str(error), kind) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise invalid("body", f"JSON decode error: {error}", "json_invalid") from error

    async def start(
        self,
        status: int,
        content_type: bytes,
        length: int | None = None,
        retry_after: str = "",
        more: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """Send the status and the headers; `more`: further ones."""
        headers = [(b"content-type", content_type), *more]
        if retry_after:
            headers.append((b"retry-after", retry_after.encode()))
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def part(self, body: bytes, more: bool = True) -> None:
        """Send one piece of the body."""
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def reply(
        self,
        body: bytes,
        status: int = 200,
        content_type: bytes = b"application/json",
        retry_after: str = "",
    ) -> None:
        """Send a whole response."""
        await self.start(status, content_type, len(body), retry_after)
        await self.part(body, more=False)

    async def text(self, text: str, kind: bytes = b"text/plain; charset=utf-8") -> None:
        """Send a whole response of plain text."""
        await self.reply(text.encode(), content_type=kind)

    async def wait(
        self, moment: asyncio.Future[None] | None = None, seconds: float | None = None
    ) -> None:
        """Wait at most this long; raise ConnectionAbortedError if the client leaves."""
        if self._departure is None:
            self._departure = asyncio.ensure_future(self._watch())
        moments = {self._departure} if moment is None else {self._departure, moment}
        await asyncio.wait(moments, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if self._departure.done():
            raise ConnectionAbortedError

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def close(self) -> None:
        """Stop watching for the client's departure."""
        if self._departure is not None:
            self._departure.cancel()


Handler = Callable[[Exchange], Awaitable[None]]
Routes = dict[str, dict[str, Handler]]
"""Handlers by path and method."""


async def lifespan(receive: Receive, send: Send) -> None:
    """Answer the server's start and end at once: there is nothing to prepare."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


def middleware(path: str) -> Callable[[AsgiApp], AsgiApp]:
    """Return the class behind ``--middleware PATH``. Raise ValueError if it is not a class.

    vLLM takes functions too, which are not needed here.
    """
    module, _, name = path.rpartition(".")
    found: Any = getattr(importlib.import_module(module), name)
    if not inspect.isclass(found):
        raise ValueError(f"Invalid middleware {path}. Must be a class.")
    return cast(Callable[[AsgiApp], AsgiApp], found)
