"""One entry of the log as it is read back: the event, where it stands, and what caused it.

Reading never fails: what can't be understood is an entry too, holding `Malformed` and the reason.
"""

from typing import TypeAlias

import msgspec
from msgspec import Struct

from nebula.events import subjects
from nebula.events.vocabulary import AGGREGATE_OF, AGGREGATES, TYPES, Event

CAUSE_HEADER = "Nebula-Cause"
ACTOR_HEADER = "Nebula-Actor"
BASIS_HEADER = "Nebula-Basis"


class Malformed(Struct, frozen=True):
    """An entry that is no event, and why."""

    reason: str


Content: TypeAlias = Event | Malformed


class Record(Struct, frozen=True):
    """An entry of the log.

    `seq`: its place, from 1. `time`: when the server stored it, nanoseconds since the epoch.
    `cause`: sequence of the event that led to it, None for what came from outside.
    `basis`: for a decision, the sequence up to which its maker had folded the log.
    """

    seq: int
    time: int
    subject: str
    aggregate: str
    id: str
    content: Content
    cause: int | None = None
    basis: int | None = None
    actor: str = ""

    @property
    def type(self) -> str:
        """The event's type as the subject names it."""
        return self.subject.rpartition(".")[2]


_encoder = msgspec.json.Encoder()
_decoders = {name: msgspec.json.Decoder(kind) for name, kind in TYPES.items()}


def encode(event: Event) -> bytes:
    """Give an event's payload: plain JSON of its own fields."""
    return _encoder.encode(event)


def subject_of(identity: str, event: Event) -> str:
    """Give the subject an event belongs on. Raises ValueError for an unsafe id."""
    name = type(event).__name__
    return subjects.event(AGGREGATE_OF[name], identity, name)


def decode(subject: str, payload: bytes) -> tuple[str, str, Content]:
    """Read a stored message as (aggregate, id, event or Malformed). Never raises."""
    tokens = subject.split(".")
    if len(tokens) != 5:
        return "", "", Malformed("the subject is not nebula.events.<aggregate>.<id>.<EventType>")
    _, _, aggregate, identity, name = tokens
    if aggregate not in AGGREGATES:
        return "", "", Malformed(f"{aggregate!r} is none of {', '.join(AGGREGATES)}")
    if not subjects.is_token(identity):
        return "", "", Malformed(f"{identity!r} is no id: use letters, digits, '_' and '-' only")
    if name not in TYPES:
        return aggregate, identity, Malformed(f"{name!r} is no event type of Nebula")
    if AGGREGATE_OF[name] != aggregate:
        return (
            aggregate,
            identity,
            Malformed(f"{name} is an event of a {AGGREGATE_OF[name]}, not of a {aggregate}"),
        )
    try:
        return aggregate, identity, _decoders[name].decode(payload or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return aggregate, identity, Malformed(f"{name}: {error}")


def read(
    seq: int, time: int, subject: str, payload: bytes, headers: dict[str, str] | None = None
) -> Record:
    """Read one stored message. Never raises: headers that make no sense are left out."""
    aggregate, identity, content = decode(subject, payload)
    if not headers:
        return Record(seq, time, subject, aggregate, identity, content)
    return Record(
        seq,
        time,
        subject,
        aggregate,
        identity,
        content,
        cause=_sequence(headers.get(CAUSE_HEADER)),
        basis=_sequence(headers.get(BASIS_HEADER)),
        actor=headers.get(ACTOR_HEADER, ""),
    )


def _sequence(text: str | None) -> int | None:
    if text is None or len(text) > 19 or not (text.isascii() and text.isdigit()):
        return None  # 19 digits hold any sequence; int() raises for thousands of them
    return int(text)
