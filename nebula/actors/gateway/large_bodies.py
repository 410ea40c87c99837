"""Bodies that are not in a request's message: the engine that gets it fetches its body in parts.

Only the engine needs the body, so routers do not carry it, and it is sent again only if another
engine gets the request. Each part is asked for, which is the back-pressure. Under a lease `sending`
sends the body right behind its request, and only what got lost is asked for. See ADR 52 and 82.
"""

import logging
from collections.abc import Callable
from functools import partial

from nats.errors import Error as NatsError

from nebula.actors.attribution import is_inbox
from nebula.actors.gateway.uplinks import Uplink
from nebula.events import envelope, subjects
from nebula.events.inference import BodyWanted, Request
from nebula.events.reading import decoded
from nebula.store.connection import Connection

log = logging.getLogger(__name__)


CARRIED = 16 * 1024
"""Bytes of a body that a request's message carries: more would pass NATS twice, and a router."""

_NO_BODY = envelope.block({envelope.FAILURE: "unknown"})
"""The header block of an answer to an engine whose attempt is not wanted any more."""

_SMALL = 4 * 1024
"""Bytes that fit into one message of any server, so that most requests need not ask."""


class LargeBodies:
    """The bodies that engines may fetch from the gateway `identity`, by request.

    `gives`: whether a request's body may go to an inbox. `uplinks`: those of sessions, which have
    no end.
    """

    def __init__(
        self, connection: Connection, identity: str, gives: Callable[[str, str], bool]
    ) -> None:
        self._connection = connection
        self._gateway = identity
        self._gives = gives
        self._held: dict[str, Request] = {}
        self.uplinks: dict[str, Uplink] = {}

    async def listen(self) -> None:
        """Answer engines that ask for parts."""
        client = self._connection.client
        await client.listen_for_questions(subjects.bodies(self._gateway), self._on_wanted)

    @property
    def room(self) -> int:
        """Bytes of a body that one message takes."""
        return self._connection.max_body - envelope.HEADER_ROOM

    def fits(self, body: bytes) -> bool:
        """Return whether a body can travel within the request's own message."""
        return len(body) <= _SMALL or len(body) <= self.room

    def carried(self, request: Request) -> bool:
        """Return whether a request's message carries its body.

        What outlives this gateway has to, and so have copies, which no gateway keeps.
        """
        if len(request.body) > CARRIED and not request.keep and request.gateway == self._gateway:
            return False
        return self.fits(request.body)

    def hold(self, request: Request) -> None:
        """Let engines fetch the body of a request's attempt, in place of earlier ones."""
        self._held[request.id] = request

    def forget(self, identity: str) -> None:
        """Let go of a request's body."""
        self._held.pop(identity, None)

    def _on_wanted(self, reply: bytes, _: bytes, question: bytes) -> None:
        wanted, inbox = decoded(question, BodyWanted), reply.decode("utf-8", "replace")
        if wanted is None or not is_inbox(inbox):
            return
        given = self._gives(wanted.request, inbox)
        most = min(max(wanted.size, 1), self.room)
        uplink = self.uplinks.get(wanted.request)
        if uplink is not None and given:
            uplink.asked(wanted.offset, most, partial(self._reply, wanted, inbox, b""))
            return
        request = self._held.get(wanted.request)
        header, part = _NO_BODY, b""
        if given and request is not None and request.attempt == wanted.attempt:
            header, part = b"", request.body[wanted.offset : wanted.offset + most]
        self._reply(wanted, inbox, header, part)

    def _reply(self, wanted: BodyWanted, subject: str, header: bytes, part: bytes) -> None:
        try:
            self._connection.client.post(subject, header, part)
        except NatsError as error:
            log.warning("a part of the body of %s could not be sent: %r", wanted.request, error)
