"""Messages of a WebSocket session as bytes on NATS: which kind, how long, and what it says. Pure.

Both directions of a session are streams of these frames. A piece or a part may hold several, or
only a bit of one.
"""

import struct
from collections.abc import Iterable
from typing import Literal, TypeAlias

from msgspec import Struct

Kind: TypeAlias = Literal["text", "bytes", "close"]

MESSAGE_SIZE = 16 * 1024 * 1024
"""Bytes of one message at most: as vLLM's server takes them."""

_HEAD = struct.Struct(">BI")
_CODE = struct.Struct(">H")
_KINDS: tuple[Kind, ...] = ("text", "bytes", "close")


class BadFrame(Exception):
    """Bytes that are not frames, or a frame that is too large."""


class Frame(Struct, frozen=True):
    """One message; `code` is the close code of RFC 6455 (7.4), and `data` its reason then."""

    kind: Kind
    data: bytes
    code: int = 0


def encode(frame: Frame) -> bytes:
    """Return a frame as bytes."""
    data = _CODE.pack(frame.code) + frame.data if frame.kind == "close" else frame.data
    return _HEAD.pack(_KINDS.index(frame.kind), len(data)) + data


class FrameReader:
    """Puts the frames together that come in parts."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def feed(self, data: bytes) -> Iterable[Frame]:
        """Return the frames that are whole now. Raise BadFrame."""
        kept = self._kept
        kept += data
        found = []
        at = 0
        while len(kept) - at >= _HEAD.size:
            number, size = _HEAD.unpack_from(kept, at)
            if number >= len(_KINDS) or size > MESSAGE_SIZE + _CODE.size:
                raise BadFrame(f"{size} bytes of kind {number}")
            end = at + _HEAD.size + size
            if end > len(kept):
                break
            found.append(_frame(_KINDS[number], bytes(kept[at + _HEAD.size : end])))
            at = end
        del kept[:at]
        return found


def _frame(kind: Kind, data: bytes) -> Frame:
    if kind != "close":
        return Frame(kind, data)
    if len(data) < _CODE.size:
        raise BadFrame("a close without a code")
    return Frame(kind, data[_CODE.size :], _CODE.unpack_from(data)[0])
