"""How a gateway ends: running requests may finish, then the remaining ones get an error (ADR 37).

1. From the signal on new requests are refused with 503 and `Retry-After`, and their connection
   closes. `/ready` says the same, so that proxies use other gateways; `/health` is served.
2. Running requests get the grace period.
3. Requests that still run then, or have not arrived completely, get an error in the form of their
   answer, and the server ends.

A second signal skips the second step and shortens the third.
"""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from nebula.http.dialects import dialect_for
from nebula.http.errors import stopping
from nebula.http.relay import fail

log = logging.getLogger(__name__)

LAST_WORDS = 5.0
"""Seconds that clients get to read the error that ends their answers."""

UNREAD_LAST = 2
"""Further seconds for what is written but not read by then."""

LAST_WORDS_HURRIED = 0.5
"""Seconds that they get after a second signal."""

_ALIVE = "/health"
_KINDS = (ScopeType.HTTP, ScopeType.WEBSOCKET)


class Stopping:
    """Whether the gateway is ending. `under_way`: the tasks of the requests that still run."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.at_once = False
        self.under_way: set[asyncio.Task[Any]] = set()
        self._hurried = asyncio.Event()

    def signal(self) -> None:
        """Begin to end; end at once at the second call."""
        if self.begun.is_set():
            self.at_once = True
            self._hurried.set()
        self.begun.set()

    def around(self, app: ASGIApp) -> ASGIApp:
        """Return an app that passes requests on to `app`, and refuses them at the end."""
        begun = self.begun

        def passed_on(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            if begun.is_set() and scope["type"] in _KINDS and scope["path"] != _ALIVE:
                return fail(stopping(), send, dialect_for(scope["path"], scope["headers"]))
            return app(scope, receive, send)

        return passed_on

    async def drained(self, grace: float) -> bool:
        """Wait until no request runs; return False after `grace` s or a second signal."""
        if self.under_way:
            log.info("stopping: %d requests have up to %g s to end", len(self.under_way), grace)
        if await self._idle_within(grace):
            return True
        log.warning("stopping: %d requests have not ended: they get an error", len(self.under_way))
        return False

    async def heard_out(self) -> None:
        """Wait a short time for clients to read their errors."""
        self._hurried.clear()
        await self._idle_within(LAST_WORDS_HURRIED if self.at_once else LAST_WORDS)

    async def _idle_within(self, seconds: float) -> bool:
        """Return whether all requests end within this many seconds and before another signal."""
        hurried = asyncio.ensure_future(self._hurried.wait())
        idle = asyncio.ensure_future(self._until_idle())
        try:
            await asyncio.wait(
                (idle, hurried), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            return idle.done()
        finally:
            hurried.cancel()
            idle.cancel()

    async def _until_idle(self) -> None:
        while self.under_way:
            await asyncio.wait(tuple(self.under_way))
