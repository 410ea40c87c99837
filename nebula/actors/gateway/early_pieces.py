"""Pieces of an answer that came before earlier ones, and wait until those are found. Pure."""

from nebula.events.inference import Piece

MOST = 4096
"""Number of pieces that are kept."""

MOST_BYTES = 16 * 1024 * 1024
"""Bytes of such pieces: two of the largest messages that NATS carries."""


class EarlyPieces(dict[int, Piece]):
    """The pieces by their numbers. `size`: their bytes."""

    size = 0

    def keep(self, piece: Piece) -> bool:
        """Keep a piece while earlier ones are looked for; return False if there are too many."""
        known = self.get(piece.chunk)
        self.size += len(piece.body) - (len(known.body) if known is not None else 0)
        self[piece.chunk] = piece
        return len(self) <= MOST and self.size <= MOST_BYTES

    def take(self, chunk: int) -> Piece | None:
        """Remove and return the piece with this number; None if there is none."""
        piece = self.pop(chunk, None)
        if piece is not None:
            self.size -= len(piece.body)
        return piece

    def drop(self) -> None:
        """Drop all of them."""
        self.clear()
        self.size = 0
