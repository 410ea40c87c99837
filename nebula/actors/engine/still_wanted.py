"""Asks gateways which of an engine's requests they still want, and drops the others."""

import logging
from collections.abc import Callable, Mapping
from itertools import count

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from nebula.actors.engine.exchange import EngineExchange
from nebula.events import subjects
from nebula.events.inference import StillWanted, UnderWay, Unwanted
from nebula.events.reading import decoded
from nebula.store.connection import Connection

log = logging.getLogger(__name__)


class StillWantedAsker:
    """Asks about the `active` requests of a replica.

    `drop` ends the attempts of a request with numbers below another.
    """

    def __init__(
        self,
        connection: Connection,
        replica: str,
        active: Mapping[str, EngineExchange],
        drop: Callable[[str, float], None],
    ) -> None:
        self._connection = connection
        self._replica = replica
        self._active = active
        self._drop = drop
        self._inbox = ""
        self._questions = count()

    async def listen(self) -> None:
        """Listen for answers. Raise nats-py's errors."""
        client = self._connection.client
        self._inbox = client.new_inbox()
        await client.subscribe(f"{self._inbox}.*.*", cb=self._on_unwanted)

    async def ask(self) -> None:
        """Ask every gateway about its requests."""
        asked: dict[str, dict[str, UnderWay]] = {}
        for identity, exchange in self._active.items():
            under_way = UnderWay(exchange.request.attempt, exchange.chunks)
            asked.setdefault(exchange.request.gateway, {})[identity] = under_way
        for gateway, requests in asked.items():
            asking = StillWanted(self._replica, requests)
            try:
                await self._connection.client.publish(
                    subjects.waiting(gateway),
                    msgspec.json.encode(asking),
                    # NATS lets one answer through for each reply subject.
                    reply=f"{self._inbox}.{gateway}.{next(self._questions)}",
                )
            except NatsError as error:
                log.warning("could not ask %s: %r", gateway, error)

    async def _on_unwanted(self, message: Msg) -> None:
        """Drop the requests that a gateway no longer wants, or all of a gateway that is gone."""
        gateway = message.subject.split(".")[-2]
        told = decoded(message.data, Unwanted)
        if told is not None:
            unwanted = told.requests
        elif message.data:
            return
        else:
            unwanted = {
                identity: exchange.request.attempt + 1
                for identity, exchange in self._active.items()
                if exchange.request.gateway == gateway and not exchange.request.keep
            }
        for identity, below in unwanted.items():
            self._drop(identity, below)
