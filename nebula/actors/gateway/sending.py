"""What a gateway sends: requests, each to a router that lives, and the end of unwanted ones."""

import asyncio
import logging

from msgspec.structs import replace
from nats.errors import Error as NatsError

from nebula.actors.gateway.heartbeats import Heartbeats
from nebula.actors.gateway.large_bodies import LargeBodies
from nebula.events import envelope, subjects
from nebula.events.inference import ALL_ATTEMPTS, Request
from nebula.store.connection import Connection

log = logging.getLogger(__name__)


class Sending:
    """What the gateway `identity` sends, to routers of which it knows by `heartbeats`."""

    def __init__(
        self,
        connection: Connection,
        identity: str,
        heartbeats: Heartbeats,
        large: LargeBodies,
    ) -> None:
        self._connection = connection
        self._large = large
        self._gateway = identity
        self._heartbeats = heartbeats

    def send(self, request: Request, router: str) -> None:
        """Send an attempt to a router; to any, where it is "". Raises NatsError."""
        subject = (
            subjects.router_requests(request.model, router)
            if router
            else subjects.requests(request.model)
        )
        if not self._large.fits(request.body):
            self._large.hold(request)
            request = replace(request, body=b"", size=len(request.body))
        self._connection.client.post(subject, envelope.request_block(request), request.body)

    def copy(self, request: Request) -> None:
        """Send a request of which no answer is awaited. Raises NatsError.

        One whose body does not fit into a message is not sent: nothing would hold it.
        """
        if not self._large.fits(request.body):
            return
        router = self._heartbeats.assign(asyncio.get_running_loop().time())
        self._heartbeats.settle(router)
        self.send(request, router)

    def drop(self, request: Request, below: int, reason: bytes = b"") -> None:
        """Have every router and engine end a request's attempts with numbers under `below`.

        For a gateway that resumes the answer the same is noted beside its pieces: the note has no
        header block, which no piece lacks.
        """
        body = reason if below == ALL_ATTEMPTS else b"%d" % below
        try:
            self._connection.client.post(subjects.cancel(request.model, request.id), b"", body)
            if request.keep:
                told = subjects.responses(self._gateway, request.id)
                self._connection.client.post(told, b"", body)
        except NatsError as error:
            log.warning("could not cancel %s: %r", request.id, error)
