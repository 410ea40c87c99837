"""Tells routers, and gateways with leases, what the engine's prefix cache holds."""

import asyncio
import logging
import os

import msgspec
from nats.errors import Error as NatsError

from nebula.actors.engine.cache_report import CacheReport
from nebula.events import subjects
from nebula.events.inference import Request
from nebula.store.connection import Connection

log = logging.getLogger(__name__)

EVERY = 0.25
"""Seconds over which changes are collected into one message."""


class CacheTeller:
    """Publishes a message when something has changed, and nothing otherwise."""

    def __init__(self, connection: Connection, model: str, replica: str) -> None:
        self._connection = connection
        self._subject = subjects.cache(model, replica)
        self._report = CacheReport(replica, os.getpid())
        self._telling: asyncio.TimerHandle | None = None

    def came(self, request: Request, loop: asyncio.AbstractEventLoop) -> None:
        """Note that the engine gets a prompt."""
        self._report.got(request.prefix, loop.time())
        self._tell_soon(loop)

    def _tell_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._telling is None and self._report.due:
            self._telling = loop.call_later(EVERY, self._tell)

    def _tell(self) -> None:
        self._telling = None
        try:
            self._connection.client.post(
                self._subject, b"", msgspec.json.encode(self._report.news())
            )
        except NatsError as error:
            log.warning("could not publish to %s: %r", self._subject, error)
