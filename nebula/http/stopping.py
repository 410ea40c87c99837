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

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from nebula.http.dialects import dialect_of
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


class Stopping:
    """Whether the gateway is ending, and which requests still run."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.at_once = False
        self.under_way = 0
        self._hurried = asyncio.Event()
        self._idle = asyncio.Event()

    def signal(self) -> None:
        """Begin to end; end at once at the second call."""
        if self.begun.is_set():
            self.at_once = True
            self._hurried.set()
        self.begun.set()

    def around(self, app: ASGIApp) -> ASGIApp:
        """Return an app that counts the requests of `app`, and refuses new ones at the end."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != ScopeType.HTTP:
                await app(scope, receive, send)
                return
            if self.begun.is_set() and scope["path"] != _ALIVE:
                await fail(stopping(), send, dialect_of(scope["path"]))
                return
            self.under_way += 1
            try:
                await app(scope, receive, send)
            finally:
                self.under_way -= 1
                if not self.under_way:
                    self._idle.set()

        return counted

    async def drained(self, grace: float) -> bool:
        """Wait until no request runs; return False after `grace` s or a second signal."""
        if self.under_way:
            log.info("stopping: %d requests have up to %g s to end", self.under_way, grace)
        if await self._idle_within(grace):
            return True
        log.warning("stopping: %d requests have not ended: they get an error", self.under_way)
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
            self._idle.clear()
            await self._idle.wait()
