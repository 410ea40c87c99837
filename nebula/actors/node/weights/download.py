"""Downloads a source's files into the hub's cache: resumes broken downloads, checks all hashes.

The hub's own library restarts a broken file, and does not hash files that it gets over plain HTTP.
"""

import asyncio
import contextlib
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO

import httpx

from nebula.actors.node.weights import answers
from nebula.actors.node.weights.hub import Busy, Hub, Unreachable
from nebula.actors.node.weights.listing import File, Listing
from nebula.events import memory

SIDE_BY_SIDE = 4
"""Number of files that are downloaded at a time."""

BLOCK = 4 * 1024 * 1024
"""Bytes that are hashed and written at a time, in a thread."""

FLUSH = 2.0
"""Seconds after which fewer bytes are written too, so that slow files show progress."""

SPARE = 256 * memory.MIB
"""Free bytes of the disk that a download must leave."""

SILENCE = 30.0
"""Seconds without data after which a connection counts as broken."""

POLL = 0.5
"""Seconds between two checks whether a source's lock is free."""

TRIES = 5
"""Answers in a row without new bytes after which a download gives up."""

WINDOW = 120.0
"""Window in seconds, in each of which a file must make progress, including pauses and restarts."""

LEAST = 1024
"""Bytes per second, averaged over a window, that a file must gain: with less it would never end.
Bytes that were there before do not count."""


class Damaged(Exception):
    """A file differs from what the hub lists."""


class NoRoom(Exception):
    """The disk has too little room for the files."""


PAUSE = 1.0
"""Seconds before a broken connection is repeated; doubled after each one without data."""

Progress = Callable[[int], None]
"""Called with how many more bytes are there; negative if some must be fetched again."""


def missing(hub: Hub, listing: Listing) -> tuple[File, ...]:
    """Return the missing files, small ones first, each blob once."""
    absent = {
        file.etag: file
        for file in listing.content
        if not _is_there(hub.blob(listing.files.source, file), file)
        and not _is_there(hub.snapshot(listing) / file.path, file)
    }
    return tuple(sorted(absent.values(), key=lambda file: (file.size, file.path)))


def begun(hub: Hub, listing: Listing, files: tuple[File, ...]) -> int:
    """Return how many bytes of missing files an earlier try has left."""
    return sum(_part_size(hub.blob(listing.files.source, file), file) for file in files)


def check_room(hub: Hub, listing: Listing, files: tuple[File, ...]) -> None:
    """Raise NoRoom if the disk has too little room for the missing files."""
    wanted = sum(file.size for file in files) - begun(hub, listing, files)
    hub.cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(hub.cache).free
    if wanted + SPARE > free:
        raise NoRoom(
            f"{listing.files.source} needs {memory.text(wanted)} more on the disk of {hub.cache}, "
            f"which has {memory.text(free)} left"
        )


@contextlib.asynccontextmanager
async def turn(hub: Hub, source: str) -> AsyncIterator[None]:
    """Wait until no other process with the same cache uses a source. Raise OSError."""
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(hub.locked(source))
                break
            except Busy:
                await asyncio.sleep(
                    POLL
                )  # the kernel does not notify when a file's lock becomes free
        yield


async def fetch(hub: Hub, listing: Listing, progress: Progress) -> None:
    """Download all files of a listing into the cache and link them; call it in turn.

    Raise Unreachable, Damaged, and OSError if the disk fails.
    """
    slots = asyncio.Semaphore(SIDE_BY_SIDE)
    headers = await hub.headers(listing.files)
    async with httpx.AsyncClient(timeout=httpx.Timeout(SILENCE), headers=headers) as client:

        async def one(file: File) -> None:
            async with slots:
                blob = hub.blob(listing.files.source, file)
                await _Download(client, hub.url(listing, file), blob, file, progress).run()

        try:
            async with asyncio.TaskGroup() as group:
                for file in await asyncio.to_thread(missing, hub, listing):
                    group.create_task(one(file))
        except* (Unreachable, Damaged, OSError) as failures:
            raise _first(failures) from None
    await asyncio.to_thread(hub.link, listing)


class _Download:
    """The download of one file, from its start or from where an earlier try ended."""

    def __init__(
        self, client: httpx.AsyncClient, url: str, blob: Path, file: File, progress: Progress
    ) -> None:
        self._client = client
        self._url = url
        self._blob = blob
        self._file = file
        self._progress = progress
        self._done = 0
        self._most = 0
        """The largest number of bytes so far: a hub that restarts each time makes no progress."""
        self._ranges = True
        self._pace = _Pace(0, asyncio.get_running_loop().time())
        self._digest = _digest(file)

    async def run(self) -> None:
        self._blob.parent.mkdir(parents=True, exist_ok=True)
        part = _part(self._blob)
        if _part_size(self._blob, self._file) == 0:
            part.unlink(missing_ok=True)
        with part.open("ab+") as output:
            output.seek(0)
            while await asyncio.to_thread(self._take_up, output):
                pass  # in pieces, because a thread can't be cancelled and the file may be large
            failures, self._most = 0, self._done
            self._pace = _Pace(self._most, asyncio.get_running_loop().time())
            while self._done < self._file.size:
                before = self._most
                try:
                    async with asyncio.timeout_at(self._pace.until) as limit:
                        await self._stream(output, limit)
                    broken = "the hub's answer was too short"
                except TimeoutError:
                    raise Unreachable(
                        f"{self._file.path} is too slow: less than {LEAST * WINDOW:.0f} "
                        f"bytes in {WINDOW:.0f} s, at byte {self._most} of {self._file.size}"
                    ) from None
                except answers.FAULTS as error:
                    broken = f"{type(error).__name__} {error}".strip()
                except _OtherPart as error:
                    self._ranges, broken = False, str(error)
                if self._done < self._file.size:
                    failures = failures + 1 if self._most <= before else 1
                    if failures >= TRIES:
                        raise Unreachable(
                            f"{self._file.path} broke off {failures} times in a row at byte "
                            f"{self._done} of {self._file.size}: {broken}"
                        )
                    await asyncio.sleep(PAUSE * 2 ** (failures - 1))
            await asyncio.to_thread(_flush, output)
        found = self._digest.hexdigest()
        if found != self._file.etag:
            part.unlink()
            self._progress(-self._done)
            raise Damaged(
                f"{self._file.path} is not what the hub lists: its "
                f"{'SHA-256' if self._file.sha256 else 'git hash'} is {found}, "
                f"not {self._file.etag}"
            )
        part.replace(self._blob)

    def _take_up(self, output: IO[bytes]) -> bool:
        """Hash a piece of what an earlier try has left; return False at its end."""
        block = output.read(BLOCK)
        self._digest.update(block)
        self._done += len(block)
        return bool(block)

    async def _stream(self, output: IO[bytes], limit: asyncio.Timeout) -> None:
        loop = asyncio.get_running_loop()
        begin = {"Range": f"bytes={self._done}-"} if self._done and self._ranges else {}
        async with answers.opened(self._client, self._url, begin) as answer:
            _check(answer, self._url, self._done if begin else 0, self._file)
            if answer.status_code == 200 and self._done:
                self._start_over(output)  # it does not support ranges
            pending, written = bytearray(), loop.time()
            try:
                async for piece in answer.aiter_raw():
                    pending += piece
                    there = self._done + len(pending)
                    limit.reschedule(self._pace.until_after(there, loop.time()))
                    if there >= self._file.size:
                        break  # any further bytes are not part of the file
                    if len(pending) >= BLOCK or loop.time() - written >= FLUSH:
                        block, pending, written = bytes(pending), bytearray(), loop.time()
                        await asyncio.to_thread(self._write, output, block)
            except (httpx.TransportError, asyncio.CancelledError):
                self._write(output, bytes(pending))  # the bytes before the break are valid
                raise
            await asyncio.to_thread(self._write, output, bytes(pending))

    def _write(self, output: IO[bytes], block: bytes) -> None:
        block = block[: self._file.size - self._done]
        output.write(block)
        output.flush()
        self._digest.update(block)
        self._done += len(block)
        self._most = max(self._most, self._done)
        self._progress(len(block))

    def _start_over(self, output: IO[bytes]) -> None:
        output.truncate(0)
        self._progress(-self._done)
        self._done = 0
        self._digest = _digest(self._file)


class _OtherPart(Exception):
    """The hub does not send the requested part of a file."""


class _Pace:
    """The deadline by which a file must have gained enough bytes."""

    def __init__(self, most: int, now: float) -> None:
        self.until = now + WINDOW
        self._wanted = most + LEAST * WINDOW

    def until_after(self, there: int, now: float) -> float:
        """Return the deadline at this number of bytes; a new window begins when one was met."""
        if there >= self._wanted:
            self.until = now + WINDOW
            self._wanted = there + LEAST * WINDOW
        return self.until


def _check(answer: httpx.Response, url: str, begin: int, file: File) -> None:
    """Check that an answer is the file's bytes from `begin` on.

    Raise Unreachable if it is something else, _OtherPart if requesting the whole file may help.
    """
    if answer.status_code == 416 and begin:
        raise _OtherPart(f"{url} answers 416 to bytes from {begin} on")
    if answer.status_code != 200 and not (answer.status_code == 206 and begin):
        raise Unreachable(f"{url} answers {answer.status_code}")
    kind = str(answer.headers.get("Content-Type", "")).partition(";")[0].strip().lower()
    if kind == "text/html" and not file.path.endswith((".html", ".htm")):
        raise Unreachable(f"{url} answers with a web page instead of the file")
    encoding = str(answer.headers.get("Content-Encoding", "")).strip().lower()
    if encoding not in ("", "identity"):
        raise Unreachable(f"{url} answers with the file in {encoding}, which was not requested")
    if answer.status_code == 206:
        if not _begins(answer, begin):
            raise _OtherPart(f"{url} answers with another part than requested")
        return
    length = str(answer.headers.get("Content-Length", ""))
    if length.isdecimal() and int(length) != file.size:
        raise Unreachable(
            f"{url} answers with {int(length)} bytes, the hub lists {file.size} for this file"
        )


def _digest(file: File) -> "hashlib._Hash":
    if file.sha256:
        return hashlib.sha256()
    return hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)


def _begins(answer: httpx.Response, at: int) -> bool:
    return str(answer.headers.get("Content-Range", "")).startswith(f"bytes {at}-")


def _part(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.incomplete")


def _part_size(blob: Path, file: File) -> int:
    """Return how many bytes of a file there are; 0 if there are more than the file has."""
    try:
        size = _part(blob).stat().st_size
    except OSError:
        return 0
    return size if size <= file.size else 0


def _is_there(path: Path, file: File) -> bool:
    try:
        return path.stat().st_size == file.size
    except OSError:
        return False


def _flush(output: IO[bytes]) -> None:
    output.flush()
    os.fsync(output.fileno())


def _first(failures: BaseExceptionGroup[Exception]) -> Exception:
    found: BaseException = failures
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found if isinstance(found, Exception) else Unreachable(str(found))
