"""Recognizes a request whose head came before on its connection, which need not be parsed again.

Pure. Only a head that llhttp has parsed and `heads` has accepted is recognized, and only if every
byte of it is the same except for the digits of its content-length.
"""

import re

from msgspec import Struct
from msgspec.structs import replace

from nebula.http.field_lines import LENGTH, FieldLines
from nebula.http.server.heads import Fields, Head

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})\r\n", re.IGNORECASE)
_DIGITS = 9


class RepeatedHead(Struct):
    """The head of the last request that was parsed, and the last request with it.

    `before`, `after`: its bytes around the digits of its content-length. `at`: the position of that
    field.
    """

    before: bytes
    after: bytes
    at: int
    head: Head
    fields: FieldLines

    def body_in(self, data: bytes) -> bytes:
        """Return the body of a whole request with this head, and note its length.

        b"" if `data` is not exactly one such request.
        """
        start = len(self.before)
        if not data.startswith(self.before):
            return b""
        end = data.find(b"\r", start)
        digits = data[start:end]
        if not (digits.isdigit() and data.startswith(self.after, end)):
            return b""
        body = data[end + len(self.after) :]
        length = len(body)
        if len(digits) > _DIGITS or length != int(digits):
            return b""
        if length != self.head.length:
            self.head = replace(self.head, length=length)
            self.fields = self.fields.with_length(self.at, digits)
        return body


def repeated(data: bytes, method: bytes, head: Head, fields: Fields) -> RepeatedHead | None:
    """Return what recognizes the head of a request that was accepted, if that is possible.

    `data`: what was read when it came. Only a request that came in one piece, with a body whose
    length is said once, is recognized.
    """
    if method != b"POST" or not head.length or head.http_1_0 or head.expects:
        return None
    end = data.find(b"\r\n\r\n") + 4
    if head.authority is not None or head.content_codings or len(data) != end + head.length:
        return None
    names = [name for name, _ in fields]
    length = _LENGTH.search(data, 0, end)
    if length is None or names.count(LENGTH) != 1 or b"upgrade" in names:
        return None
    before, after = data[: length.start(1)], data[length.end(1) : end]
    return RepeatedHead(before, after, names.index(LENGTH), head, FieldLines(fields))
