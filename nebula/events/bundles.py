"""Bundles: messages with pieces of several answers, which an engine made in one turn. Pure.

A line of the header block tells of each piece whose it is, its bytes, and its number or, in JSON,
all its headers: what the piece's own message would have. The body is the pieces' bodies, in order.
"""

import functools
from collections.abc import Iterator, Sequence

import msgspec

from nebula.events import piece_envelope
from nebula.events.envelope import COMMON_SIZE
from nebula.events.inference import Piece
from nebula.events.reading import UNREADABLE, number

PIECE = "Nebula-Piece"

FITS = 2 * 1024
"""Bytes of a piece that may be in a bundle: copying a larger one costs more than its message."""

_LONGEST_TYPE = 256
"""Characters of a media type in a bundle, as JetStream keeps 64 KiB of headers."""

_LINE = f"{PIECE}: ".encode()
_FIELDS = 3


def fits(head: int | Piece, body: bytes) -> bool:
    """Return whether a piece may be in a bundle; `head`: what it is without its body."""
    if len(body) > FITS:
        return False
    return isinstance(head, int) or (not head.fields and len(head.content_type) <= _LONGEST_TYPE)


def written(bundle: Sequence[tuple[str, int | Piece, bytes]]) -> tuple[bytes, bytes]:
    """Return the header block and the body of a bundle of pieces, each with its request.

    Of a piece it gets what `read` yields: its request's id, its head, and its body.
    """
    lines = [
        f"{PIECE}: {request} {len(body)} {head if isinstance(head, int) else _told(head)}\r\n"
        for request, head, body in bundle
    ]
    header = f"NATS/1.0\r\n{''.join(lines)}\r\n".encode()
    return header, b"".join([body for _, _, body in bundle])


@functools.lru_cache(maxsize=1024)
def _told(piece: Piece) -> str:
    return msgspec.json.encode(piece_envelope.headers_of(piece)).decode()


def pieces(header: bytes) -> Iterator[tuple[str, int | Piece, int]]:
    """Yield what a bundle's header block tells: each piece's request, head, and bytes of its body.

    A head is what a piece is without its body: its number alone, if it stands amid an answer's
    first attempt. What is not valid ends the bundle.
    """
    for each in header.split(b"\r\n"):
        if not each.startswith(_LINE):
            continue
        fields = each[len(_LINE) :].split(b" ", _FIELDS - 1)
        size = number(fields[1]) if len(fields) == _FIELDS else None
        if size is None:
            return
        head: int | Piece | None = number(fields[2])
        if head is None:
            head = _piece(fields[2]) if len(fields[2]) <= COMMON_SIZE else _parsed(fields[2])
        if head is None:
            return
        yield fields[0].decode("ascii", "replace"), head, size


def read(header: bytes, body: bytes) -> Iterator[tuple[str, int | Piece, bytes]]:
    """Yield the pieces of a bundle: each one's request, head and body."""
    at = 0
    for request, head, size in pieces(header):
        if at + size > len(body):
            return
        yield request, head, body[at : at + size]
        at += size


@functools.lru_cache(maxsize=1024)
def _piece(head: bytes) -> Piece | None:
    return _parsed(head)


def _parsed(head: bytes) -> Piece | None:
    try:
        return piece_envelope.read(msgspec.json.decode(head, type=dict[str, str]), b"")
    except UNREADABLE:
        return None
