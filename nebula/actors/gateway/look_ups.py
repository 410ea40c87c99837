"""Looks in the data plane's stream for pieces of answers that a gateway has missed."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from nebula.actors.gateway.in_flight import InFlightRequest
from nebula.events import subjects
from nebula.events.log_fields import request_fields
from nebula.store import inference_log, request_log
from nebula.store.connection import Connection, Unavailable
from nebula.store.inference_log import StoredMessage

log = logging.getLogger(__name__)


class _Reading:
    """One reading of bundles for all requests that wait for it. `since`: from when they are needed.

    `requests`: how many pieces each has; `found`: its further pieces, once they have been read.
    """

    def __init__(self) -> None:
        self.requests: dict[str, int] = {}
        self.since = float("inf")
        self.found: Mapping[str, Sequence[StoredMessage]] | None = None


class LookUps:
    """The look-ups of the gateway `identity`. `now`: returns the time in seconds.

    A lost connection makes all its requests look for their pieces at the same time; the bundles,
    which have pieces of all of them, are read once.
    """

    def __init__(self, connection: Connection, identity: str, now: Callable[[], float]) -> None:
        self._connection = connection
        self._gateway = identity
        self._now = now
        self._next = _Reading()
        self._reading = asyncio.Lock()

    async def find(self, flight: InFlightRequest, seconds: float) -> list[StoredMessage]:
        """Return the messages of an answer that are found within `seconds`, in order."""
        found: list[StoredMessage] = []
        own = [subjects.responses(self._gateway, flight.id)]
        try:
            async with asyncio.timeout(seconds):
                async for said in inference_log.read(self._connection, own):
                    found.append(said)
                if flight.request.bundled:
                    found += await self._bundled(flight)
        except (Unavailable, TimeoutError) as error:
            about = request_fields(flight.request)
            log.warning("pieces of %s could not be looked up: %r", flight.id, error, extra=about)
        return sorted(found, key=lambda said: said.seq)

    async def _bundled(self, flight: InFlightRequest) -> Sequence[StoredMessage]:
        """Return a request's further pieces in bundles. Raise Unavailable."""
        reading = self._next
        reading.requests[flight.id] = flight.answer.pieces
        reading.since = min(reading.since, flight.heard_at)
        async with self._reading:
            if reading.found is None:
                if self._next is reading:
                    self._next = _Reading()  # what is asked for from here on might be behind it
                ago = self._now() - reading.since
                reading.found = await request_log.missed(
                    self._connection, self._gateway, reading.requests, ago
                )
        return reading.found.get(flight.id, ())
