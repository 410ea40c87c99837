"""A log as a file of JSON lines, which people can read, search and send.

The first line describes the file. Every further line is one entry, byte for byte: its sequence,
time, subject, headers and body, unless its secrets are masked, which the first line then says (ADR
41). Each ends in `chain`, the SHA-256 of the line's text before it and of the previous chain, so
that a changed, missing or reordered line is detected. There is no secret key in it: a forger could
recompute the chain, so the last chain must be kept elsewhere to compare with.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct

from nebula.events import record
from nebula.events.reading import UNREADABLE
from nebula.events.record import Entry, Record

FORMAT = 1
_PREAMBLE = "NATS/1.0\r\n"
_SEAL = b',"chain":"'
_TAIL = len(_SEAL) + 64 + len(b'"}')
_sha256 = hashlib.sha256
_NO_BODY = msgspec.Raw(b"")
_DEEPEST = 200
"""Levels of nested JSON that are written as JSON. Where a parser stops differs between versions of
Python, and before 3.12 with the depth of calls: this is far below, so that a log gives the same
file everywhere, and every reader can read it."""


class BadArchive(Exception):
    """The file is not an intact exported log; the text names the line."""


class Head(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The first line: the file holds the entries 1 to `last`, some of them `masked`.

    It has nothing else, so that the same log always gives the same file.
    """

    nebula: str
    format: int
    last: int
    masked: bool = False
    chain: str = ""


class _Line(Struct, omit_defaults=True, gc=False):
    """One entry. Headers and body are plain if JSON can represent them, else base64."""

    seq: int
    time: str
    subject: str
    headers: dict[str, str] | None = None
    headers_base64: str | None = None
    body: msgspec.Raw = _NO_BODY
    body_text: str | None = None
    body_base64: str | None = None
    chain: str = ""


_encoder = msgspec.json.Encoder()
_lines = msgspec.json.Decoder(_Line)
_heads = msgspec.json.Decoder(Head)


def write(entries: Iterable[Entry], last: int) -> Iterator[bytes]:
    """Yield the lines of a file that holds `entries`, which end with sequence `last`."""
    writer = Writer(last)
    yield writer.head
    for entry in entries:
        yield writer.line(entry)


class Writer:
    """Writes the lines of a file; `head` is the first line, `chain` is the hash of the newest."""

    def __init__(self, last: int, *, masked: bool = False) -> None:
        self._chain = b""
        head = Head("log", FORMAT, last, masked)
        self.head = self._sealed(_encoder.encode(head)[:-1])

    @property
    def chain(self) -> str:
        """The chain at the end of the line that was written last."""
        return self._chain.decode()

    def line(self, entry: Entry) -> bytes:
        """Return the line of the next entry."""
        line = _Line(entry.seq, _text(entry.time), entry.subject)
        if entry.headers:
            headers = record.parse_headers(entry.headers)
            if _block(headers) == entry.headers:
                line.headers = headers
            else:
                line.headers_base64 = base64.b64encode(entry.headers).decode()
        if entry.body:
            _put_body(line, entry.body)
        return self._sealed(_encoder.encode(line)[:-1])

    def _sealed(self, text: bytes) -> bytes:
        self._chain = _sha256(self._chain + text).hexdigest().encode()
        return b"%b%b%b%b" % (text, _SEAL, self._chain, b'"}\n')


class ReadingPlace(Struct, frozen=True):
    """A place in a file from which it can be read on: after the entry at `seq`."""

    seq: int
    offset: int
    chain: str


class Reader:
    """Reads a file and checks every line. Raise BadArchive at the first one that is not valid.

    `until`: sequence after which reading ends; what follows is ignored. `begin`: where an earlier
    reader was, to read on from there; what was changed since is noticed.
    """

    def __init__(
        self,
        file: BinaryIO,
        name: str,
        until: int | None = None,
        begin: ReadingPlace | None = None,
    ) -> None:
        self._file = file
        self._name = name
        self._until = until
        self._chain = b""
        first = file.readline()
        if not first:
            raise BadArchive(f"{name} is empty")
        text = self._unsealed(1, first)
        try:
            self.head = _heads.decode(text + b"}")
        except UNREADABLE as error:
            raise BadArchive(f"{name}, line 1: this is not an exported log: {error}") from error
        if self.head.nebula != "log" or self.head.format != FORMAT:
            raise BadArchive(
                f"{name}, line 1: a {self.head.nebula!r} of format {self.head.format}; "
                f"this Nebula reads a 'log' of format {FORMAT}"
            )
        if self.head.last < 0:
            raise BadArchive(f"{name}, line 1: no log ends with sequence {self.head.last}")
        self._begun = 0
        if begin is not None:
            file.seek(begin.offset)
            self._chain, self._begun = begin.chain.encode(), begin.seq
        self.offset = file.tell()
        """Where the line after the newest entry begins."""
        if until is not None and not 1 <= until <= self.head.last:
            raise BadArchive(
                f"{name} has no sequence {until}: it holds 1 to {self.head.last}"
                if self.head.last
                else f"{name} has no sequence {until}: it holds an empty log"
            )

    @property
    def last(self) -> int:
        """The sequence with which reading ends."""
        return self.head.last if self._until is None else self._until

    @property
    def chain(self) -> str:
        """The chain at the end of the line that was read last."""
        return self._chain.decode()

    def entries(self) -> Iterator[Entry]:
        """Yield every entry byte for byte."""
        for number, line, time in self._checked():
            headers = b""
            if line.headers is not None:
                headers = _block(line.headers)
            elif line.headers_base64 is not None:
                headers = self._base64(number, line.headers_base64)
            yield Entry(line.seq, time, line.subject, headers, self._body(number, line))

    def records(self) -> Iterator[Record]:
        """Yield every entry as a record, without encoding it as bytes in between."""
        read = record.read
        for number, line, time in self._checked():
            if line.headers_base64 is not None:
                block = self._base64(number, line.headers_base64)
                line.headers = record.parse_headers(block)
            # JSON, which nearly every body is, is read where it stands.
            yield read(
                line.seq, time, line.subject, line.body or self._body(number, line), line.headers
            )

    def _checked(self) -> Iterator[tuple[int, _Line, int]]:
        """Yield each line with its number and its time, once it is known to be intact."""
        expected, last = self._begun + 1, self.last
        decode = _lines.decode
        for number, raw in enumerate(self._file, expected + 1):
            if expected > last:
                break
            text = self._unsealed(number, raw, expected)
            try:
                line = decode(text + b"}")
            except UNREADABLE as error:
                raise BadArchive(f"{self._name}, line {number}: {_why(error)}") from error
            if line.seq != expected:
                raise BadArchive(
                    f"{self._name}, line {number}: found sequence {line.seq} instead of "
                    f"{expected}: the log has a hole"
                )
            try:
                time = _nanoseconds(line.time)
            except ValueError as error:
                raise BadArchive(f"{self._name}, line {number}: time: {error}") from error
            self.offset += len(raw)
            yield number, line, time
            expected += 1
        else:
            if expected <= last:
                raise BadArchive(
                    f"{self._name} is truncated: it ends after sequence {expected - 1}, "
                    f"but was written up to {self.head.last}"
                )
            return
        if self._until is None:
            raise BadArchive(
                f"{self._name}, line {number}: the log ended with sequence {last} before it"
            )

    def _unsealed(self, number: int, raw: bytes, expected: int = 0) -> bytes:
        line = raw.rstrip(b"\r\n")
        text, seal = line[:-_TAIL], line[-_TAIL:]
        chain = _sha256(self._chain + text).hexdigest().encode()
        if seal != _SEAL + chain + b'"}':
            raise BadArchive(f"{self._name}, line {number}: {self._suspect(line, seal, expected)}")
        self._chain = chain
        return text

    def _suspect(self, line: bytes, seal: bytes, expected: int) -> str:
        """Return what has most likely happened to a line that does not fit the previous one."""
        if not seal.startswith(_SEAL) or not line.endswith(b'"}'):
            if not expected:
                return "this is not an exported log: its first line has no chain"
            return f"it has no chain at its end: it was cut off or changed (sequence {expected})"
        try:
            seq = _lines.decode(line).seq
        except UNREADABLE as error:
            return f"it was changed: {_why(error)}"
        if seq > expected > 0:
            return f"sequence {seq} follows {expected - 1}: lines are missing or in another order"
        if seq < expected:
            return f"found sequence {seq} instead of {expected}: lines are in another order"
        return f"sequence {seq} was changed, or the line before it: the chain does not fit"

    def _body(self, number: int, line: _Line) -> bytes:
        if line.body_text is not None:
            return line.body_text.encode()
        if line.body_base64 is not None:
            return self._base64(number, line.body_base64)
        return bytes(line.body)

    def _base64(self, number: int, text: str) -> bytes:
        try:
            return base64.b64decode(text, validate=True)
        except ValueError as error:
            raise BadArchive(f"{self._name}, line {number}: {error}") from error


def _block(headers: dict[str, str]) -> bytes:
    lines = "".join([f"{key}: {value}\r\n" for key, value in headers.items()])
    return f"{_PREAMBLE}{lines}\r\n".encode()


def _put_body(line: _Line, body: bytes) -> None:
    """Return the most readable lossless form of a body."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        line.body_base64 = base64.b64encode(body).decode()
        return
    if body == body.strip() and b"\n" not in body and b"\r" not in body and _is_json(body):
        line.body = msgspec.Raw(body)
    else:
        line.body_text = text


def _is_json(body: bytes) -> bool:
    try:
        value = msgspec.json.decode(body, type=Any)
    except UNREADABLE:
        return False
    return body.count(b"[") + body.count(b"{") <= _DEEPEST or not _too_deep(value)


def _too_deep(value: object) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return any(isinstance(each, dict | list) for each in level)


def _why(error: Exception) -> str:
    return "its JSON is nested too deep" if isinstance(error, RecursionError) else str(error)


_minutes: dict[str, int] = {}
_SECONDS = {f"{second:02d}": second * 10**9 for second in range(60)}


def _text(time: int) -> str:
    seconds, rest = divmod(time, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def _nanoseconds(text: str) -> int:
    """Return the nanoseconds of `2026-11-23T03:00:00.123456789Z`. Raise ValueError."""
    minute, second, fraction = text[:17], _SECONDS.get(text[17:19]), text[20:29]
    ends = text[19::10] == ".Z"
    if second is None or not ends or len(text) != 30 or not (text.isascii() and fraction.isdigit()):
        raise ValueError(f"{text!r} is not written as 2026-11-23T03:00:00.123456789Z")
    known = _minutes.get(minute)
    if known is None:
        if len(_minutes) > 10_000:
            _minutes.clear()
        moment = datetime.fromisoformat(text[:19]).replace(second=0, tzinfo=UTC)
        if f"{moment:%Y-%m-%dT%H:%M:}" != minute:
            raise ValueError(f"{text!r} is not written as 2026-11-23T03:00:00.123456789Z")
        known = _minutes[minute] = int(moment.timestamp()) * 10**9
    return known + second + int(fraction)
