"""The check in front of all paths: requests by web pages of other origins are refused.

It runs before the hot paths too, so it reads a request's headers once and remembers allowed hosts.
"""

from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache
from typing import Any

from litestar.types import ASGIApp, Receive, Scope, Send

from nebula.http.dialects import dialect_for
from nebula.http.errors import ApiError
from nebula.http.field_lines import FieldLines, read_once
from nebula.http.origins import (
    BadHost,
    Doors,
    host_allowed,
    is_loopback,
    let_in,
    own_origin,
    site_allowed,
)
from nebula.http.relay import fail

_REMEMBERED = 256
"""Number of hosts whose result is remembered."""

_READ = frozenset((b"host", b"origin", b"sec-fetch-site"))
"""Names of the headers that are read here."""

RETURN = "/login/callback"
"""Where a provider's page sends a browser: what it brings counts only with a secret cookie."""

CONSOLE = "/console"
"""A page without anything of the cluster, and the files that it loads: a link elsewhere may lead
to it."""

_ASKING = frozenset(("http", "websocket"))

_TOLD = 200
"""Characters of a header that are repeated in an error."""


class Guard:
    """Passes requests and WebSockets on to `app`, unless a foreign page made a browser ask."""

    def __init__(self, app: ASGIApp, doors: Doors) -> None:
        self._app = app
        self._doors = doors
        self._refusal_of_host = lru_cache(_REMEMBERED)(self._look_at_host)
        self._checked = self._check
        self.short_way: Callable[[Any, bytes], bool] | None = None
        """Answers requests that were allowed before, past `app`; None if it must see them all."""

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer one ASGI connection."""
        if scope["type"] in _ASKING:
            (refusal,) = read_once(scope, self._checked)
            if refusal is not None:
                return fail(refusal, send, dialect_for(scope["path"], scope["headers"]))
        return self._app(scope, receive, send)

    def allowed_before(self, lines: FieldLines) -> bool:
        """Return whether a request with these fields and this path was allowed before."""
        found = lines.facts.get(self._checked)
        return found is not None and found[0] is None

    def _check(self, scope: Any) -> tuple[ApiError | None]:
        return (self.refusal(scope["headers"], scope["path"]),)

    def refusal(self, headers: Iterable[tuple[bytes, bytes]], path: str) -> ApiError | None:
        """Return why a request with these headers is refused; None if it is allowed."""
        host = b""
        origins = []
        foreign = False
        for name, value in headers:
            if name not in _READ:
                continue
            if name == b"host":
                refused = self._refusal_of_host(value)
                if refused is not None:
                    return ApiError(*refused[:2], kind=refused[2], code=refused[3])
                host = value
            elif name == b"origin":
                origins.append(value)
            elif name == b"sec-fetch-site":
                foreign = foreign or not site_allowed(value)
        if not (origins or foreign):
            return None
        return self._look_at_page(host, origins, foreign, path)

    def _look_at_host(self, host: bytes) -> tuple[int, str, str, str] | None:
        said = _told(host)
        try:
            if host_allowed(self._doors, host.decode("latin-1")):
                return None
        except BadHost:
            text = f"Host {said} is not a host with or without a port"
            return 400, text, "invalid_request_error", "bad_host"
        ways = "a loopback address or localhost" if is_loopback(self._doors.bound) else "an address"
        text = (
            f"this gateway does not answer requests with Host {said}, which it does not know as "
            f"its own (a web page could make such a name lead here): use {ways}, or start it with "
            f"--allowed-host {said}, for example behind a proxy that passes its public Host on"
        )
        return 421, text, "permission_error", "foreign_host"

    def _look_at_page(
        self, host: bytes, origins: list[bytes], foreign: bool, path: str
    ) -> ApiError | None:
        asked = host.decode("latin-1")
        guest = False
        for value in origins:
            origin = value.decode("latin-1")
            if own_origin(self._doors, origin, asked):
                continue
            if not let_in(self._doors, origin, path):
                return ApiError(
                    403,
                    f"a page of {_told(value)} may not ask for {path[:_TOLD]}: only this "
                    "gateway's own pages and programs that are not browsers may. --allow-origin "
                    "lets pages of "
                    "another origin use /v1; --allowed-host names the gateway as a proxy shows it",
                    kind="permission_error",
                    code="foreign_origin",
                )
            guest = True
        if foreign and not guest and not _linked(path):
            return ApiError(
                403,
                "a page of another site made a browser ask for this (Sec-Fetch-Site): only this "
                "gateway's own pages and programs that are not browsers may. Open the address "
                "itself",
                kind="permission_error",
                code="foreign_site",
            )
        return None


def _linked(path: str) -> bool:
    """Return whether a page of another site may lead a browser to a path."""
    return path in (RETURN, CONSOLE) or path.startswith(f"{CONSOLE}/")


def _told(value: bytes) -> str:
    """Return a header's value in a form that fits into a sentence."""
    text = value.decode("ascii", "replace")
    return repr(text if len(text) <= _TOLD else f"{text[:_TOLD]}...")
