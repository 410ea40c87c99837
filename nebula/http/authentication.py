"""Finds the principal of each request before any handler runs, and holds handlers to scopes.

A scope is checked where something is done: each handler of Litestar has a scope as its `opt`, and
needs `admin` if it has none; the paths that engines answer need `infer`.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send

from nebula.actors.gateway.actor import Gateway
from nebula.events import key_events
from nebula.http import own_fields
from nebula.http.credentials import FIELDS
from nebula.http.errors import ApiError
from nebula.http.origins import Doors
from nebula.http.principals import PRESENT, STATE, KeyRing, required
from nebula.http.sign_in.cookies import with_session
from nebula.http.starting import starting

H = TypeVar("H", bound=BaseRouteHandler)

_NEEDS = "scope"
_NOTHING = "none"
_ASKING = frozenset(("http", "websocket"))


def key_ring(gateway: Gateway, doors: Doors) -> KeyRing:
    """Return what recognizes the keys that a gateway's log tells of."""
    return KeyRing(lambda: gateway.projection.state.keys, doors.open_scopes)


class Authentication:
    """Passes connections on to `app` with the principal in their state, or why there is none."""

    def __init__(self, app: ASGIApp, gateway: Gateway, keys: KeyRing, doors: Doors) -> None:
        self._app = app
        self._gateway = gateway
        self._keys = keys
        self._doors = doors
        self._present = self._principal

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer one ASGI connection."""
        if scope["type"] in _ASKING:
            state = scope.setdefault("state", {})
            state[STATE] = self._principal(scope)
            state[PRESENT] = self._present
        return self._app(scope, receive, send)

    def _principal(self, scope: Any) -> object:
        if not self._gateway.started:
            return starting(self._gateway)
        lines = scope["headers"]
        known = self._keys.principal_again(lines)
        if known is not None:
            return known
        try:
            headers: Mapping[bytes, bytes] = own_fields.fields(scope, FIELDS)
            if b"cookie" in headers:
                headers, lines = with_session(scope.get("method", ""), headers, self._doors), None
            return self._keys.principal(headers, lines)
        except ApiError as error:
            return error


def needing(scope: key_events.Scope, *handlers: H) -> tuple[H, ...]:
    """Return handlers that need a scope from now on."""
    return _marked(scope, handlers)


def open_to_all(*handlers: H) -> tuple[H, ...]:
    """Return handlers that need no key from now on."""
    return _marked(_NOTHING, handlers)


def _marked(needed: str, handlers: tuple[H, ...]) -> tuple[H, ...]:
    for handler in handlers:
        handler.opt[_NEEDS] = needed
    return handlers


def needs(handler: BaseRouteHandler) -> key_events.Scope | None:
    """Return the scope that a handler needs; None if it needs no key."""
    needed = handler.opt.get(_NEEDS, "admin")
    return None if needed == _NOTHING else needed


def check_scope(
    connection: ASGIConnection[Any, Any, Any, Any],
    handler: BaseRouteHandler,
    found: Callable[[Any, key_events.Scope], object] = required,
) -> None:
    """Raise ApiError unless a request may use a handler; every request may ask for its methods.

    `found`: `required`, or `still_required` for what its key may do by now.
    """
    needed = needs(handler)
    if needed is not None and connection.scope.get("method") != "OPTIONS":
        found(connection.scope, needed)
