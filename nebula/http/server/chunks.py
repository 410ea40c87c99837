"""The least length of a chunked body, from the sizes in its chunks' first lines. Pure.

llhttp reports a chunk's bytes, never its size, so a chunk that is far too large would be read up to
the limit. llhttp itself refuses what is not valid here.
"""

import re

_HEX = re.compile(rb"[0-9A-Fa-f]*")
_DIGITS = 16
"""Digits of a size at most: llhttp takes 64 bits."""


class Sizes:
    """Reads the sizes of a body's chunks. `promised`: the sum of the sizes so far, in bytes."""

    def __init__(self) -> None:
        self.promised = 0
        self._skip = 0
        self._digits = b""
        self._in_size = True
        self._over = False

    def feed(self, data: bytes | memoryview, start: int = 0) -> None:
        """Read bytes of a body in transfer coding, from `start` on."""
        at, end = start, len(data)
        while at < end and not self._over:
            if self._skip:
                step = min(self._skip, end - at)
                self._skip -= step
                at += step
                continue
            at = self._read_line(bytes(data), at)

    def _read_line(self, data: bytes, at: int) -> int:
        """Continue in a line that holds a size, and return where to continue."""
        if self._in_size:
            match = _HEX.match(data, at)
            assert match is not None
            self._digits = (self._digits + match[0]).lstrip(b"0")[: _DIGITS + 1]
            at = match.end()
            self._in_size = at == len(data)
        line_end = data.find(b"\n", at)
        if line_end < 0:
            return len(data)
        size = int(self._digits or b"0", 16) if len(self._digits) <= _DIGITS else 0
        self._over = size == 0
        self.promised += size
        self._skip = size + 2 if size else 0
        self._digits, self._in_size = b"", True
        return line_end + 1
