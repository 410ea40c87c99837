"""Forms with files (multipart/form-data, RFC 7578): what is read of one, and its model. Pure.

An engine gets a form as it came, byte for byte; only the name of its model may be replaced. What
parsers could read in different ways is refused, so that an engine reads the model that is read
here.
"""

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping

import multipart
from msgspec import Struct

MOST_PARTS = 100
"""Parts of a form at most: a request for a transcription has about thirty fields."""

FIELD_SIZE = 1024 * 1024
"""Bytes of a field that is not a file, at most: as in the framework of vLLM's server."""

TYPE_SIZE = 1024
"""Bytes of the Content-Type of a form at most: it travels in the headers of one message."""

_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"')
_PARAMETER = re.compile(r";\s*([^=;\s]+)\s*=")
_HEADS_END = b"\r\n\r\n"


class BadForm(Exception):
    """A form can't be read, or not in one way only; `param` is the field at fault."""

    def __init__(self, text: str, *, param: str | None = None, status: int = 400) -> None:
        super().__init__(text)
        self.param = param
        self.status = status


class Form(Struct, frozen=True):
    """The names of a form's parts, and the values of the fields that were wanted."""

    names: frozenset[str]
    fields: Mapping[str, str]


class FormReader:
    """Reads a form as it is fed, and keeps the fields that are `wanted`. It holds no file."""

    def __init__(self, content_type: str, wanted: Collection[str]) -> None:
        """`content_type`: the value of the request's field. Raise BadForm."""
        # In Latin-1 any bytes of a file's name are text.
        self._parser = multipart.PushMultipartParser(
            boundary_of(content_type), header_charset="latin-1"
        )
        self._wanted = wanted
        self._names: set[str] = set()
        self._kept: dict[str, bytearray] = {}
        self._parts = 0
        self._segment: multipart.MultipartSegment | None = None

    def feed(self, data: bytes) -> None:
        """Read further bytes. Raise BadForm."""
        try:
            for event in self._parser.parse(data):
                if isinstance(event, multipart.MultipartSegment):
                    self._begin(event)
                elif event is not None:
                    self._content(event)
        except multipart.MultipartError as error:
            raise BadForm(f"the form can't be read: {error}") from error

    def end(self) -> Form:
        """Return the form once all of it was fed. Raise BadForm."""
        try:
            self._parser.close()
        except multipart.MultipartError as error:
            text = "the form ends before its last boundary: a part is missing"
            raise BadForm(text) from error
        fields = {name: _text(name, value) for name, value in self._kept.items()}
        return Form(frozenset(self._names), fields)

    def _begin(self, segment: multipart.MultipartSegment) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise BadForm(f"the form has more than {MOST_PARTS} parts, as many as are read")
        name = name_of(segment, self._parts)
        if name in self._wanted:
            if name in self._kept:
                raise BadForm(f"{name} may occur once", param=name)
            if segment.filename is not None:
                raise BadForm(f"{name} is a field of text, not a file", param=name)
            self._kept[name] = bytearray()
        self._names.add(name)
        self._segment = segment

    def _content(self, data: bytes) -> None:
        segment = self._segment
        assert segment is not None
        if segment.filename is None and segment.bytes_received > FIELD_SIZE:
            text = f"the field has more than {FIELD_SIZE} bytes, and is not a file"
            raise BadForm(text, param=segment.name, status=413)
        if segment.name in self._kept:
            self._kept[segment.name] += data


def boundary_of(content_type: str) -> bytes:
    """Return the boundary that a Content-Type names. Raise BadForm."""
    kind, options = multipart.parse_options_header(content_type)
    if kind != "multipart/form-data":
        text = "this path takes a form with a file: Content-Type must be multipart/form-data"
        raise BadForm(text, status=415)
    if len(content_type) > TYPE_SIZE:
        raise BadForm(f"Content-Type has more than {TYPE_SIZE} bytes")
    boundary = options.get("boundary", "")
    if not boundary or not _unequivocal(content_type):
        raise BadForm("Content-Type must have one boundary: multipart/form-data; boundary=…")
    return str(boundary).encode("latin-1")


def name_of(segment: multipart.MultipartSegment, number: int) -> str:
    """Return the name of a part, the `number`th of its form. Raise BadForm."""
    name = segment.name or ""
    values = [value for key, value in segment.headerlist if key == "Content-Disposition"]
    if len(values) != 1 or not _unequivocal(values[0]) or "\\" in name:
        raise BadForm(f"Content-Disposition of part {number} is not valid")
    return name


def renamed(content_type: str, body: bytes, name: str) -> bytes:
    """Return a form that was read before with another value of `model`, and else the same bytes."""
    for start, end in _parts(content_type, body):
        blank = body.find(_HEADS_END, start, end)
        if blank >= 0 and _name(body[start:blank]) == "model":
            value = blank + len(_HEADS_END)
            return b"".join((memoryview(body)[:value], name.encode(), memoryview(body)[end:]))
    return body


def with_field(content_type: str, body: bytes, name: str, value: str) -> bytes:
    """Return a form that was read before with one more field before all others."""
    mark = b"--" + boundary_of(content_type)
    at = body.find(mark)
    heads = b'\r\nContent-Disposition: form-data; name="%b"' % name.encode()
    added = b"".join((mark, heads, _HEADS_END, value.encode(), b"\r\n"))
    return b"".join((memoryview(body)[:at], added, memoryview(body)[at:]))


def fingerprint(content_type: str, body: bytes) -> bytes:
    """Return a digest of a form that a client's next try has too, which draws a new boundary."""
    digest = hashlib.blake2b(digest_size=16)
    view = memoryview(body)
    for start, end in _parts(content_type, body):
        digest.update(b"%d\n" % (end - start))
        digest.update(view[start:end])
    return digest.digest()


def _parts(content_type: str, body: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each part's heads begin, and where its content ends."""
    delimiter = b"\r\n--" + boundary_of(content_type)
    at = body.find(delimiter[2:])
    start = at + len(delimiter) if at >= 0 else -1
    while start >= 0 and body[start : start + 2] != b"--":
        end = body.find(delimiter, start)
        if end < 0:
            return
        yield start, end
        start = end + len(delimiter)


def _name(heads: bytes) -> str | None:
    """Return the name of the part with these heads."""
    for line in heads.decode("latin-1").split("\r\n"):
        key, _, value = line.partition(":")
        if key.strip().lower() == "content-disposition":
            name: str | None = multipart.parse_content_disposition(value.strip())[1]
            return name
    return None


def _unequivocal(value: str) -> bool:
    """Return whether all parsers read the same parameters of a field: each once, in closed quotes.

    RFC 7578 4.2 has no `name*`, which some parsers put together as RFC 2231 says.
    """
    bare = _QUOTED.sub("_", value)
    names = [name.lower() for name in _PARAMETER.findall(bare)]
    starred = any(name.startswith(("name*", "boundary*")) for name in names)
    return '"' not in bare and len(set(names)) == len(names) and not starred


def _text(name: str, value: bytearray) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadForm(f"{name} is not text in UTF-8", param=name) from None
