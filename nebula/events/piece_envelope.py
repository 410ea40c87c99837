"""The headers of the pieces of answers on NATS, written and read. Pure."""

import functools
from collections.abc import Mapping

from msgspec.structs import replace

from nebula.events import carried_fields, envelope
from nebula.events.inference import Piece
from nebula.events.reading import UNREADABLE, number
from nebula.events.record import parse_headers


def block_of(piece: Piece) -> bytes:
    """Return the header block of a message of an answer; the message is given without its body.

    Most answers have the same blocks, which are cached.
    """
    if piece.fields and sum(len(value) for _, value in piece.fields) > envelope.COMMON_SIZE:
        return envelope.block(headers_of(piece))
    return _cached_block(piece)


@functools.lru_cache(maxsize=1024)
def _cached_block(piece: Piece) -> bytes:
    return envelope.block(headers_of(piece))


def headers_of(piece: Piece) -> dict[str, str]:
    """Return the headers of one message of an answer."""
    headers = {envelope.CHUNK: str(piece.chunk)}
    if piece.attempt != 1:
        headers[envelope.ATTEMPT] = str(piece.attempt)
    if piece.status:
        headers[envelope.STATUS] = str(piece.status)
        headers[envelope.CONTENT_TYPE] = piece.content_type
    if piece.replica:
        headers[envelope.REPLICA] = piece.replica
    if piece.queued:
        headers[envelope.QUEUED] = piece.queued
    if piece.end:
        headers[envelope.END] = "1"
    if piece.failure:
        headers[envelope.FAILURE] = piece.failure
    if piece.retry_after is not None:
        headers[envelope.RETRY_AFTER] = str(piece.retry_after)
    if piece.continues:
        headers[envelope.CONTINUES] = piece.continues
    if piece.version:
        headers[envelope.VERSION] = piece.version
    if piece.fields:
        headers[envelope.FIELDS] = carried_fields.written(piece.fields)
    return headers


def read(headers: Mapping[str, str] | None, body: bytes) -> Piece | None:
    """Read one message of an answer; None for anything else."""
    if not headers:
        return None
    try:
        return Piece(
            int(headers[envelope.CHUNK]),
            body,
            status=int(headers.get(envelope.STATUS, "0")),
            content_type=headers.get(envelope.CONTENT_TYPE, ""),
            replica=headers.get(envelope.REPLICA, ""),
            end=envelope.END in headers,
            failure=headers.get(envelope.FAILURE, ""),
            attempt=int(headers.get(envelope.ATTEMPT, "1")),
            queued=headers.get(envelope.QUEUED, ""),
            retry_after=int(headers[envelope.RETRY_AFTER])
            if envelope.RETRY_AFTER in headers
            else None,
            continues=headers.get(envelope.CONTINUES, ""),
            version=headers.get(envelope.VERSION, ""),
            fields=carried_fields.read(headers.get(envelope.FIELDS, "")),
        )
    except (KeyError, *UNREADABLE):
        return None


@functools.lru_cache(maxsize=1024)
def _head(header: bytes) -> Piece | None:
    return read(parse_headers(header), b"")


def read_head(header: bytes) -> int | Piece | None:
    """Read what the header block of a message of an answer tells; equal blocks are read once.

    A piece amid a first attempt's answer is told by its number alone. None for anything else.
    """
    chunk = read_plain(header)
    if chunk is not None:
        return chunk
    return read(parse_headers(header), b"") if len(header) > envelope.COMMON_SIZE else _head(header)


def read_answer(header: bytes, body: bytes) -> Piece | None:
    """Read one message of an answer, as `read_head` does."""
    head = read_head(header)
    return None if head is None else with_body(head, body)


_PLAIN = f"NATS/1.0\r\n{envelope.CHUNK}: ".encode()


def plain_block(chunk: int) -> bytes:
    """Return the most common header block: of a piece amid a first attempt's answer."""
    return b"%b%d\r\n\r\n" % (_PLAIN, chunk)


def read_plain(header: bytes) -> int | None:
    """Return the number of a piece whose header block holds nothing else; None for any other."""
    return number(header[len(_PLAIN) : -4]) if header.startswith(_PLAIN) else None


def head_block(head: int | Piece) -> bytes:
    """Return the header block for what `read_head` reads."""
    return plain_block(head) if isinstance(head, int) else block_of(head)


def with_body(head: int | Piece, body: bytes) -> Piece:
    """Return the piece of which `read_head` has read all but its body."""
    return Piece(head, body) if isinstance(head, int) else replace(head, body=body)
