"""What a gateway sends: requests, each to a router that lives, and the end of what nobody wants."""

import asyncio
import logging

from nats.errors import Error as NatsError

from nebula.actors.gateway import addressing
from nebula.actors.gateway.exchange import Exchange
from nebula.actors.gateway.heartbeats import Heartbeats
from nebula.events import envelope, subjects
from nebula.events.inference import ALL_ATTEMPTS, Request
from nebula.store.connection import Connection

log = logging.getLogger(__name__)


class Sending:
    """What the gateway `identity` sends, to routers of which it knows by `heartbeats`."""

    def __init__(self, connection: Connection, identity: str, heartbeats: Heartbeats) -> None:
        self._connection = connection
        self._gateway = identity
        self._heartbeats = heartbeats

    def send(self, exchange: Exchange) -> None:
        """Send an attempt to a router that lives; to any, where none is known. Raises NatsError."""
        request = exchange.request
        header = envelope.request_block(request)
        router = addressing.choose(self._heartbeats.routers(), exchange.sent_at, exchange.tried)
        if router is None:
            exchange.router = ""
            self._connection.client.post(subjects.requests(request.model), header, request.body)
            return
        subject = subjects.router_requests(request.model, router.name)
        self._connection.client.post(subject, header, request.body)
        self._heartbeats.took_turn(router)
        router.untaken += 1
        exchange.router, exchange.untaken = router.name, True

    def settle(self, exchange: Exchange) -> None:
        """Count an attempt no longer among those that its router has and nobody has taken."""
        exchange.untaken = False
        router = self._heartbeats.router(exchange.router)
        if router is not None:
            router.untaken = max(0, router.untaken - 1)  # one that was forgotten began anew

    def doubt(self, exchange: Exchange) -> None:
        """Take note that the router which has an attempt did not have it taken in time."""
        router = self._heartbeats.router(exchange.answer.queued or exchange.router)
        if router is not None:
            exchange.tried = (*exchange.tried, router.name)
            router.doubted = exchange.sent_at

    def copy(self, request: Request) -> None:
        """Send a request of which no answer is awaited. Raises NatsError."""
        now = asyncio.get_running_loop().time()
        router = addressing.choose(self._heartbeats.routers(), now)
        subject = subjects.requests(request.model)
        if router is not None:
            self._heartbeats.took_turn(router)
            subject = subjects.router_requests(request.model, router.name)
        self._connection.client.post(subject, envelope.request_block(request), request.body)

    def drop(self, request: Request, below: int, reason: bytes = b"") -> None:
        """Have every router and engine end a request's attempts with numbers under `below`.

        Beside the pieces of an answer that can be resumed the same is noted for whoever does so: it
        has no header block, which no piece lacks.
        """
        body = reason if below == ALL_ATTEMPTS else b"%d" % below
        try:
            self._connection.client.post(subjects.cancel(request.model, request.id), b"", body)
            if request.keep:
                told = subjects.responses(self._gateway, request.id)
                self._connection.client.post(told, b"", body)
        except NatsError as error:
            log.warning("could not cancel %s: %r", request.id, error)

    def over(self, request: Request, failure: str, body: bytes) -> None:
        """End a request everywhere; who resumes its answer ends it with the same words or bytes."""
        self.drop(request, ALL_ATTEMPTS, b"%b: %b" % (failure.encode(), body))
