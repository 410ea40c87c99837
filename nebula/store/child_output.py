"""Log files of child processes: rotates them while they grow, and reads across a rotation.

Children inherit such a file opened with O_APPEND and write to it themselves, so it can't be
renamed. Instead its newest part is copied to a second file, NAME.1, and the file is emptied in
place. What a child writes in the few microseconds between the last copied byte and the emptying is
lost.

A position counts bytes since this process first saw the file, and stays valid across rotations. The
second file holds the bytes before the file itself, so its first positions are negative.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from nebula.events import memory
from nebula.store import private

log = logging.getLogger(__name__)

LIMIT = 64 * memory.MIB
"""Size at which a file is rotated, in bytes."""

PAUSE = 10.0
"""Seconds between two checks of the files' sizes."""

TAIL = 64 * 1024
"""Bytes at the end of a file that are searched for its last lines."""

LONGEST_LINE = 2000
"""Longest line that is returned, in characters."""

_BLOCK = 1024 * 1024

_turned: dict[Path, int] = {}
"""For each rotated file, the total of bytes removed from its front."""


async def keep_bounded(folders: Iterable[Path], limit: int, pause: float = PAUSE) -> None:
    """Rotate all *.log files in `folders`, for ever; failures are logged."""
    places = tuple(folders)
    said: set[str] = set()
    while True:
        for path in [path for place in places for path in sorted(place.glob("*.log"))]:
            try:
                await turn_over(path, limit)
            except OSError as error:
                if str(error) not in said and len(said) < 100:
                    said.add(str(error))
                    log.warning("can't rotate %s: %s", path, error)
        await asyncio.sleep(pause)


async def turn_over(path: Path, limit: int) -> bool:
    """Rotate a file if it has more than `limit` bytes; return whether it was. Raise OSError.

    If its newest part can't be copied, as on a full disk, it may grow to twice the limit; then it
    is emptied without a copy, so that it does not fill the disk itself.
    """
    size = _size(path)
    if size <= limit:
        return False
    spare = path.with_name(f"{path.name}.1.new")
    _beside(path).unlink(missing_ok=True)  # removed first, so that there are two files, not three
    try:
        copied = await asyncio.to_thread(_copy, path, spare, limit)
        _copy_on(path, spare, copied)
        spare.replace(_beside(path))
    except OSError:
        spare.unlink(missing_ok=True)
        if size <= 2 * limit:
            raise
        log.error("%s is emptied: there is no room to keep its content", path)
    # No await from the last copied byte to here: bytes in between are lost.
    _turned[path] = _turned.get(path, 0) + _size(path)
    os.truncate(path, 0)
    return True


def end(path: Path) -> int:
    """Return the position of a file's next byte."""
    return _turned.get(path, 0) + _size(path)


def read(path: Path, position: int, most: int) -> tuple[bytes, int]:
    """Return at most `most` bytes from a position on, and the position after them.

    Bytes that are no longer kept are skipped; beyond the end, as after a restart of this process,
    reading begins with the file itself. Raise OSError if there is no such file.
    """
    with path.open("rb") as file:
        front = _turned.get(path, 0)
        size = file.seek(0, os.SEEK_END)
        first = front - _size(_beside(path))
        if position > front + size:
            position = front
        position = max(position, first)
        if position < front:
            with contextlib.suppress(FileNotFoundError), _beside(path).open("rb") as older:
                older.seek(position - first)
                data = older.read(min(most, front - position))
                return data, position + len(data)
            position = front
        file.seek(position - front)
        data = file.read(most)
        return data, position + len(data)


def tail(path: Path, lines: int, start: int | None = None) -> tuple[str, ...]:
    """Return the last lines since a position, of 64 KiB at most; none if there is no file."""
    last = end(path)
    position = last - TAIL if start is None else max(start, last - TAIL)
    parts = []
    try:
        while position < last:
            data, after = read(path, position, TAIL)
            if not data or after <= position:
                break
            parts.append(data)
            position = after
    except OSError:
        return ()
    text = b"".join(parts).decode(errors="replace")
    return tuple(line[:LONGEST_LINE] for line in text.splitlines()[-lines:])


def last_line(file: IO[bytes]) -> str:
    """Return the last line of a file that is open for reading, even if deleted; "" if none."""
    try:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
        lines = file.read(TAIL).decode(errors="replace").splitlines()
    except OSError:
        return ""
    return lines[-1][:LONGEST_LINE] if lines else ""


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _copy(path: Path, spare: Path, limit: int) -> int:
    """Copy the last `limit` bytes of a file, which may grow meanwhile; return the end."""
    with path.open("rb") as source, private.opened(spare, "wb") as target:
        at = max(0, source.seek(0, os.SEEK_END) - limit)
        source.seek(at)
        left = limit
        while left > 0 and (block := source.read(min(_BLOCK, left))):
            target.write(block)
            at += len(block)
            left -= len(block)
    return at


def _copy_on(path: Path, spare: Path, at: int) -> None:
    """Copy what was written since, a MiB at most, because this blocks the event loop."""
    with path.open("rb") as source, spare.open("ab") as target:
        source.seek(max(at, source.seek(0, os.SEEK_END) - _BLOCK))
        target.write(source.read(_BLOCK))
