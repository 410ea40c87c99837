"""What RFC 9110 requires of every resource, for handlers that know only their own methods.

HEAD wherever there is GET, OPTIONS of the whole server, and refusal of what must not be ignored:
conditions and partial content. It wraps Litestar, not the hot paths, which take only POST.
"""

from typing import cast

from litestar.enums import ScopeType
from litestar.types import (
    ASGIApp,
    HTTPRequestEvent,
    Message,
    Receive,
    Scope,
    Send,
)

from nebula.http.dialects import dialect_for
from nebula.http.errors import ApiError
from nebula.http.relay import fail

ALLOWED = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
"""Methods that at least one path takes."""

_CHANGES = ("POST", "PUT", "PATCH", "DELETE")


class Semantics:
    """An ASGI application that wraps another."""

    def __init__(self, rest: ASGIApp) -> None:
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] != ScopeType.HTTP:
            await self._rest(scope, receive, send)
            return
        method = scope["method"]
        if scope["path"] == "*":
            fields = [(b"allow", ALLOWED), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 200, "headers": fields})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        elif method == "OPTIONS" and (allowed := await self._allowed(scope)):
            await send({"type": "http.response.start", "status": 204, "headers": [allowed]})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        elif method == "HEAD":
            await self._rest(_with_method("GET", scope), receive, _HeadOnly(send))
        elif method in _CHANGES and (error := await self._objection(method, scope)):
            await fail(error, send, dialect_for(scope["path"], scope["headers"]))
        else:
            await self._rest(scope, receive, send)

    async def _objection(self, method: str, scope: Scope) -> ApiError | None:
        """Return why a change is refused because of its header fields."""
        fields = dict(scope["headers"])
        if method == "PUT" and b"content-range" in fields:  # RFC 9110 14.5
            return ApiError(400, "Content-Range: partial content is not supported")
        match, no_match = fields.get(b"if-match"), fields.get(b"if-none-match")
        if match is None and no_match is None:
            return None
        there = await self._is_there(scope)
        if match is not None and not (match == b"*" and there):  # RFC 9110 13.1.1
            text = "If-Match: " + ("entity tags are not supported" if there else "nothing is here")
        elif no_match == b"*" and there:  # RFC 9110 13.1.2
            text = "If-None-Match: *: there is one already"
        else:
            return None
        return ApiError(412, text, code="precondition_failed")

    async def _is_there(self, scope: Scope) -> bool:
        """Return whether GET of this path would succeed."""
        told = _Head()
        await self._rest(_with_method("GET", scope), _nothing, told)
        return told.status == 200

    async def _allowed(self, scope: Scope) -> tuple[bytes, bytes] | None:
        """Return the field that tells the methods of a path; None if there is nothing.

        Litestar's own answer to OPTIONS tells only the method that was registered first.
        """
        told = _Head()
        await self._rest(_with_method("TRACE", scope), _nothing, told)
        return told.allow if told.status == 405 else None


async def _nothing() -> HTTPRequestEvent:
    return {"type": "http.request", "body": b"", "more_body": False}


def _with_method(method: str, scope: Scope) -> Scope:
    return cast("Scope", {**scope, "method": method, "state": dict(scope["state"])})


class _HeadOnly:
    """A `send` that drops an answer's content."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._over = False

    async def __call__(self, message: Message) -> None:
        if self._over:
            return
        if message["type"] == "http.response.body":
            self._over = True
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)


class _Head:
    """A `send` that keeps only the status and which methods are allowed."""

    status = 0
    allow: tuple[bytes, bytes] | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            for field in message["headers"]:
                if field[0] == b"allow":
                    self.allow = (field[0], field[1])
