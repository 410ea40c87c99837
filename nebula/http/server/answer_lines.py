"""The lines of an answer's head: which are valid, and those that were written before. Pure."""

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from nebula.events.endpoints import Dialect
from nebula.http import dialects, own_fields, request_ids

ORDINARY = frozenset(
    b"cache-control content-type retry-after x-accel-buffering x-nebula-model".split()
)
"""Names of fields that are known to be valid, and concern only the client."""

_REMEMBERED, _LONGEST = 1024, 256
"""Lines that are remembered, and the bytes of one, at most."""

_BAD_NAME = re.compile(b'[\x00-\x20\x7f-\xff()<>@,;:\\[\\]={}"/?\\\\]')
_CONTROLS = bytes(each for each in (*range(32), 127) if each != ord("\t"))
"""Characters that no field may contain."""


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


STATUS_LINES = {status: _status_line(status) for status in range(100, 600)}


def joined(lines: Sequence[bytes]) -> bytes:
    """Return lines as one. Raise RuntimeError if one has control characters before its end."""
    text = b"".join(lines)
    if len(text.translate(None, _CONTROLS)) + len(b"\r\n") * len(lines) != len(text):
        raise RuntimeError(f"a field has a control character: {text!r}")
    return text


known_lines: dict[tuple[bytes, bytes], bytes] = {}
"""Lines of ordinary fields that were written before."""


def ordinary_line(field: tuple[bytes, bytes]) -> bytes:
    """Return the line of a field whose name is known, and remember it."""
    line = joined([b"%b: %b\r\n" % field])
    if len(known_lines) >= _REMEMBERED:
        known_lines.clear()
    if len(line) <= _LONGEST:
        known_lines[field] = line
    return line


def valid_name(name: bytes) -> bytes:
    """Return a field's name in lower case. Raise RuntimeError if it is not valid."""
    if _BAD_NAME.search(name):
        raise RuntimeError(f"not a valid name of a field: {name!r}")
    return name.lower()


def naming(scope: Any) -> tuple[request_ids.Given, Dialect]:
    """Return the ids that the caller gave a request, and the dialect in which it is answered."""
    dialect = dialects.dialect_for(scope["path"], scope["headers"])
    return request_ids.given(own_fields.by_name(scope)), dialect
