"""The lines of a batch's files: those of its input, checked, and those of its results. Pure.

Forms of OpenAI's API: https://platform.openai.com/docs/api-reference/batch/request-input
"""

import codecs
import hashlib
import re
from collections.abc import Iterator

import msgspec
from msgspec import Raw, Struct

from nebula.events.batch_facts import Problem
from nebula.events.memory import MIB
from nebula.events.reading import UNREADABLE
from nebula.events.utf8 import check_text, not_text

MOST_LINES = 50_000
"""Lines of an input, at most, as at OpenAI."""

LARGEST_LINE = 64 * MIB
"""Bytes of a line, at most."""

MOST_PROBLEMS = 20
"""What is wrong with an input is told up to this many times."""

_ID = 512
"""Characters of a custom_id, at most."""

_SAID = 300
"""Characters of a message about a line, at most."""


class Place(Struct, frozen=True):
    """Where a line is in a file: the sequence of its first chunk, the offset in it, its length."""

    chunk: int
    offset: int
    length: int


class InputLine(Struct, frozen=True):
    """A line of an input; `number` counts all lines of the file from 1, also empty ones."""

    number: int
    place: Place
    text: bytes


class TooLong(Exception):
    """A line has more bytes than one may have. The argument is its number."""


class LineCutter:
    """Cuts a file into lines, chunk by chunk. Empty lines are left out."""

    def __init__(self) -> None:
        self._number = 0
        self._start: tuple[int, int] | None = None
        self._rest = bytearray()

    def feed(self, seq: int, chunk: bytes) -> Iterator[InputLine]:
        """Yield the lines that end in a chunk, which has this sequence. Raise TooLong."""
        at = 0
        while True:
            if self._start is None:
                self._start = (seq, at)
            end = chunk.find(b"\n", at)
            if end < 0:
                self._rest += chunk[at:]
                if len(self._rest) > LARGEST_LINE:
                    raise TooLong(self._number + 1)
                if at == len(chunk):
                    self._start = None if not self._rest else self._start
                return
            self._rest += chunk[at:end]
            yield from self._cut()
            at = end + 1

    def end(self) -> Iterator[InputLine]:
        """Yield the last line, if it has no line feed."""
        if self._rest:
            yield from self._cut()

    def _cut(self) -> Iterator[InputLine]:
        self._number += 1
        text, start = bytes(self._rest), self._start
        self._rest.clear()
        self._start = None
        if len(text) > LARGEST_LINE:
            raise TooLong(self._number)
        if text.strip() and start is not None:
            yield InputLine(self._number, Place(*start, len(text)), text)


class BatchRequestLine(Struct):
    """A line of an input: one request."""

    custom_id: str | None = None
    method: str | None = None
    url: str | None = None
    body: Raw = Raw(b"")


_PLACE = re.compile(r"at `\$\.([a-z_]+)`$")
_line = msgspec.json.Decoder(BatchRequestLine)


class InputCheck:
    """Checks an input line by line: `problems` says what is wrong, `ids` has each valid line's id.

    `places`: where each of these lines is, by its number.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._seen: dict[str, int] = {}
        self.problems: list[Problem] = []
        self.ids: dict[int, str] = {}
        self.places: dict[int, Place] = {}

    @property
    def enough(self) -> bool:
        """Whether there is no need to read on: the input is not valid, and that is told."""
        return len(self.problems) >= MOST_PROBLEMS or len(self.ids) > MOST_LINES

    def take(self, line: InputLine) -> None:
        """Check a line."""
        found = self._checked(line.number, line.text)
        if isinstance(found, Problem):
            self.problems.append(found)
            return
        self.ids[line.number] = found
        self.places[line.number] = line.place

    def finish(self) -> None:
        """Check the input as a whole."""
        if len(self.ids) > MOST_LINES:
            text = f"the input has more than {MOST_LINES} lines"
            self.problems.append(Problem("too_many_lines", text))
        elif not self.ids and not self.problems:
            self.problems.append(Problem("empty_file", "the input has no line"))

    def too_long(self, number: int) -> None:
        """Note a line that has more bytes than one may have."""
        text = f"the line has more than {LARGEST_LINE} bytes"
        self.problems.append(Problem("line_too_long", text, number))

    def _checked(self, number: int, text: bytes) -> str | Problem:
        try:
            line = _line.decode(text)
            check_text(text)
        except msgspec.ValidationError as error:
            return _wrong_type(error, number)
        except UNREADABLE as error:
            return _problem("invalid_json_line", _not_json(text, error), number)
        for param in ("custom_id", "method", "url"):
            if not getattr(line, param):
                return _problem("missing_required_parameter", f"{param} is required", number, param)
        if line.method != "POST":
            said = f"method must be POST, not {_short(line.method)}"
            return _problem("invalid_method", said, number, "method")
        if line.url != self._endpoint:
            said = f"url must be {self._endpoint}, the batch's endpoint, not {_short(line.url)}"
            return _problem("invalid_url", said, number, "url")
        if not bytes(line.body):
            return _problem("missing_required_parameter", "body is required", number, "body")
        if not bytes(line.body).startswith(b"{"):
            return _problem("invalid_body", "body must be a JSON object", number, "body")
        identity = line.custom_id or ""
        if len(identity) > _ID:
            said = f"custom_id has more than {_ID} characters"
            return _problem("invalid_custom_id", said, number, "custom_id")
        first = self._seen.setdefault(identity, number)
        if first != number:
            said = f"custom_id {_short(identity)} is that of line {first} too"
            return _problem("duplicate_custom_id", said, number, "custom_id")
        return identity


def _problem(code: str, text: str, line: int, param: str | None = None) -> Problem:
    return Problem(code, text[:_SAID], line, param)


def _short(text: str | None) -> str:
    return repr((text or "")[:80])


def _wrong_type(error: msgspec.ValidationError, number: int) -> Problem:
    """Return what is wrong with a line that is JSON, and not a request."""
    place = _PLACE.search(str(error))
    if place is None:
        said = "the line is not a JSON object: each line must be one request"
        return _problem("invalid_line", said, number)
    return _problem("invalid_line", f"{place[1]} must be a string", number, place[1])


def _not_json(text: bytes, error: Exception) -> str:
    """Return why a line is not JSON, and what to mend."""
    if text.startswith(codecs.BOM_UTF8):
        return "the line begins with a byte order mark: save the file as UTF-8 without one"
    if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "the line is UTF-16: save the file as UTF-8"
    if reason := not_text(text):
        return f"the line is not UTF-8: {reason}"
    said = str(error).removeprefix("JSON is malformed: ")
    if said == "Input data was truncated":
        said = "it ends too early: a request must be on one line"
    return f"the line is not valid JSON: {said}"


def body_of(text: bytes) -> bytes:
    """Return the request's body of a line that was checked before. Raise msgspec's errors."""
    return bytes(_line.decode(text).body)


class _Response(Struct):
    status_code: int
    request_id: str
    body: Raw


class _Failure(Struct):
    code: str
    message: str


class _Result(Struct):
    id: str
    custom_id: str
    response: _Response | None
    error: _Failure | None


def answered(
    batch: str, number: int, custom_id: str, request_id: str, status: int, body: bytes
) -> bytes:
    """Return the line for an answer, as it is in the output or the errors."""
    response = _Response(status, request_id, Raw(_on_one_line(body)))
    return _written(_Result(_id(batch, number), custom_id, response, None))


def unanswered(batch: str, number: int, custom_id: str, code: str, message: str) -> bytes:
    """Return the line for a request that has no answer, as it is in the errors."""
    return _written(_Result(_id(batch, number), custom_id, None, _Failure(code, message)))


def _written(result: _Result) -> bytes:
    return msgspec.json.encode(result) + b"\n"


def _on_one_line(body: bytes) -> bytes:
    """Return JSON without line feeds; other text as a JSON string."""
    try:
        return msgspec.json.format(body, indent=-1)
    except UNREADABLE:
        return msgspec.json.encode(body.decode("utf-8", "replace"))


def _id(batch: str, number: int) -> str:
    return f"batch_req_{line_digest(batch, number)}"


def line_digest(batch: str, number: int) -> str:
    """Return a text that only this line has, and that stays the same."""
    return hashlib.blake2b(f"{batch}/{number}".encode(), digest_size=16).hexdigest()
