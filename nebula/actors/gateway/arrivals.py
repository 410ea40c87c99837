"""Reads the messages of answers that a gateway hears: single pieces, and bundles of them."""

import logging
from collections.abc import Callable

from nebula.events import bundles, piece_envelope, subjects
from nebula.events.inference import Piece
from nebula.events.reading import last_token
from nebula.store.client import FastClient

log = logging.getLogger(__name__)


class Arrivals:
    """Hands on every piece: to `take`, with its request, what it is without its body, its body."""

    def __init__(self, take: Callable[[str, int | Piece, bytes], None]) -> None:
        self._take = take

    async def listen(self, client: FastClient, gateway: str) -> None:
        """Listen for the answers to a gateway's requests. Raise nats-py's errors."""
        await client.listen(subjects.responses(gateway, "*"), self.on_piece)
        await client.listen(subjects.bundles(gateway, "*", "*"), self.on_bundle)

    def on_piece(self, subject: bytes, header: bytes, body: bytes) -> None:
        """Hand on a piece that has a message of its own."""
        head = piece_envelope.read_head(header)
        if head is not None:
            self._take(last_token(subject), head, body)

    def on_bundle(self, _: bytes, header: bytes, body: bytes) -> None:
        """Hand on the pieces of a bundle; one that can't be processed does not stop the others."""
        for request, head, part in bundles.read(header, body):
            try:
                self._take(request, head, part)
            except Exception:
                log.exception("a piece of %s could not be processed", request)
