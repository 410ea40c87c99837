"""Files that child processes write to without end: bounded while they grow, read over a turn.

Children inherit such a file opened with O_APPEND and write to it themselves, so it can't be renamed
away from under them. Instead its newest part is copied to a second file beside it, NAME.1, and it
is emptied in place. What a child writes between the last look at the file and its emptying, a
few microseconds, is lost.

A position counts bytes since this process first knew the file; it stays valid over turns. The file
beside holds what comes before the file itself, so positions before the first turn are negative.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from nebula.events import memory

log = logging.getLogger(__name__)

LIMIT = 64 * memory.MIB
"""Bytes of a file beyond which it is turned over."""

PAUSE = 10.0
"""Seconds between two looks at how large the files are."""

TAIL = 64 * 1024
"""Bytes at the end of a file that are read for its last lines."""

LONGEST_LINE = 2000
"""Characters of a line that are given."""

_BLOCK = 1024 * 1024

_turned: dict[Path, int] = {}
"""For each file that was turned over, the bytes that were taken off its front in all."""


async def keep_bounded(folders: Iterable[Path], limit: int, pause: float = PAUSE) -> None:
    """Look after all *.log files in `folders` for ever; what can't be done is logged."""
    places = tuple(folders)
    said: set[str] = set()
    while True:
        for path in [path for place in places for path in sorted(place.glob("*.log"))]:
            try:
                await turn_over(path, limit)
            except OSError as error:
                if str(error) not in said and len(said) < 100:
                    said.add(str(error))
                    log.warning("can't turn over %s: %s", path, error)
        await asyncio.sleep(pause)


async def turn_over(path: Path, limit: int) -> bool:
    """Turn a file over if it has more than `limit` bytes; return whether it was. Raises OSError.

    Where its newest part can't be copied, as on a full disk, it may have twice as many; then it
    is emptied without a copy, so that it does not fill the disk itself.
    """
    size = _size(path)
    if size <= limit:
        return False
    spare = path.with_name(f"{path.name}.1.new")
    _beside(path).unlink(missing_ok=True)  # first of all, so that there are two files, not three
    try:
        copied = await asyncio.to_thread(_copy, path, spare, limit)
        _copy_on(path, spare, copied)
        spare.replace(_beside(path))
    except OSError:
        spare.unlink(missing_ok=True)
        if size <= 2 * limit:
            raise
        log.error("%s is emptied: there is no room to keep what it says", path)
    # No await from the last copied byte to here: what is lost is what comes in between.
    _turned[path] = _turned.get(path, 0) + _size(path)
    os.truncate(path, 0)
    return True


def end(path: Path) -> int:
    """Return the position at which a file's next byte will be."""
    return _turned.get(path, 0) + _size(path)


def read(path: Path, position: int, most: int) -> tuple[bytes, int]:
    """Return at most `most` bytes from a position on, and the position after them.

    What is not kept any more is passed over; beyond the end, as after a restart of this process,
    it begins with the file itself. Raises OSError where there is no such file.
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
    """Return the last lines since a position, of 64 KiB at most; none where there is no file."""
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


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _copy(path: Path, spare: Path, limit: int) -> int:
    """Copy the last `limit` bytes of a file; return up to which byte, as it may grow meanwhile."""
    with path.open("rb") as source, spare.open("wb") as target:
        at = max(0, source.seek(0, os.SEEK_END) - limit)
        source.seek(at)
        left = limit
        while left > 0 and (block := source.read(min(_BLOCK, left))):
            target.write(block)
            at += len(block)
            left -= len(block)
    return at


def _copy_on(path: Path, spare: Path, at: int) -> None:
    """Copy what has come since; a MiB of it at most, as nothing else happens meanwhile."""
    with path.open("rb") as source, spare.open("ab") as target:
        source.seek(max(at, source.seek(0, os.SEEK_END) - _BLOCK))
        target.write(source.read(_BLOCK))
