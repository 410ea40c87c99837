"""A log found on disk: a copy of a server's store folder."""

from collections.abc import Iterator
from pathlib import Path

from nebula.events.original import original
from nebula.events.record import Entry
from nebula.store.blocks import Unreadable, read_blocks
from nebula.store.streams import EVENTS


def read_backup(path: Path) -> Iterator[Entry]:
    """Give the entries of the log that is kept at or below `path`. Raises Unreadable."""
    yield from map(original, read_blocks(_stream(path) / "msgs"))


def _stream(path: Path) -> Path:
    if (path / "msgs").is_dir():
        return path
    found = sorted(each.parent for each in path.rglob("msgs") if each.parent.name == EVENTS)
    if len(found) != 1:
        raise Unreadable(f"{path}: there are {len(found)} streams {EVENTS} below it, not one")
    return found[0]
