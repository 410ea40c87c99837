"""A node's own copies of adapters' files, each in a folder that is named by its digest.

An engine reads an adapter's files again whenever the adapter was evicted from its slots, so
changing files would change the answers of a running engine. It reads these copies, which do not
change.
"""

import asyncio
import hashlib
import os
import shutil
import threading
import uuid
from collections.abc import Collection
from pathlib import Path

from nebula.actors.node import adapter_download, adapter_files
from nebula.actors.node.weights.hub import Hub
from nebula.events import memory
from nebula.events.evolve_adapter import other_version

TRIES = 3
"""Number of tries to copy files that change meanwhile, before they are refused."""

SPARE = 64 << 20
"""Bytes that must stay free on the disk."""

_PIECE = 1 << 20
_FRESH = ".fresh-"


class Unusable(Exception):
    """The files are not available, or are not those of an adapter; the text says why."""


class AdapterCopies:
    """A node's copies of adapters' files. All methods except `fetch` block: call them in a thread.

    A folder without an adapter's files is never given to an engine; the engine validates their
    content. `simulated`: files are simulated, and the disk is not touched.
    """

    def __init__(self, folder: Path, node: str, hub: Hub, *, simulated: bool = False) -> None:
        self._folder = folder
        self._node = node
        self._hub = hub
        self._simulated = simulated
        self._lock = threading.Lock()
        self.taken = 0
        """Counts taken versions: `prune` must know of those taken after its decision."""

    def path(self, source: str, digest: str) -> Path:
        """Return the folder of a taken version of a source."""
        return Path(source) if self._simulated else self._folder / digest

    def problem(self, source: str) -> str:
        """Return why a source's folder is not that of an adapter; "" if it may be."""
        folder = Path(source)
        return adapter_files.problem(source, _names(folder)) if folder.is_absolute() else ""

    async def fetch(self, source: str, digest: str = "") -> None:
        """Fetch a hub's source, unless there is a copy of that version.

        Call it in the event loop, before `take`. Raise Unusable.
        """
        if self._simulated:
            return
        copied = await asyncio.to_thread((self._folder / digest).is_dir) if digest else False
        if copied:
            return
        try:
            await adapter_download.fetch(self._hub, source)
        except adapter_download.Failed as error:
            raise Unusable(str(error)) from error

    def take(self, source: str, digest: str = "") -> str:
        """Copy a source's files, and return their digest.

        With a `digest` it must be that version: an existing copy is enough, whatever the source has
        now. Raise Unusable.
        """
        if self._simulated:
            return digest or hashlib.sha256(source.encode()).hexdigest()
        with self._lock:
            self.taken += 1
            if digest and (self._folder / digest).is_dir():
                return digest
            try:
                return self._take(source, digest)
            except OSError as error:
                raise Unusable(f"the files of {source} can't be copied: {error}") from error

    def any(self) -> bool:
        """Return whether there is at least one copy."""
        return self._folder.is_dir() and next(self._folder.iterdir(), None) is not None

    def prune(self, wanted: Collection[str], taken: int) -> bool:
        """Delete the copies of all other versions, and incomplete copies of an earlier process.

        If versions were taken since the count was `taken`, delete nothing and return False.
        """
        with self._lock:
            if self._simulated or not self._folder.is_dir():
                return True
            if self.taken != taken:
                return False
            for entry in self._folder.iterdir():
                if entry.name not in wanted:
                    shutil.rmtree(entry, ignore_errors=True)
            return True

    def _take(self, source: str, expected: str) -> str:
        folder = self._found(source)
        for _ in range(TRIES):
            names = _names(folder)
            problem = adapter_files.problem(source, names)
            if names is None or problem:
                raise Unusable(problem)
            with (folder / adapter_files.CONFIG).open("rb") as config:
                problem = adapter_files.config_problem(
                    source, config.read(adapter_files.LARGEST + 1)
                )
            if problem:
                raise Unusable(problem)
            files = [folder / name for name in adapter_files.chosen(names)]
            before = _marks(files)
            self._check_room(sum(size for size, _, _ in before))
            fresh = self._folder / f"{_FRESH}{uuid.uuid4().hex}"
            fresh.mkdir(parents=True, mode=0o700)
            try:
                contents = {file.name: _copy(file, fresh / file.name) for file in files}
                if _marks(files) != before:
                    continue
                digest = adapter_files.digest(contents)
                if expected and digest != expected:
                    raise Unusable(other_version(self._node, digest, expected))
                if not (self._folder / digest).is_dir():
                    fresh.rename(self._folder / digest)
                return digest
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
        raise Unusable(f"the files in {source} change while they are copied: try again")

    def _found(self, source: str) -> Path:
        """Return the folder of a source; a hub's source has its folder in the cache."""
        found = adapter_download.found(self._hub, source)
        if found is None:
            raise Unusable(f"{source} can't be fetched from {self._hub.endpoint}: it is not there")
        return found

    def _check_room(self, needed: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        free = shutil.disk_usage(self._folder).free
        if free < needed + SPARE:
            raise Unusable(
                f"{memory.text(needed)} of adapter don't fit on the disk of {self._folder}: "
                f"{memory.text(free)} are free, of which {memory.text(SPARE)} are kept free"
            )


def _names(folder: Path) -> list[str] | None:
    if not folder.is_dir():
        return None
    return [path.name for path in folder.iterdir() if path.is_file()]


def _marks(files: Collection[Path]) -> list[tuple[int, int, int]]:
    """Return what shows that a file has changed: size, modification time, inode."""
    stats = [file.stat() for file in files]
    return [(each.st_size, each.st_mtime_ns, each.st_ino) for each in stats]


def _copy(file: Path, to: Path) -> str:
    """Copy a file so that only its owner can read it; return its SHA-256."""
    sha = hashlib.sha256()
    made = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    with file.open("rb") as old, os.fdopen(made, "wb") as new:
        while piece := old.read(_PIECE):
            sha.update(piece)
            new.write(piece)
        new.flush()
        os.fsync(new.fileno())
    return sha.hexdigest()
