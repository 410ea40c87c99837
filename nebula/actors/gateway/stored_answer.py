"""The messages of an answer as the data plane's stream holds them, in their order. Pure."""

import sys
from typing import Protocol, TypeAlias

from msgspec import Struct

from nebula.events import envelope, piece_envelope
from nebula.events.failures import FINISHED, Failure, read_note
from nebula.events.inference import Piece
from nebula.events.record import parse_headers


class Message(Protocol):
    """A message of the data plane's stream."""

    @property
    def header(self) -> bytes:
        """The header block, empty if it has none."""

    @property
    def body(self) -> bytes:
        """The body."""


class AnswerEnded(Struct, frozen=True):
    """A gateway's note that an answer is over, with the piece that ends it."""

    piece: Piece


class AttemptsEnded(Struct, frozen=True):
    """A gateway's note that it has given up all attempts before `attempt`."""

    attempt: int


Stored: TypeAlias = Piece | AnswerEnded | AttemptsEnded


def read(message: Message) -> Stored | None:
    """Read one message of an answer; None if it is not valid."""
    if message.header:
        return piece_envelope.read(parse_headers(message.header), message.body)
    if message.body.isdigit():
        return AttemptsEnded(int(message.body))
    word, rest = read_note(message.body)
    failure = "" if word == FINISHED else word or Failure.NOT_TAKEN
    return AnswerEnded(Piece(0, rest, failure=failure))


def attempt_of(message: Message) -> int:
    """Return a piece's attempt; notes belong to every attempt, so theirs is the highest number."""
    if piece_envelope.read_plain(message.header) is not None:
        return 1
    stored = read(message)
    return stored.attempt if isinstance(stored, Piece) else sys.maxsize


def restarted_by(message: Message) -> int:
    """Return the attempt with which this piece begins the answer again; 1 if it does not."""
    if envelope.ATTEMPT.encode() not in message.header:
        return 1
    stored = read(message)
    begins = isinstance(stored, Piece) and stored.chunk == 0 and not stored.continues
    return stored.attempt if isinstance(stored, Piece) and begins else 1


def is_beginning(first: Message | None) -> bool:
    """Return whether the stream still has an answer's beginning, given the first message of it."""
    stored = read(first) if first is not None else None
    return isinstance(stored, Piece) and stored.chunk <= 0


def has_failed(message: Message) -> bool:
    """Return whether an answer ended in a failure with this message."""
    match read(message):
        case AnswerEnded(piece=piece):
            return bool(piece.failure)
        case Piece(failure=failure):
            return failure == Failure.REFUSED
    return False
