"""One entry of the log as it is stored, and as it is read back: the event and what caused it.

Reading never fails: an entry that is not valid becomes a record with `Malformed` and the reason.
"""

import functools
from collections.abc import Mapping
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
        subject = self.subject.removesuffix(f".{self.node}") if self.node else self.subject
        return subject.rpartition(".")[2]


_encoder = msgspec.json.Encoder()
_TODAY = {name: version_of(name) for name in TYPES}
_TODAY_TEXT = {name: str(version) for name, version in _TODAY.items()}
_decoders = {name: msgspec.json.Decoder(kind) for name, kind in TYPES.items()}


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
    aggregate, identity, node, name = _address(subject)
    return aggregate, identity, _content(name, node, payload, version)


@functools.lru_cache(maxsize=8192)
def _address(subject: str) -> tuple[str, str, str, str | Malformed]:
    """Read a subject as (aggregate, id, reporting node, type of event or what is wrong with it)."""
    tokens = subject.split(".")
    named = len(tokens) == 6 and tokens[4] in REPORTS
    if not (named or len(tokens) == 5) or tokens[:2] != ["nebula", "events"]:
        return (
            "",
            "",
            "",
            Malformed("the subject is not nebula.events.<aggregate>.<id>.<EventType>"),
        )
    _, _, aggregate, identity, name, *reporter = tokens
    if aggregate not in AGGREGATES:
        return "", "", "", Malformed(f"{aggregate!r} is none of {', '.join(AGGREGATES)}")
    if not subjects.is_token(identity):
        return "", "", "", Malformed(f"{identity!r} is no id: use {subjects.ID_FORM}")
    if name not in TYPES:
        return aggregate, identity, "", Malformed(f"{name!r} is no event type of Nebula")
    if AGGREGATE_OF[name] != aggregate:
        problem = f"{name} is an event of a {AGGREGATE_OF[name]}, not of a {aggregate}"
        return aggregate, identity, "", Malformed(problem)
    if named and not subjects.is_token(reporter[0]):
        problem = f"{reporter[0]!r} is not a node's name: use {subjects.ID_FORM}"
        return aggregate, identity, "", Malformed(problem)
    return aggregate, identity, reporter[0] if named else "", name


def _content(name: str | Malformed, node: str, payload: bytes, version: str) -> Content:
    """Read a body as the event that its subject names, reported by a `node` if any."""
    if isinstance(name, Malformed):
        return name
    try:
        if version == _TODAY_TEXT[name]:
            content: Content = _decoders[name].decode(payload or b"{}")
        else:
            content = _of_version(name, payload or b"{}", version)
    except UNREADABLE as error:
        reason = not_text(payload)
        return Malformed(f"{name}: not UTF-8: {reason}" if reason else f"{name}: {error}")
    if node and getattr(content, "node", node) != node:
        return _reported(content, node)
    return content


def _of_version(name: str, payload: bytes, version: str) -> Content:
    """Read a body of an older version. Raise what is UNREADABLE."""
    today, number = _TODAY[name], 1 if version == "1" else _sequence(version)
    if not number:
        return Malformed(f"{VERSION_HEADER}: {version!r} is no version of an event")
    if number > today:
        return Malformed(
            f"{name} of version {number} is newer than this Nebula, which reads up to {today}"
        )
    if number == today:
        return _decoders[name].decode(payload)
    old = msgspec.json.decode(payload, type=dict[str, object])
    return msgspec.convert(upcast(name, number, old), TYPES[name])


def _reported(content: Content, node: str) -> Content:
    """Return a report as the word of the node in its subject, which its body may not contradict."""
    said = getattr(content, "node", node)
    if said:
        kind = type(content).__name__
        return Malformed(f"{kind}: its body is of node {said[:128]!r}, its subject of {node!r}")
    structs.force_setattr(content, "node", node)  # nothing else has it yet
    return content


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
    seq: int, time: int, subject: str, payload: bytes, headers: Mapping[str, str] | None = None
) -> Record:
    """Read a message whose headers are already parsed. Never raises."""
    aggregate, identity, node, name = _address(subject)
    if not headers:
        content = _content(name, node, payload, "1")
        return Record(seq, time, subject, aggregate, identity, content, node=node)
    found = headers.get
    cause, basis = found(CAUSE_HEADER), found(BASIS_HEADER)
    return Record(
        seq,
        time,
        subject,
        aggregate,
        identity,
        _content(name, node, payload, found(VERSION_HEADER, "1")),
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
