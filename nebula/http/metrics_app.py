"""What routers and nodes answer at their metrics port: their metrics, and those of their engines.

It follows the gateway's rules: a key with the scope `view`, unless it is open; where it is open,
no page of a foreign origin may ask.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from nebula.actors.figures import Figures
from nebula.http import own_fields
from nebula.http.credentials import FIELDS
from nebula.http.errors import ApiError
from nebula.http.guard import Guard
from nebula.http.origins import Doors
from nebula.http.principals import STATE, KeyRing, required
from nebula.http.relay import fail
from nebula.metrics.exposition import PLAIN, Exposition

Engines: TypeAlias = Callable[[], Awaitable[bytes]]
"""Returns the metrics of a node's engines."""

_METHODS = ("GET", "HEAD")


class MetricsApp:
    """An ASGI application. `engines`: returns the metrics of a node's engines, if it is a node."""

    def __init__(self, figures: Figures, keys: KeyRing, engines: Engines | None = None) -> None:
        self._figures = figures
        self._keys = keys
        self._engines = engines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Answer one request."""
        if scope["type"] != ScopeType.HTTP:
            return
        try:
            found = await self._answer(scope)
        except ApiError as error:
            await fail(error, send)
            return
        headers = [
            (b"content-type", found.media_type.encode()),
            (b"content-length", str(len(found.body)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else found.body
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _answer(self, scope: Any) -> Exposition:
        """Return what was asked for. Raise ApiError."""
        path = scope["path"].rstrip("/")
        engines = self._engines if path == "/metrics/engines" else None
        if path != "/metrics" and engines is None:
            raise ApiError(404, "there are metrics here, at /metrics", code="unknown_url")
        if scope["method"] not in _METHODS:
            raise ApiError(405, "metrics are read with GET", allow=", ".join(_METHODS))
        headers = own_fields.fields(scope, FIELDS)
        scope.setdefault("state", {})[STATE] = self._keys.principal(headers)
        required(scope, "view")
        if engines is not None:
            return Exposition(await engines(), PLAIN)
        return await self._figures.scrape(headers.get(b"accept", b"").decode("latin-1"))


def metrics_app(figures: Figures, engines: Engines | None, bound: str, *, is_open: bool) -> ASGIApp:
    """Return the application for an actor that listens at `bound`; `is_open`: without keys."""
    projection = figures.actor.projection
    scopes: tuple[Any, ...] = ("view",) if is_open else ()
    app: ASGIApp = MetricsApp(figures, KeyRing(lambda: projection.state.keys, scopes), engines)
    return Guard(app, Doors(bound=bound)) if is_open else app
