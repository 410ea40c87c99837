"""Decodes streams of S2, the compression of JetStream's backups.

S2 is Snappy extended (github.com/klauspost/compress, `s2/README.md`, "Format Extensions"): the
framing and the blocks are those of Snappy's `framing_format.txt` and `format_description.txt`, but
the stream says `S2sTwO`, a block holds up to 4 MiB, and a copy with the offset 0 repeats the last
offset. That is why Snappy's libraries, cramjam among them, can't read it. Plain Snappy streams are
read as well.

Every chunk carries a CRC-32C of its content. In Python alone that would take many times as long as
all the rest, so it is not verified; what can't be decoded to the size it promises is noticed.
"""

from collections.abc import Iterator
from typing import BinaryIO

_IDENTIFIERS = (b"\xff\x06\x00\x00S2sTwO", b"\xff\x06\x00\x00sNaPpY")
_COMPRESSED, _PLAIN, _FIRST_SKIPPABLE, _IDENTIFIER = 0x00, 0x01, 0x80, 0xFF
_LARGEST = 4 * 1024 * 1024
_CHECKSUM = 4


class Corrupt(Exception):
    """The data is not an S2 stream, or is damaged; the text names the byte."""


def decompressed(file: BinaryIO) -> Iterator[bytes]:
    """Yield the content of a stream, piece by piece. Raise Corrupt."""
    head = file.read(10)
    if head not in _IDENTIFIERS:
        raise Corrupt("no S2 stream begins at byte 0")
    offset = len(head)
    while head := file.read(4):
        kind, length = head[0], int.from_bytes(head[1:], "little")
        chunk = file.read(length)
        if len(head) < 4 or len(chunk) < length:
            raise Corrupt(f"the S2 stream is cut off at byte {offset}")
        if kind == _COMPRESSED:
            yield _block(chunk, offset)
        elif kind == _PLAIN:
            yield chunk[_CHECKSUM:]
        elif kind < _FIRST_SKIPPABLE or (kind == _IDENTIFIER and head + chunk not in _IDENTIFIERS):
            raise Corrupt(f"the S2 stream is not valid at byte {offset}")
        offset += 4 + length


def _block(chunk: bytes, offset: int) -> bytes:
    """Decode a compressed chunk, which begins at `offset`. Raise Corrupt."""
    try:
        size, shift, at = 0, 0, _CHECKSUM
        while chunk[at] >= 0x80:
            size |= (chunk[at] & 0x7F) << shift
            shift += 7
            at += 1
        size |= chunk[at] << shift
        if size <= _LARGEST:
            content = _decoded(chunk, at + 1, size)
            if len(content) == size:
                return bytes(content)
    except IndexError:
        pass
    raise Corrupt(f"the S2 stream is not valid at byte {offset}")


def _decoded(src: bytes, at: int, size: int) -> bytearray:
    """Decode a block's elements from `at` on; invalid ones give another size than `size`.

    Raise IndexError for an element that is cut off.
    """
    out = bytearray()
    end, offset = len(src), 0
    while at < end:
        tag = src[at]
        kind = tag & 3
        if kind == 0:
            length = (tag >> 2) + 1
            at += 1
            if length > 60:
                width = length - 60
                length = int.from_bytes(src[at : at + width], "little") + 1
                at += width
            out += src[at : at + length]
            at += length
            continue
        if kind == 1:
            length = (tag >> 2 & 7) + 4
            low = src[at + 1] | (tag & 0xE0) << 3
            at += 2
            if low:
                offset = low
            elif length > 8:
                width = length - 8
                base = (8, 260, 65540)[width - 1]
                length = base + int.from_bytes(src[at : at + width], "little")
                at += width
                if length > size:
                    break
        elif kind == 2:
            length = (tag >> 2) + 1
            offset = src[at + 1] | src[at + 2] << 8
            at += 3
        else:
            length = (tag >> 2) + 1
            offset = int.from_bytes(src[at + 1 : at + 5], "little")
            at += 5
        have = len(out)
        start = have - offset
        if start < 0 or not offset:
            return bytearray()
        if length <= offset:
            out += out[start : start + length]
        else:
            out += (out[start:] * (length // offset + 1))[:length]
    return out if at == end else bytearray()
