"""Sends the pieces that an engine makes in one turn: those for one gateway together."""

import logging

from nats.errors import Error as NatsError

from nebula.events import bundles, piece_envelope, subjects
from nebula.events.inference import Piece, Request
from nebula.store.connection import Connection

log = logging.getLogger(__name__)

MOST = 16
"""Pieces of a bundle: as many are not kept for the turn's end, so that their gateway begins."""


class PieceSender:
    """Sends the pieces of one replica's answers, each in order."""

    def __init__(self, connection: Connection, model: str, replica: str) -> None:
        self._connection = connection
        self._model = model
        self._replica = replica
        self._bundles: dict[str, list[tuple[str, int | Piece, bytes]]] = {}
        """The pieces for each gateway that were not sent yet."""

    def send(self, request: Request, head: int | Piece, body: bytes) -> None:
        """Send a piece, now or with the others of this turn.

        `head`: what it is without its body: its number, if it stands amid a first attempt's answer.
        """
        if request.keep or not request.bundled:
            self._send_alone(request.gateway, request.id, head, body)
            return
        gateway = request.gateway
        if not bundles.fits(head, body):
            self._tell(gateway)
            self._send_alone(gateway, request.id, head, body)
            return
        bundle = self._bundles.get(gateway)
        if bundle is None:
            if not self._bundles:
                self._connection.client.before_write(self.tell)
            bundle = self._bundles[gateway] = []
        bundle.append((request.id, head, body))
        if len(bundle) >= MOST:
            self._tell(gateway)
            self._connection.client.pass_on()

    def tell(self) -> None:
        """Send all pieces that wait for the turn's end."""
        for gateway in tuple(self._bundles):
            self._tell(gateway)

    def _tell(self, gateway: str) -> None:
        bundle = self._bundles.pop(gateway, ())
        if len(bundle) > 1:
            header, bodies = bundles.written(bundle)
            if len(header) + len(bodies) <= self._connection.max_body:
                self._post(subjects.bundles(gateway, self._model, self._replica), header, bodies)
                return
        for request, head, body in bundle:
            self._send_alone(gateway, request, head, body)

    def _send_alone(self, gateway: str, request: str, head: int | Piece, body: bytes) -> None:
        subject = subjects.responses(gateway, request)
        self._post(subject, piece_envelope.head_block(head), body)

    def _post(self, subject: str, header: bytes, body: bytes) -> None:
        try:
            self._connection.client.post(subject, header, body)
        except NatsError as error:
            log.warning("could not publish to %s: %r", subject, error)
