"""Content codings of request bodies (RFC 9110 8.4): decoded as the body arrives, a slice at a time.

A few bytes may decode to many. No step returns more than a slice, so that the caller can count the
decoded bytes and stop in time.
"""

import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SLICE = 64 * 1024
"""Bytes that one step returns, approximately; brotli's library may return some more."""

MOST = 4
"""Codings that one body may have, nested."""

ACCEPTED = "gzip, deflate, br, zstd"
"""The value of `Accept-Encoding` for request bodies."""

_ZSTD_WINDOW_LOG = 23
"""RFC 9659: a zstd content coding needs no window of more than 8 MiB."""


class UnknownCoding(Exception):
    """A body has an unknown coding."""


class BadCoding(Exception):
    """A body is not valid in its coding; the text says how."""


class _Step(Protocol):
    def take(self, data: bytes) -> Iterator[bytes]:
        """Yield what further bytes decode to, in slices. Raise BadCoding."""

    def end(self) -> None:
        """Raise BadCoding if the body is incomplete."""


class _Zlib:
    """gzip, perhaps several members in a row (RFC 1952 2.2), and deflate."""

    def __init__(self, name: str, window: int) -> None:
        self._name = name
        self._window = window
        self._inside = zlib.decompressobj(window)
        self._begun = False

    def take(self, data: bytes) -> Iterator[bytes]:
        if not self._begun and data:
            self._begun = True
            if self._window == zlib.MAX_WBITS and (data[0] & 0x0F) != zlib.DEFLATED:
                self._inside = zlib.decompressobj(-zlib.MAX_WBITS)  # deflate without zlib's head
        while data:
            if self._inside.eof:
                if self._name != "gzip":
                    raise BadCoding(f"there are bytes behind the end of its {self._name}")
                self._inside = zlib.decompressobj(self._window)
            try:
                given = self._inside.decompress(data, SLICE)
            except zlib.error as error:
                raise BadCoding(f"it is not valid {self._name}: {error}") from None
            data = self._inside.unused_data if self._inside.eof else self._inside.unconsumed_tail
            if given:
                yield given

    def end(self) -> None:
        # Input that did not fit into a slice is in `unconsumed_tail`, which is read above.
        if self._begun and not self._inside.eof:
            raise BadCoding(f"its {self._name} ends before its end: a part is missing")


class _Zstd:
    """zstd, perhaps several frames in a row (RFC 8878 3.1)."""

    def __init__(self) -> None:
        self._inside = self._new()
        self._begun = False

    @staticmethod
    def _new() -> zstd.ZstdDecompressor:
        return zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
        )

    def take(self, data: bytes) -> Iterator[bytes]:
        self._begun = self._begun or bool(data)
        while data or not (self._inside.needs_input or self._inside.eof):
            if self._inside.eof:
                self._inside = self._new()
            try:
                given = self._inside.decompress(data, max_length=SLICE)
            except zstd.ZstdError as error:
                raise BadCoding(f"it is not valid zstd: {error}") from None
            data = self._inside.unused_data if self._inside.eof else b""
            if given:
                yield given

    def end(self) -> None:
        if self._begun and not self._inside.eof:
            raise BadCoding("its zstd ends before its end: a part is missing")


class _Brotli:
    def __init__(self) -> None:
        self._inside = brotli.Decompressor()
        self._begun = False

    def take(self, data: bytes) -> Iterator[bytes]:
        self._begun = self._begun or bool(data)
        given = data
        while given or not self._inside.can_accept_more_data():
            try:
                given = self._inside.process(data, output_buffer_limit=SLICE)
            except brotli.error:
                raise BadCoding("it is not valid brotli") from None
            data = b""
            if given:
                yield given
            elif self._inside.is_finished():
                return

    def end(self) -> None:
        if self._begun and not self._inside.is_finished():
            raise BadCoding("its brotli ends before its end: a part is missing")


_CODINGS: dict[str, Callable[[], _Step]] = {
    "gzip": lambda: _Zlib("gzip", 16 + zlib.MAX_WBITS),
    "x-gzip": lambda: _Zlib("gzip", 16 + zlib.MAX_WBITS),
    "deflate": lambda: _Zlib("deflate", zlib.MAX_WBITS),
    "zstd": _Zstd,
    "br": _Brotli,
}


def names(field: bytes) -> list[str]:
    """Return the codings that a Content-Encoding names, in order, without identity.

    Raise UnknownCoding.
    """
    listed = [each.strip().lower() for each in field.decode("latin-1").split(",")]
    found = [each for each in listed if each not in ("", "identity")]
    for each in found:
        if each not in _CODINGS:
            raise UnknownCoding(f"the coding {each[:64]!r} is not known")
    if len(found) > MOST:
        raise UnknownCoding(f"a body has at most {MOST} codings, this one has {len(found)}")
    return found


class Decoder:
    """Decodes one body, the outermost coding first."""

    def __init__(self, codings: list[str]) -> None:
        self._steps = [_CODINGS[name]() for name in reversed(codings)]

    def take(self, data: bytes) -> Iterator[bytes]:
        """Yield what a further part of the body decodes to, in slices. Raise BadCoding."""
        return self._through(0, data)

    def _through(self, step: int, data: bytes) -> Iterator[bytes]:
        if step == len(self._steps):
            yield data
            return
        for given in self._steps[step].take(data):
            yield from self._through(step + 1, given)

    def end(self) -> None:
        """Raise BadCoding if the body ends too early."""
        for step in self._steps:
            step.end()
