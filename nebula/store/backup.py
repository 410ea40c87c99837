"""Reads a log from disk: from a server's store folder, or from a backup by `nats stream backup`.

Such a backup is a folder with `backup.json`, the stream's configuration and state, and
`stream.tar.s2`, all messages as one S2 stream. In it is, from nats-server 2.15 on, an archive of
its own kind (NATS ADR "JetStream Stream Backup and Restore V2"): `NATSARC1`, then entries, each

    uvarint  length of the name
    varint   time, nanoseconds since the epoch
    uvarint sequence; 0 for an entry that is not a message
    uvarint  length of the headers
    uvarint  length of the body
             name (a message's subject), headers, body

and at the end an entry of nothing but zeros. Older servers put a tar of the store folder there.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from nebula.events.original import original
from nebula.events.reading import UNREADABLE
from nebula.events.record import Entry
from nebula.store import s2
from nebula.store.blocks import PLAIN, Unreadable, parse_block, read_blocks
from nebula.store.streams import EVENTS

_ARCHIVE = "stream.tar.s2"
_MAGIC = b"NATSARC1"
_LONGEST = 32 * 1024 * 1024
"""Largest message in bytes: the store takes none that is larger."""
_RECORD = 512
"""Block size of a tar, in bytes."""
SHOWN = 3
"""Places that are listed if there are several logs, at most."""


class _Configuration(Struct):
    name: str


class _Description(Struct):
    config: _Configuration


def read_backup(path: Path) -> Iterator[Entry]:
    """Yield the entries of the log at `path` in their original form. Raise Unreadable.

    `path`: a backup's folder or its `stream.tar.s2`, the store folder of the log's stream, or a
    folder that contains one of them somewhere under the stream's name.
    """
    try:
        found = _find(path)
        entries = _read_store(found) if found.is_dir() else _read_archive(found)
        yield from map(original, entries)
    except OSError as error:
        raise Unreadable(f"{error.filename or path}: {error.strerror or error}") from error


def _find(path: Path) -> Path:
    """Return a stream's store folder or the file of a backup."""
    if not path.exists():
        raise Unreadable(f"{path}: there is no such file or folder")
    if path.is_file() or _is_store(path):
        return path
    if (path / _ARCHIVE).is_file():
        return path / _ARCHIVE
    stores = [each.parent for each in path.rglob("meta.inf") if _is_store(each.parent)]
    archives = list(path.rglob(_ARCHIVE))
    found = sorted(
        [each for each in stores if each.name == EVENTS]
        + [each for each in archives if each.parent.name == EVENTS]
    )
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(map(str, found[:SHOWN])) + (", …" if found[SHOWN:] else "")
        raise Unreadable(f"{path}: the stream {EVENTS} is in it {len(found)} times: {several}")
    raise Unreadable(
        f"{path}: there is no stream {EVENTS} in it, neither a server's store "
        f"({EVENTS}/meta.inf and {EVENTS}/msgs) nor a backup ({_ARCHIVE})"
    )


def _is_store(folder: Path) -> bool:
    return (folder / "meta.inf").is_file() and (folder / "msgs").is_dir()


def _read_store(folder: Path) -> Iterator[Entry]:
    meta = folder / "meta.inf"
    if meta.with_suffix(".key").exists():
        raise Unreadable(f"{folder}: the store is encrypted: {PLAIN}")
    _check_name(meta.read_bytes(), str(meta), _Configuration)
    return read_blocks(folder / "msgs")


def _read_archive(path: Path) -> Iterator[Entry]:
    description = path.with_name("backup.json")
    if description.is_file():
        _check_name(description.read_bytes(), str(description), _Description)
    name = str(path)
    with path.open("rb") as file:
        pieces = s2.decompressed(file)
        try:
            stream = _Stream(pieces, name)
            if stream.starts_with(_MAGIC):
                yield from _messages(stream)
            else:
                yield from _blocks(stream)
        except s2.Corrupt as error:
            raise Unreadable(f"{name}: {error}") from error


def _check_name(data: bytes, name: str, kind: type[_Configuration] | type[_Description]) -> None:
    try:
        read = msgspec.json.decode(data, type=kind)
    except UNREADABLE as error:
        raise Unreadable(f"{name}: this does not describe a stream: {error}") from error
    stream = read.name if isinstance(read, _Configuration) else read.config.name
    if stream != EVENTS:
        raise Unreadable(f"{name}: this is the stream {stream}, not {EVENTS}")


class _Stream:
    """The content of a backup's file, with the present position."""

    def __init__(self, pieces: Iterator[bytes], name: str) -> None:
        self._pieces = pieces
        self.name = name
        self.data = b""
        self.offset = 0
        """The position at which `data` begins."""

    def starts_with(self, magic: bytes) -> bool:
        """Return whether these bytes come next."""
        while len(self.data) < len(magic) and self.more(0):
            pass
        return self.data.startswith(magic)

    def more(self, used: int) -> bool:
        """Drop the used part of `data` and append more; return whether there was more."""
        piece = next(self._pieces, None)
        if piece is None:
            return False
        self.data = self.data[used:] + piece
        self.offset += used
        return True

    def take(self, length: int) -> bytes:
        """Return the next bytes. Raise Unreadable if there are fewer."""
        pieces, missing = [self.data], length - len(self.data)
        while missing > 0:
            piece = next(self._pieces, None)
            if piece is None:
                raise Unreadable(f"{self.name}: the backup is cut off at byte {self.offset}")
            pieces.append(piece)
            missing -= len(piece)
        data = b"".join(pieces)
        self.data = data[length:]
        self.offset += length
        return data[:length]


def _messages(stream: _Stream) -> Iterator[Entry]:
    """Read the archive of nats-server 2.15 and later."""
    stream.take(len(_MAGIC))
    name, data, at, last = stream.name, stream.data, 0, 0
    while True:
        try:
            length = data[at]
            start = at + 1
            if length >= 0x80:
                length, start = _uvarint(data, at)
            time, start = _uvarint(data, start)
            seq = data[start]
            start += 1
            if seq >= 0x80:
                seq, start = _uvarint(data, start - 1)
            headers = data[start]
            start += 1
            if headers >= 0x80:
                headers, start = _uvarint(data, start - 1)
            body = data[start]
            start += 1
            if body >= 0x80:
                body, start = _uvarint(data, start - 1)
            subject_end = start + length
            headers_end = subject_end + headers
            end = headers_end + body
            complete = end <= len(data)
        except IndexError:
            end, complete = at, False
        except ValueError:
            end, complete = at + _LONGEST + 1, False
        if not complete:
            if end - at > _LONGEST:
                raise Unreadable(f"{name}: no entry begins at byte {stream.offset + at}")
            if not stream.more(at):
                raise Unreadable(f"{name}: the backup is cut off at byte {stream.offset + at}")
            data, at = stream.data, 0
            continue
        if seq > last:
            last = seq
            yield Entry(
                seq,
                time >> 1 ^ -(time & 1),
                data[start:subject_end].decode("utf-8", "replace"),
                data[subject_end:headers_end],
                data[headers_end:end],
            )
        elif seq:
            raise Unreadable(f"{name}: sequence {seq} follows {last} at byte {stream.offset + at}")
        elif not length and not time and end == start:
            return
        elif last:
            raise Unreadable(f"{name}: no message begins at byte {stream.offset + at}")
        at = end


def _uvarint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number and its end. Raise IndexError, or ValueError if it is too long."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        if byte < 0x80:
            return value | byte << shift, at
        value |= (byte & 0x7F) << shift
        shift += 7
        if shift > 63:
            raise ValueError("the number is too long")


def _blocks(stream: _Stream) -> Iterator[Entry]:
    """Read the tar of a store folder, as older servers write it."""
    last = 0
    while any(head := stream.take(_RECORD)):
        place = stream.offset - _RECORD
        try:
            member = tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            raise Unreadable(f"{stream.name}: not a backup: {error} at byte {place}") from error
        if member.size < 0:
            raise Unreadable(f"{stream.name}: not a backup: a negative size at byte {place}")
        data = stream.take(member.size)
        stream.take(-member.size % _RECORD)
        name = f"{stream.name}: {member.name}"
        if not member.isreg():
            continue
        if member.name == "errors.txt":
            problem = data.decode("utf-8", "replace")
            raise Unreadable(f"{name}: the server could not write the backup: {problem}")
        if member.name == "meta.inf":
            _check_name(data, name, _Configuration)
        elif member.name.startswith("msgs/") and member.name.endswith(".blk"):
            last = yield from parse_block(data, name, last)
