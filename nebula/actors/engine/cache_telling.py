"""Tells routers, and gateways with leases, what the engine's prefix cache holds."""

import asyncio
import logging
import os

import msgspec
from nats.errors import Error as NatsError

from nebula.actors.engine.cache_report import CacheReport
from nebula.actors.engine.cached_blocks import CachedBlocks, Prompt
from nebula.actors.engine.exchange import Scope
from nebula.actors.engine.kv_events import Change
from nebula.actors.engine.kv_listening import listen
from nebula.events import subjects
from nebula.events.inference import Request
from nebula.store.connection import Connection

log = logging.getLogger(__name__)

EVERY = 0.25
"""Seconds over which changes are collected into one message."""

SESSION = b"x-session-id"
"""The field by which vLLM's KV events name the request that they come from."""


class CacheTeller:
    """Publishes a message when something has changed, and nothing otherwise.

    `endpoint`: where vLLM publishes its KV events; "" if it does not. Without them it is told what
    the engine got, but not what it evicted.
    """

    def __init__(
        self, connection: Connection, model: str, replica: str, endpoint: str = ""
    ) -> None:
        self._connection = connection
        self._subject = subjects.cache(model, replica)
        self._report = CacheReport(replica, os.getpid())
        self._endpoint = endpoint
        self._blocks = CachedBlocks() if endpoint else None
        self._telling: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Listen to vLLM's KV events, if it publishes them."""
        if self._blocks is not None:
            await listen(self._endpoint, self._happened)

    def came(self, request: Request) -> None:
        """Note that the engine gets a prompt."""
        if self._blocks is not None:
            self._blocks.came(request.id, Prompt(request.prefix, request.whole_size))
        self._report.got(request.prefix, asyncio.get_running_loop().time())
        self._tell_soon()

    def name(self, request: Request, scope: Scope) -> None:
        """Let KV events name a request, unless its client has a name for its session."""
        if self._blocks is None or not request.prefix:
            return
        if not any(key == SESSION for key, _ in scope["headers"]):
            scope["headers"].append((SESSION, request.id.encode()))

    def _happened(self, changes: tuple[Change, ...] | None) -> None:
        assert self._blocks is not None
        difference = self._blocks.happened(changes)
        self._report.evictions = True
        if difference.forgotten:
            self._report.forget()
        self._report.evicted(difference.gone)
        self._report.got(difference.held[::-1], asyncio.get_running_loop().time())
        self._tell_soon()

    def _tell_soon(self) -> None:
        if self._telling is None and self._report.due:
            self._telling = asyncio.get_running_loop().call_later(EVERY, self._tell)

    def _tell(self) -> None:
        self._telling = None
        news = msgspec.json.encode(self._report.news())
        try:
            self._connection.client.post(self._subject, b"", news)
        except NatsError as error:
            log.warning("could not publish to %s: %r", self._subject, error)
