"""Reads JetStream's message blocks without a server.

A stream's store folder holds its messages in `msgs/<n>.blk`, record after record, all numbers
little-endian (nats-server, `server/filestore.go`: writeMsgRecordLocked, msgFromBufEx):

    u32  length of the whole record; its highest bit says that there are headers
    u64  sequence; bit 63: the message was erased, bit 62: a tombstone, "this one was deleted"
    i64  time, nanoseconds since the epoch
    u16  length of the subject, then the subject
    [u32 length of the headers, then the headers]
         body
    u64  checksum

The checksum is a HighwayHash. Neither Python nor Nebula's dependencies have it, so it is not
verified: only the server notices a flipped bit inside a body.
"""

import struct
from collections.abc import Generator, Iterator
from pathlib import Path

from nebula.events.record import Entry

_HEAD = struct.Struct("<IQqH")
_SIZE = struct.Struct("<I")
_CHECKSUM = 8
_HAS_HEADERS = 1 << 31
_TOMBSTONE = 1 << 62
_LONGEST = 32 * 1024 * 1024
"""Largest record of the server, in bytes (`rlBadThresh`)."""
PLAIN = "take a backup with `nats stream backup`, which holds every message plain"
"""What to do if a store can't be read from the disk."""


class Unreadable(Exception):
    """The files are not a log, or are damaged; the text names the file and the byte."""


def read_blocks(folder: Path) -> Iterator[Entry]:
    """Yield the messages of a stream's `msgs` folder in order. Raise Unreadable."""
    try:
        numbered = {int(path.stem): path for path in folder.iterdir() if _is_block(path)}
        last = 0
        for _, path in sorted(numbered.items()):
            if path.with_suffix(".key").exists():
                raise Unreadable(f"{path}: the messages are encrypted at byte 0: {PLAIN}")
            last = yield from parse_block(path.read_bytes(), str(path), last)
    except OSError as error:
        raise Unreadable(f"{error.filename or folder}: {error.strerror or error}") from error


def parse_block(data: bytes | memoryview, name: str, after: int = 0) -> Generator[Entry, None, int]:
    """Yield the messages of one block, and return the last one's sequence.

    `after`: the last sequence of the blocks before it. Erased messages are left out. Raise
    Unreadable for a block that is cut off, not valid, compressed or encrypted, or that deletes
    messages that were already yielded, since a log only grows.
    """
    data = bytes(data)
    if data.startswith(b"cmp") and data[3:4] != b"\0":  # otherwise a length that spells "cmp"
        raise Unreadable(f"{name}: the messages are compressed at byte 0: {PLAIN}")
    unpack, head, size_of, no_headers = _HEAD.unpack_from, _HEAD.size, _SIZE.unpack_from, b""
    size, offset, last = len(data), 0, after
    least = head + _CHECKSUM
    while offset < size:
        if offset + head > size:
            raise Unreadable(f"{name}: a message is cut off at byte {offset}")
        length, seq, time, subject_length = unpack(data, offset)
        start = offset + head
        body = start + subject_length
        if length < _HAS_HEADERS:
            end = offset + length
            checksum = end - _CHECKSUM
            subject = data[start:body]
            headers = no_headers
        else:
            length -= _HAS_HEADERS
            end = offset + length
            checksum = end - _CHECKSUM
            subject = data[start:body]
            start = body + 4
            if start <= checksum and end <= size:
                body = start + size_of(data, body)[0]
                headers = data[start:body]
            else:
                body = start
        if not least <= length <= _LONGEST or body > checksum:
            raise Unreadable(f"{name}: no message begins at byte {offset}")
        if end > size:
            raise Unreadable(f"{name}: a message is cut off at byte {offset}")
        if last < seq < _TOMBSTONE:
            last = seq
            yield Entry(seq, time, subject.decode("utf-8", "replace"), headers, data[body:checksum])
        elif 0 < seq < _TOMBSTONE:
            raise Unreadable(f"{name}: sequence {seq} follows {last} at byte {offset}")
        elif seq & _TOMBSTONE and seq - _TOMBSTONE <= last:
            raise Unreadable(f"{name}: sequence {seq - _TOMBSTONE} was deleted at byte {offset}")
        offset = end
    return last


def _is_block(path: Path) -> bool:
    return path.suffix == ".blk" and path.stem.isascii() and path.stem.isdigit()
