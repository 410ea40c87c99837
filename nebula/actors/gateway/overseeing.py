"""Questions about this gateway's requests in flight, and what is told or cancelled."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

import msgspec
from msgspec import Struct
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from nebula.actors.attribution import is_inbox
from nebula.actors.gateway import in_flight_view
from nebula.actors.gateway.core import RequestsInFlight
from nebula.actors.gateway.in_flight import CancelRequested, InFlightRequest
from nebula.events import subjects
from nebula.events.reading import decoded
from nebula.events.requests_in_flight import CancelQuestion, CancelReply, InFlightQuestion
from nebula.store.connection import Connection

log = logging.getLogger(__name__)


class Overseeing:
    """Replies for the gateway `identity`.

    `core`: its requests in flight. `happens`: hands an event to one of them.
    """

    def __init__(
        self,
        connection: Connection,
        identity: str,
        core: RequestsInFlight,
        happens: Callable[[InFlightRequest, CancelRequested], None],
    ) -> None:
        self._connection = connection
        self._gateway = identity
        self._core = core
        self._happens = happens

    async def listen(self) -> None:
        """Answer whatever asks which requests are in flight, or cancels one."""
        client = self._connection.client
        await client.subscribe(subjects.IN_FLIGHT, cb=self._on_question)
        await client.subscribe(subjects.CANCEL_IN_FLIGHT, cb=self._on_cancel)

    async def _on_question(self, message: Msg) -> None:
        question = decoded(message.data, InFlightQuestion)
        if question is None or not is_inbox(message.reply):
            return
        now = asyncio.get_running_loop().time()
        flights = self._core.flights.values()
        told = in_flight_view.reply(
            self._gateway, flights, question, self._core.around.state, now, time.time()
        )
        self._reply(message, told)

    async def _on_cancel(self, message: Msg) -> None:
        question = decoded(message.data, CancelQuestion)
        if question is None or not is_inbox(message.reply):
            return
        state = self._core.around.state
        flight = in_flight_view.meant(self._core.flights.values(), question, state)
        if flight is None:
            self._reply(message, CancelReply(self._gateway))
            return
        age = asyncio.get_running_loop().time() - flight.began
        was = in_flight_view.shown(flight, state, age, time.time())
        log.info("request %s: cancelled by %s", flight.id, question.by or "an operator")
        self._happens(flight, CancelRequested(question.by))
        self._reply(message, CancelReply(self._gateway, was))

    def _reply(self, message: Msg, said: Struct) -> None:
        with contextlib.suppress(NatsError):
            self._connection.client.post(message.reply, b"", msgspec.json.encode(said))
