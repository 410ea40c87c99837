"""JetStream's message blocks, read from disk without a server.

The layout is that of nats-server's `server/filestore.go`. Checksums are HighwayHash, for which no
kept library is at hand; they are not verified.
"""

from collections.abc import Iterator
from pathlib import Path
from struct import Struct

from nebula.events.record import Entry

_HEAD = Struct("<IQqH")
_CHECKSUM = 8
_HAS_HEADERS = 1 << 31
_DELETED = 3 << 62
"""The two bits of a sequence that mark an erased message and a tombstone."""


class Unreadable(Exception):
    """This is no message block, or a damaged one; the text names the file and the byte."""


def read_blocks(folder: Path) -> Iterator[Entry]:
    """Give the messages of a stream's `msgs` folder in order. Raises Unreadable."""
    numbered = [path for path in folder.glob("*.blk") if path.stem.isdigit()]
    for path in sorted(numbered, key=lambda each: int(each.stem)):
        yield from parse_block(path.read_bytes(), str(path))


def parse_block(data: bytes, name: str) -> Iterator[Entry]:
    """Give the messages of one block. Raises Unreadable."""
    if data.startswith(b"cmp"):
        raise Unreadable(f"{name}: the block is compressed or encrypted")
    offset, size = 0, len(data)
    while offset < size:
        if offset + _HEAD.size > size:
            raise Unreadable(f"{name}: a message is cut off at byte {offset}")
        length, seq, time, subject_length = _HEAD.unpack_from(data, offset)
        has_headers = length & _HAS_HEADERS
        end = offset + (length & ~_HAS_HEADERS)
        start = offset + _HEAD.size
        if end > size:
            raise Unreadable(f"{name}: a message is cut off at byte {offset}")
        body = start + subject_length
        headers = b""
        if has_headers:
            body += 4 + int.from_bytes(data[body : body + 4], "little")
            headers = data[start + subject_length + 4 : body]
        if body > end - _CHECKSUM:
            raise Unreadable(f"{name}: no message begins at byte {offset}")
        if not seq & _DELETED:
            subject = data[start : start + subject_length].decode("utf-8", "replace")
            yield Entry(seq, time, subject, headers, data[body : end - _CHECKSUM])
        offset = end
