"""How long a node keeps the logs of replicas that it no longer has, for late questions.

They are removed a week after their last line, and the oldest first if they take more than 256 MiB
or are more than a thousand files. Logs of replicas that are assigned here are kept.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterable, Set
from pathlib import Path

from msgspec import Struct

from nebula.events import memory

log = logging.getLogger(__name__)

AGE = 7 * 24 * 3600.0
SIZE = 256 * memory.MIB
FILES = 1000
EVERY = 60.0
"""Seconds between two checks."""

_NAME = re.compile(r"(.+)\.log(?:\.1(?:\.new)?)?", re.DOTALL)


class LogFile(Struct, frozen=True):
    """One file; `modified` in seconds since the epoch."""

    name: str
    size: int
    modified: float


def expired(files: Iterable[LogFile], held: Set[str], now: float) -> tuple[str, ...]:
    """Return the names of the files to remove; `held`: the replicas of this node."""
    gone = []
    room, count = SIZE, FILES
    for file in sorted(files, key=lambda file: (-file.modified, file.name)):
        match = _NAME.fullmatch(file.name)
        if match is None or match[1] in held:
            continue
        room, count = room - file.size, count - 1
        if now - file.modified > AGE or room < 0 or count < 0:
            gone.append(file.name)
    return tuple(gone)


async def forget_logs(folder: Path, held: Callable[[], Set[str]], every: float = EVERY) -> None:
    """Remove expired logs in a folder, again and again; log once which can't be removed."""
    said: set[str] = set()
    while True:
        try:
            for name in expired(await asyncio.to_thread(_listed, folder), held(), time.time()):
                (folder / name).unlink(missing_ok=True)
                log.info("removed %s: its replica is no longer here", folder / name)
        except OSError as error:
            if str(error) not in said and len(said) < 100:
                said.add(str(error))
                log.warning("can't remove old logs: %s", error)
        await asyncio.sleep(every)


def _listed(folder: Path) -> list[LogFile]:
    found = []
    for path in folder.glob("*.log*"):
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        found.append(LogFile(path.name, stat.st_size, stat.st_mtime))
    return found
