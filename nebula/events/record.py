"""One entry of the log as it is stored, and as it is read back: the event and what caused it.

Reading never fails: an entry that is not valid becomes a record with `Malformed` and the reason.
"""

import functools
from collections.abc import Callable, Mapping
from typing import TypeAlias

import msgspec
from msgspec import Struct, structs

from nebula.events import subjects
from nebula.events.reading import UNREADABLE
from nebula.events.upcasting import upcast, version_of
from nebula.events.utf8 import not_text
from nebula.events.vocabulary import AGGREGATE_OF, AGGREGATES, REPORTS, TYPES, Event

CAUSE_HEADER = "Nebula-Cause"
ACTOR_HEADER = "Nebula-Actor"
BY_HEADER = "Nebula-By"
BASIS_HEADER = "Nebula-Basis"
VERSION_HEADER = "Nebula-Version"
_PREAMBLE = b"NATS/1.0\r\n"


class Entry(Struct, frozen=True, gc=False):
    """A message of the log, byte for byte as JetStream stores it.

    `headers` is NATS's header block, including `NATS/1.0` and the closing empty line; empty if
    there is none. `time` is in nanoseconds since the epoch.
    """

    seq: int
    time: int
    subject: str
    headers: bytes
    body: bytes


class Malformed(Struct, frozen=True, gc=False):
    """An entry that is not a valid event, and why."""

    reason: str


Content: TypeAlias = Event | Malformed


class Record(Struct, frozen=True, gc=False):
    """A decoded entry of the log.

    `seq`: its place in the log, from 1. `time`: when the server stored it, in nanoseconds since the
    epoch. `cause`: sequence of the event that led to it, None if it came from outside. `basis`: for
    a decision, the last sequence that its maker had folded. `actor`: the process that wrote it.
    `by`: the principal that asked for it, as `key:ci`; "" if it is the actor itself. `node`: the
    node whose report it is, by its subject; empty for other events, and for reports from before
    cluster version 5.
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
    by: str = ""
    node: str = ""

    @property
    def type(self) -> str:
        """The event's type as the subject names it."""
        if type(self.content) is not Malformed:
            return type(self.content).__name__
        subject = self.subject.removesuffix(f".{self.node}") if self.node else self.subject
        return subject.rpartition(".")[2]


class _Kind(Struct, frozen=True):
    """How to read the events of one type.

    `today`: its newest version, as headers have it. `tells_node`: its body has a field for the node
    that reports it.
    """

    name: str
    aggregate: str
    today: str
    decode: Callable[[bytes | msgspec.Raw], Event]
    reported: bool
    tells_node: bool


_encoder = msgspec.json.Encoder()
_KINDS = {
    name: _Kind(
        name,
        AGGREGATE_OF[name],
        str(version_of(name)),
        msgspec.json.Decoder(kind).decode,
        name in REPORTS,
        "node" in kind.__struct_fields__,
    )
    for name, kind in TYPES.items()
}


def encode(event: Event) -> bytes:
    """Return an event's payload: plain JSON of its own fields."""
    return _encoder.encode(event)


def subject_of(identity: str, event: Event, node: str = "") -> str:
    """Return the subject of an event, reported by a `node` if any; raise ValueError for bad ids."""
    name = type(event).__name__
    return subjects.event(AGGREGATE_OF[name], identity, name, node)


def supposed(seq: int, time: int, identity: str, event: Event, node: str = "") -> Record:
    """Return the record of an event that is not in the log, reported by a `node` if any."""
    subject, aggregate = subject_of(identity, event, node), AGGREGATE_OF[type(event).__name__]
    return Record(seq, time, subject, aggregate, identity, event, node=node)


def headers_for(event: Event) -> dict[str, str]:
    """Return the headers that are needed to read an event; most need none."""
    version = version_of(type(event).__name__)
    return {VERSION_HEADER: str(version)} if version > 1 else {}


def decode(subject: str, payload: bytes, version: str = "1") -> tuple[str, str, Content]:
    """Read a stored message as (aggregate, id, event or Malformed). Never raises."""
    aggregate, identity, node, kind = _address(subject)
    return aggregate, identity, _content(kind, node, payload, version)


@functools.lru_cache(maxsize=16_384)
def _address(subject: str) -> tuple[str, str, str, _Kind | Malformed]:
    """Read a subject as (aggregate, id, reporting node, kind of event or what is wrong with it)."""
    tokens = subject.split(".")
    kind = _KINDS.get(tokens[4]) if len(tokens) > 4 else None
    named = len(tokens) == 6 and kind is not None and kind.reported
    if not (named or len(tokens) == 5) or tokens[0] != "nebula" or tokens[1] != "events":
        return (
            "",
            "",
            "",
            Malformed("the subject is not nebula.events.<aggregate>.<id>.<EventType>"),
        )
    aggregate, identity, name = tokens[2:5]
    if aggregate not in AGGREGATES:
        return "", "", "", Malformed(f"{aggregate!r} is none of {', '.join(AGGREGATES)}")
    if not subjects.is_token(identity):
        return "", "", "", Malformed(f"{identity!r} is no id: use {subjects.ID_FORM}")
    if kind is None:
        return aggregate, identity, "", Malformed(f"{name!r} is no event type of Nebula")
    if kind.aggregate != aggregate:
        problem = f"{name} is an event of a {kind.aggregate}, not of a {aggregate}"
        return aggregate, identity, "", Malformed(problem)
    node = tokens[5] if named else ""
    if named and not subjects.is_token(node):
        problem = f"{node!r} is not a node's name: use {subjects.ID_FORM}"
        return aggregate, identity, "", Malformed(problem)
    return aggregate, identity, node, kind


def _content(
    kind: _Kind | Malformed, node: str, payload: bytes | msgspec.Raw, version: str
) -> Content:
    """Read a body as the event that its subject names, reported by a `node` if any."""
    if isinstance(kind, Malformed):
        return kind
    try:
        if version != kind.today:
            return _of_version(kind, node, payload or b"{}", version)
        return _reported(kind, kind.decode(payload or b"{}"), node)
    except UNREADABLE as error:
        reason = not_text(bytes(payload))
        return Malformed(f"{kind.name}: not UTF-8: {reason}" if reason else f"{kind.name}: {error}")


def _of_version(kind: _Kind, node: str, payload: bytes | msgspec.Raw, version: str) -> Content:
    """Read a body of an older version. Raise what is UNREADABLE."""
    name, today, number = kind.name, int(kind.today), 1 if version == "1" else _sequence(version)
    if not number:
        return Malformed(f"{VERSION_HEADER}: {version!r} is no version of an event")
    if number > today:
        return Malformed(
            f"{name} of version {number} is newer than this Nebula, which reads up to {today}"
        )
    if number == today:
        return _reported(kind, kind.decode(payload), node)
    old = msgspec.json.decode(payload, type=dict[str, object])
    return _reported(kind, msgspec.convert(upcast(name, number, old), TYPES[name]), node)


def _reported(kind: _Kind, event: Event, node: str) -> Content:
    """Return an event as the word of the node in its subject, which its body may not contradict."""
    if not node or not kind.tells_node:
        return event
    said = event.node  # type: ignore[union-attr]  # which types have it, the kind tells
    if said == node:
        return event
    if said:
        return Malformed(
            f"{kind.name}: its body is of node {said[:128]!r}, its subject of {node!r}"
        )
    structs.force_setattr(event, "node", node)  # nothing else has it yet
    return event


def parse_headers(block: bytes) -> dict[str, str]:
    """Read a NATS header block; the first of repeated headers counts. Never raises."""
    headers: dict[str, str] = {}
    for line in block.removeprefix(_PREAMBLE).decode("utf-8", "replace").split("\r\n"):
        key, colon, value = line.partition(":")
        if colon:
            headers.setdefault(key, value.strip())
    return headers


def read_entry(entry: Entry) -> Record:
    """Read one stored message. Never raises: headers that are not valid are ignored."""
    headers = parse_headers(entry.headers) if entry.headers else None
    return read(entry.seq, entry.time, entry.subject, entry.body, headers)


def read(
    seq: int,
    time: int,
    subject: str,
    payload: bytes | msgspec.Raw,
    headers: Mapping[str, str] | None = None,
) -> Record:
    """Read a message whose headers are already parsed. Never raises."""
    aggregate, identity, node, kind = _address(subject)
    if not headers:
        content = _content(kind, node, payload, "1")
        return Record(seq, time, subject, aggregate, identity, content, node=node)
    found = headers.get
    cause, basis = found(CAUSE_HEADER), found(BASIS_HEADER)
    return Record(
        seq,
        time,
        subject,
        aggregate,
        identity,
        _content(kind, node, payload, found(VERSION_HEADER, "1")),
        None if cause is None else _earlier(cause, seq),
        None if basis is None else _sequence(basis),
        found(ACTOR_HEADER, ""),
        found(BY_HEADER, ""),
        node,
    )


def _earlier(text: str, seq: int) -> int | None:
    """Return a sequence if it is an earlier one: nothing is caused by its own future."""
    number = _sequence(text)
    return number if number is not None and number < seq else None


def _sequence(text: str) -> int | None:
    if len(text) > 19 or not (text.isascii() and text.isdigit()):
        return None  # 19 digits are enough for any sequence; int() raises for thousands of them
    return int(text) or None
