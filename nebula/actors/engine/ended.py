"""Tells all routers which requests of an engine have ended."""

import asyncio
import logging
import math
from collections.abc import Sized

import msgspec
from nats.errors import Error as NatsError

from nebula.actors.engine.exchange import EngineExchange
from nebula.events import subjects
from nebula.events.inference import Finished
from nebula.store.connection import Connection

log = logging.getLogger(__name__)

TOLD_EVERY = 0.002
"""Seconds over which requests that end are collected into one message, after the last one."""


class EndedRequests:
    """The requests that have ended and are not told of yet.

    `active`: those that the engine has; `slack`: those of them that take spare capacity only.
    """

    def __init__(
        self, connection: Connection, model: str, replica: str, active: Sized, slack: Sized
    ) -> None:
        self._connection = connection
        self._subject = subjects.finished(model)
        self._replica = replica
        self._active = active
        self._slack = slack
        self._ended: list[EngineExchange] = []
        self._told = -math.inf

    def add(self, exchange: EngineExchange, loop: asyncio.AbstractEventLoop) -> None:
        """Tell of a request that has ended: together with its answer, if it is time."""
        self._ended.append(exchange)
        if len(self._ended) > 1:
            return
        now = loop.time()
        if now >= self._told + TOLD_EVERY:
            self._told = now
            self._connection.client.before_write(self._tell)
        else:
            self._told += TOLD_EVERY
            loop.call_at(self._told, self._tell)

    def _tell(self) -> None:
        ended, self._ended = self._ended, []
        finished = Finished(
            self._replica,
            tuple([each.request.id for each in ended]),
            tuple([each.request.id for each in ended if each.failed]),
            len(self._active),
            tuple([each.request.id for each in ended if not (each.failed or each.proven)]),
            tuple([each.request.id for each in ended if each.request.slack]),
            len(self._slack),
        )
        try:
            self._connection.client.post(self._subject, b"", msgspec.json.encode(finished))
        except NatsError as error:
            log.warning("could not publish to %s: %r", self._subject, error)
