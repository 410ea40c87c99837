"""Downloads sources from the hub into a node's cache in turn, and reports to the log."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping

from nebula.actors.node.weights import download, folder, provision
from nebula.actors.node.weights.hub import Hub, Refused, Unreachable
from nebula.actors.node.weights.listing import Listing, Malformed, Unlisted
from nebula.actors.node.weights.provision import Files
from nebula.actors.node.weights.slots import Slots
from nebula.events import memory
from nebula.events.state import CachedSource
from nebula.events.vocabulary import (
    DownloadFailed,
    DownloadFinished,
    DownloadProgressed,
    DownloadStarted,
    DownloadWaits,
    Event,
)

log = logging.getLogger(__name__)

ASKS = 8
"""Number of file lists that are requested from the hub at a time."""

WORTH_TELLING = 2.0
"""Seconds after which a wait is reported, since the log keeps each report for ever."""

RETELL = 30.0
"""Seconds between two checks whether the reason for waiting has changed."""

LOOK = 1.0
"""Seconds between two checks of whose turn it is, while downloads wait."""


class Bringing:
    """The downloads of a node.

    `tell` appends an event of the node; `held` returns the node's files according to the log.
    """

    def __init__(
        self,
        hub: Hub,
        tell: Callable[[Event], Coroutine[object, object, None]],
        held: Callable[[], Mapping[str, CachedSource]],
    ) -> None:
        self._hub = hub
        self._tell = tell
        self._held = held
        self._asking = asyncio.Semaphore(ASKS)
        self._slots = Slots()
        self._begun: dict[str, asyncio.Event] = {}
        self._running: dict[str, asyncio.Timeout] = {}
        self._waits_told: set[str] = set()

    async def asked(self, files: Files) -> Listing:
        """Return the hub's list of a source's files, in turn. Raise the errors of `Hub.listing`."""
        async with self.asking():
            return await self._hub.listing(files)

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Wait for the turn of a short request to the hub."""
        async with self._asking:
            yield

    async def bring(self, files: Files) -> None:
        """Download a source, unless it is here already or can't be listed. Raise the reason."""
        source = files.source
        try:
            async with self._telling(source, lambda: "asks the hub for its files"):
                listing = await self.asked(files)
        except (Unreachable, Refused, Malformed) as error:
            found = await asyncio.to_thread(self._hub.cached, files)
            if found is None:
                raise
            log.warning("%s; using %s", error, found)
            await self._tell_whole(files, found.name, await asyncio.to_thread(folder.size, found))
            return
        except Unlisted as error:
            log.warning("%s; it is left to the engine", error)
            if source in self._waits_told:
                await self.failed(source, f"{error}; its engine fetches it", None)
            return
        if await asyncio.to_thread(self._has, listing):  # in a cache that is read-only
            total = sum(file.size for file in listing.content)
            await self._tell_whole(files, listing.commit, total)
            return
        async with contextlib.AsyncExitStack() as turn:
            text = "waits for another process, which fetches or removes it in the same cache"
            async with self._telling(source, lambda: text):
                await turn.enter_async_context(download.turn(self._hub, source))
            await self._complete(listing)

    async def failed(self, source: str, reason: str, pause: float | None) -> None:
        """Report that a source could not be fetched, unless that was the last report."""
        held = self._held().get(source)
        told = held is not None and (held.reason, held.retry_in) == (reason, pause)
        if not told or source in self._waits_told:
            self._waits_told.discard(source)
            await self._tell(DownloadFailed(source, reason, pause))

    async def abandoned(self, source: str) -> None:
        """Report that a source is no longer wanted. Its partial files stay for a later download."""
        held = self._held().get(source)
        if held is None or not held.whole:
            if held is not None or source in self._waits_told:
                await self.failed(source, "it is no longer wanted here", None)
        elif source in self._waits_told:
            self._waits_told.discard(source)
            await self._tell(DownloadFinished(source, held.total))

    def _has(self, listing: Listing) -> bool:
        found = self._hub.cached(listing.files)
        return found == self._hub.snapshot(listing) and not download.missing(self._hub, listing)

    async def _complete(self, listing: Listing) -> None:
        """Fetch the missing files of a listing, and report to the log."""
        files = listing.files
        absent = await asyncio.to_thread(download.missing, self._hub, listing)
        total = sum(file.size for file in listing.content)
        if not absent:
            await asyncio.to_thread(self._hub.link, listing)
            await self._tell_whole(files, listing.commit, total)
            return
        download.check_room(self._hub, listing, absent)
        async with self._turn(files.source):
            download.check_room(self._hub, listing, absent)
            there = total - sum(file.size for file in absent)
            there += download.begun(self._hub, listing, absent)
            started = _now()
            self._waits_told.discard(files.source)
            await self._tell(
                DownloadStarted(files.source, listing.commit, len(absent), there, total)
            )
            await self._download(listing, there, total)
        seconds = round(_now() - started, 1)
        await self._tell(DownloadFinished(files.source, total, listing.commit, seconds))

    @contextlib.asynccontextmanager
    async def _turn(self, source: str) -> AsyncIterator[None]:
        """Wait for a download's turn. Raise Unreachable in the block when it must make way."""
        begun = self._begun[source] = asyncio.Event()
        self._slots.wait(source, _now())
        try:
            async with self._telling(source, self._behind):
                while not begun.is_set():
                    self._look()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(LOOK):
                            await begun.wait()
            async with asyncio.timeout(None) as made:
                self._running[source] = made
                yield
        except TimeoutError as error:
            limit = self._running.get(source)
            if limit is None or not limit.expired():
                raise
            pace = memory.text(int(self._slots.pace(source)))
            raise Unreachable(
                f"{source} arrives at {pace} a second and others wait: it makes way, and "
                "continues later"
            ) from error
        finally:
            del self._begun[source]
            self._running.pop(source, None)
            self._slots.leave(source)
            self._look()

    def _look(self) -> None:
        turns = self._slots.turns(_now())
        for source in turns.begin:
            self._begun[source].set()
        limit = self._running.get(turns.end) if turns.end is not None else None
        if limit is not None and not limit.expired():
            limit.reschedule(_now())

    def _behind(self) -> str:
        """Return in words which downloads a waiting one waits for."""
        running = self._slots.running
        more = f" and {len(running) - 3} more" if len(running) > 3 else ""
        return f"waits for a free download: {', '.join(running[:3])}{more}"

    async def _download(self, listing: Listing, done: int, total: int) -> None:
        source = listing.files.source
        told, told_at = done, _now()
        there = done

        def progress(more: int) -> None:
            nonlocal there
            there += more

        async def tell_progress() -> None:
            nonlocal told, told_at
            while True:
                now = _now()
                self._slots.came(source, there, now)
                if provision.worth_telling(told, told_at, there, total, now):
                    told, told_at = there, now
                    await self._tell(DownloadProgressed(source, there, total))
                await asyncio.sleep(0.5)

        async with _beside(tell_progress()):
            await download.fetch(self._hub, listing, progress)

    @contextlib.asynccontextmanager
    async def _telling(self, source: str, say: Callable[[], str]) -> AsyncIterator[None]:
        """Report what a source waits for, if the wait is long enough."""

        async def tell() -> None:
            await asyncio.sleep(WORTH_TELLING)
            told = ""
            while True:
                if (text := say()) != told:
                    told = text
                    self._waits_told.add(source)
                    await self._tell(DownloadWaits(source, text))
                await asyncio.sleep(RETELL)

        async with _beside(tell()):
            yield

    async def _tell_whole(self, files: Files, commit: str, size: int) -> None:
        held = self._held().get(files.source)
        if held is None or not held.whole or files.source in self._waits_told:
            self._waits_told.discard(files.source)
            await self._tell(DownloadFinished(files.source, size, commit))


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Run a coroutine for the duration of the block."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _now() -> float:
    return asyncio.get_running_loop().time()
