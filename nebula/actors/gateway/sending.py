"""Sends requests, each to a living router, and ends unwanted ones."""

import asyncio
import logging

from msgspec.structs import replace
from nats.errors import Error as NatsError

from nebula.actors.gateway.heartbeats import Heartbeats
from nebula.actors.gateway.large_bodies import LargeBodies
from nebula.actors.gateway.leasing import Direct
from nebula.events import envelope, pushed_bodies, subjects
from nebula.events.inference import ALL_ATTEMPTS, Request
from nebula.events.log_fields import request_fields
from nebula.store.connection import Connection

log = logging.getLogger(__name__)


class Sending:
    """Sends the messages of the gateway `identity`; `heartbeats` tells which routers live."""

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

    def send(self, request: Request, router: str, direct: Direct | None = None) -> None:
        """Send an attempt: `direct`ly, else to a router, "" for any. Raise NatsError."""
        body: bytes | None = None
        if not self._large.carried(request):
            self._large.hold(request)
            if direct is not None and self._large.fits(request.body):
                body = request.body
            pushed = body is not None
            request = replace(request, body=b"", size=len(request.body), pushed=pushed)
        header = envelope.request_block(request)
        if direct is not None:
            subject = subjects.replica_requests(request.model, direct.replica)
            header = envelope.routed_block(header, direct.plan, direct.routed, direct.version)
        elif router:
            subject = subjects.router_requests(request.model, router)
        else:
            subject = subjects.requests(request.model)
        self._connection.client.post(subject, header, request.body)
        if direct is not None and body is not None:
            subject = subjects.pushed_bodies(request.model, direct.replica)
            self._connection.client.post(subject, pushed_bodies.header_of(request.id), body)

    def post(self, subject: str, header: bytes, body: bytes) -> None:
        """Publish a message that may get lost."""
        try:
            self._connection.client.post(subject, header, body)
        except NatsError as error:
            log.warning("could not publish to %s: %r", subject, error)

    def copy(self, request: Request) -> None:
        """Send a request whose answer is not read. Raise NatsError.

        A request whose body does not fit into a message is not sent: nothing would hold the body.
        """
        if not self._large.fits(request.body):
            return
        router = self._heartbeats.assign(asyncio.get_running_loop().time())
        self._heartbeats.settle(router)
        self.send(request, router)

    def drop(self, request: Request, below: int, reason: bytes = b"") -> None:
        """Have every router and engine end the attempts of a request with numbers below `below`.

        A note beside the answer's pieces tells the same to a gateway that resumes the answer;
        unlike pieces, a note has no header block.
        """
        body = reason if below == ALL_ATTEMPTS else b"%d" % below
        try:
            self._connection.client.post(subjects.cancel(request.model, request.id), b"", body)
            if request.keep:
                told = subjects.responses(self._gateway, request.id)
                self._connection.client.post(told, b"", body)
        except NatsError as error:
            log.warning("could not cancel %s: %r", request.id, error, extra=request_fields(request))
