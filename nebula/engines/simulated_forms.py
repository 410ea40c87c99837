"""Forms with files (RFC 7578), as a simulated engine reads them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from nebula.engines.simulated_http import Refusal, invalid

_PARAMETER = re.compile(rb';\s*([\w*-]+)=(?:"((?:[^"\\]|\\.)*)"|([^;\s]*))')


class File(msgspec.Struct, frozen=True):
    """A file of a form."""

    name: str
    content: bytes


def read_form(content_type: bytes, body: bytes) -> dict[str, str | File]:
    """The fields of a form by name; of several with one name the last. Raise Refusal."""
    kind, _, _ = content_type.partition(b";")
    if kind.strip().lower() != b"multipart/form-data":
        raise invalid("body.file", "Field required", "missing")
    boundary = _parameters(content_type).get(b"boundary")
    if not boundary:
        raise Refusal(400, "Missing boundary in multipart.")
    head, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary)
    if head or not parts or not parts[-1].startswith(b"--"):
        raise Refusal(400, "There was an error parsing the body")
    return dict(map(_field, parts[:-1]))


def _field(part: bytes) -> tuple[str, str | File]:
    head, blank, content = part.partition(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        header, _, value = line.partition(b":")
        if header.strip().lower() != b"content-disposition" or not blank:
            continue
        given = _parameters(value)
        name = given.get(b"name", b"").decode(errors="replace")
        if b"filename" in given:
            return name, File(given[b"filename"].decode(errors="replace"), content)
        return name, content.decode(errors="replace")
    raise Refusal(400, "There was an error parsing the body")


def _parameters(header: bytes) -> Mapping[bytes, bytes]:
    found = _PARAMETER.findall(header)
    return {name.lower(): quoted or bare for name, quoted, bare in found}
