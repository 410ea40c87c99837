"""Answers gateways that ask for an actor's metrics over NATS, for scrapers that can't reach it."""

import logging
from collections.abc import Awaitable, Callable

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from nebula.actors.attribution import is_inbox
from nebula.actors.figures import Figures
from nebula.events.metrics_messages import EngineMetrics, MetricsAsked, MetricsTold
from nebula.events.reading import decoded
from nebula.metrics.merging import pack
from nebula.store.connection import Connection

log = logging.getLogger(__name__)

AT_ONCE = 4
"""Questions that are answered at a time; further ones get no answer."""

_ROOM = 4 * 1024
"""Bytes of a reply beside the texts of engines."""


class MetricsTeller:
    """Answers on one subject. `engines`: returns the texts of the actor's engines, by replica."""

    def __init__(
        self,
        connection: Connection,
        figures: Figures,
        engines: Callable[[], Awaitable[dict[str, bytes]]] | None = None,
    ) -> None:
        self._connection = connection
        self._figures = figures
        self._engines = engines
        self._answering = 0

    async def listen(self, subject: str) -> None:
        """Answer on a subject from now on."""
        await self._connection.client.subscribe(subject, cb=self._on_question)

    async def _on_question(self, message: Msg) -> None:
        asked = decoded(message.data, MetricsAsked)
        if asked is None or not is_inbox(message.reply) or self._answering >= AT_ONCE:
            return
        self._figures.actor.spawn(self._answer(asked, message.reply), "tell metrics")

    async def _answer(self, asked: MetricsAsked, reply: str) -> None:
        self._answering += 1
        try:
            told = msgspec.json.encode(await self._told(asked))
            self._connection.client.post(reply, b"", told)
        except NatsError as error:
            log.warning("metrics could not be told: %r", error)
        finally:
            self._answering -= 1

    async def _told(self, asked: MetricsAsked) -> MetricsTold:
        address = self._figures.address
        if asked.wanted == "own":
            return MetricsTold(address, pack((await self._figures.scrape()).body))
        if asked.wanted == "engines" and self._engines is not None:
            return MetricsTold(address, engines=self._fitting(await self._engines()))
        return MetricsTold(address)

    def _fitting(self, texts: dict[str, bytes]) -> tuple[EngineMetrics, ...]:
        """Return as many texts as one message takes."""
        found, room = [], self._connection.max_body - _ROOM
        for replica, text in sorted(texts.items()):
            packed = pack(text)
            room -= len(packed) * 4 // 3 + len(replica) + 64
            if room < 0:
                log.warning("the metrics of %d engines do not fit a message", len(texts))
                break
            found.append(EngineMetrics(replica, packed))
        return tuple(found)
