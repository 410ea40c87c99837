"""A node's part that sees to files: it fetches, measures and removes them, and tells the log."""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence, Set
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from nebula.actors.node.weights import download, folder, provision
from nebula.actors.node.weights.download import Damaged
from nebula.actors.node.weights.hub import Hub, Listing, Refused, Unlisted, Unreachable
from nebula.actors.node.weights.measuring import Figures, Unmeasurable
from nebula.actors.node.weights.provision import Abandon, Fetch, Files, Local, Measure, Remove
from nebula.actors.projection import Projection
from nebula.events.state import Held, Model, Replica, State
from nebula.events.values import Weights
from nebula.events.vocabulary import (
    DownloadFailed,
    DownloadFinished,
    DownloadProgressed,
    DownloadStarted,
    EngineFailed,
    Event,
    ModelMeasured,
    WeightsRemoved,
)

log = logging.getLogger(__name__)

OTHERS_TIME = 2.0
"""Seconds that a node which can't measure a model leaves to others that may."""

SCAN_TIME = 5.0
"""Seconds that looking through the cache may take at the start of a node."""


class Retries(Struct, frozen=True):
    """How a failed download is tried again: pauses in seconds, growing twofold, without an end.

    `damaged`: how many times in a row a file may be another than the hub lists.
    """

    pause: float = 1.0
    longest: float = 300.0
    damaged: int = 3

    def after(self, failures: int) -> float:
        """Give the pause after so many failures in a row."""
        return min(self.pause * 2.0 ** min(failures - 1, 64), self.longest)


class Tell(Protocol):
    """Appends an event about something, however long it takes, and gives its sequence."""

    def __call__(
        self, identity: str, event: Event, cause: int | None, message_id: str | None = None
    ) -> Coroutine[object, object, int]:
        """`message_id`: of several events with the same one only the first is kept."""


Spawn = Callable[[Coroutine[object, object, None], str], asyncio.Task[None]]


class Supply:
    """The files of one node. `fetches`: whether it fetches from the hub itself.

    One that `rehearses` says of its files what the log says, and touches none on this disk.
    """

    def __init__(
        self,
        node: str,
        hub: Hub,
        projection: Projection,
        *,
        tell: Tell,
        spawn: Spawn,
        wake: Callable[[], None],
        fetches: bool = True,
        rehearses: bool = False,
        retries: Retries,
    ) -> None:
        self.node = node
        self.hub = hub
        self.fetches = fetches and not hub.offline and not rehearses
        self.rehearses = rehearses
        self._projection = projection
        self._tell = tell
        self._spawn = spawn
        self._wake = wake
        self._retries = retries
        self._ready: set[Files] = set()
        self._busy: set[str] = set()
        self._fetching: dict[Files, asyncio.Task[None]] = {}
        self._retry_at: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._damaged: dict[str, int] = {}
        self._tried: dict[str, int] = {}
        self._looked_at: object = None

    async def held(self) -> tuple[Weights, ...]:
        """List what lies whole on the disk; nothing where that takes too long to find out."""
        if self.rehearses:
            known = self._held.items()
            return tuple(Weights(source, held.total) for source, held in known if held.whole)
        try:
            async with asyncio.timeout(SCAN_TIME):
                return await asyncio.to_thread(self.hub.held)
        except TimeoutError:
            log.warning("looking through %s takes too long", self.hub.cache)
            return ()

    def waiting(self, replicas: Sequence[Replica]) -> frozenset[str]:
        """Give the ids of the replicas that can't be started before their files are here."""
        return provision.waiting(replicas, self._ready) if self.fetches else frozenset()

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """Give what engines inherit: they look for the hub's files where this node puts them."""
        place = {"HF_HUB_CACHE": str(self.hub.cache)} if self.hub.chosen else {}
        return {**inherited, **place}

    def work(
        self, state: State, replicas: Sequence[Replica], running: Set[str], now: float
    ) -> None:
        """Begin whatever is due. `running`: sources of the engines that run. `now`: loop time."""
        local = Local(
            self._ready,
            self._busy,
            self._fetching.keys(),
            running,
            self._retry_at,
            now,
            self.fetches,
        )
        for task in provision.provide(state, self.node, replicas, local):
            match task:
                case Fetch(files=files):
                    self._busy.add(files.source)
                    fetching = self._spawn(self._fetch(files), f"fetch {files.source}")
                    self._fetching[files] = fetching
                case Abandon(files=files):
                    self._fetching.pop(files).cancel()
                    self._spawn(self._abandoned(files), f"abandon {files.source}")
                case Remove(source=source):
                    self._busy.add(source)
                    self._ready = {files for files in self._ready if files.source != source}
                    self._spawn(self._remove(source), f"remove {source}")
        if state.models is not self._looked_at:
            self._looked_at = state.models
            for asked in provision.unmeasured(state, self.node, self._tried):
                self._tried[asked.model] = asked.intent
                self._spawn(self._measure(asked), f"measure {asked.model}")

    @property
    def retries(self) -> Collection[float]:
        """When what has failed may be tried again, by the clock of `work`."""
        return self._retry_at.values()

    # Fetching

    async def _fetch(self, files: Files) -> None:
        source = files.source
        try:
            if await asyncio.to_thread(Path(source).exists):
                self._ready.add(files)  # engines take what is a folder for one, whatever its name
                return
            await self._bring(files)
        except Exception as error:  # whatever goes wrong, it is tried again, and not at once
            await self._failed(files, error)
        else:
            self._failures.pop(source, None)
            self._damaged.pop(source, None)
            self._retry_at.pop(source, None)
            self._ready.add(files)
            self._look_again(source)
        finally:
            self._fetching.pop(files, None)
            self._busy.discard(source)
            self._wake()

    async def _abandoned(self, files: Files) -> None:
        """What has come so far stays: who wants it later need not fetch it again."""
        held = self._held.get(files.source)
        if held is not None and not held.whole:
            await self._tell_node(DownloadFailed(files.source, "nobody wants it here any more"))

    async def _bring(self, files: Files) -> None:
        try:
            listing = await asyncio.to_thread(self.hub.listing, files)
        except (Unreachable, Refused) as error:
            found = await asyncio.to_thread(self.hub.cached, files)
            if found is None:
                raise
            log.warning("%s; using %s", error, found)
            await self._tell_whole(files, found.name, await asyncio.to_thread(folder.size, found))
            return
        except Unlisted as error:
            log.warning("%s; it is left to the engine", error)
            return
        if await asyncio.to_thread(self._has, listing):  # in a cache that may be read only
            total = sum(file.size for file in listing.content)
            await self._tell_whole(files, listing.commit, total)
            return
        async with download.turn(self.hub, files.source):
            await self._complete(listing)

    def _has(self, listing: Listing) -> bool:
        found = self.hub.cached(listing.files)
        return found == self.hub.snapshot(listing) and not download.missing(self.hub, listing)

    async def _complete(self, listing: Listing) -> None:
        """Fetch what is not there of a listing, and tell the log of it."""
        files = listing.files
        absent = await asyncio.to_thread(download.missing, self.hub, listing)
        total = sum(file.size for file in listing.content)
        if not absent:
            await asyncio.to_thread(self.hub.link, listing)
            await self._tell_whole(files, listing.commit, total)
            return
        download.check_room(self.hub, listing, absent)
        there = total - sum(file.size for file in absent)
        there += download.begun(self.hub, listing, absent)
        started = _now()
        await self._tell_node(
            DownloadStarted(files.source, listing.commit, len(absent), there, total)
        )
        await self._download(listing, there, total)
        seconds = round(_now() - started, 1)
        await self._tell_node(DownloadFinished(files.source, total, listing.commit, seconds))

    async def _download(self, listing: Listing, done: int, total: int) -> None:
        told, told_at = done, _now()
        there = done

        def progress(more: int) -> None:
            nonlocal there
            there += more

        async def tell_progress() -> None:
            nonlocal told, told_at
            while True:
                await asyncio.sleep(0.5)
                now = _now()
                if provision.worth_telling(told, told_at, there, total, now):
                    told, told_at = there, now
                    source = listing.files.source
                    await self._tell_node(DownloadProgressed(source, there, total))

        telling = asyncio.create_task(tell_progress())
        try:
            await download.fetch(self.hub, listing, progress)
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    async def _tell_whole(self, files: Files, commit: str, size: int) -> None:
        held = self._held.get(files.source)
        if held is None or not held.whole:
            await self._tell_node(DownloadFinished(files.source, size, commit))

    async def _failed(self, files: Files, error: Exception) -> None:
        """Try again later, or tell of every replica that waits for it that it can't start."""
        source = files.source
        if isinstance(error, Damaged):
            self._damaged[source] = self._damaged.get(source, 0) + 1
        final = isinstance(error, Refused) or self._damaged.get(source, 0) >= self._retries.damaged
        failures = self._failures.get(source, 0) + 1
        pause = None if final else self._retries.after(failures)
        log.warning("could not fetch %s: %s", source, error)
        held = self._held.get(source)
        if held is None or (held.reason, held.retry_in) != (str(error), pause):
            await self._tell_node(DownloadFailed(source, str(error), pause))
        if pause is not None:
            self._failures[source] = failures
            self._retry_at[source] = _now() + pause
            return
        self._failures.pop(source, None)
        self._damaged.pop(source, None)
        self._retry_at[source] = _now() + self._retries.pause
        state = self._projection.state
        mine = [replica for replica in state.replicas.values() if replica.node == self.node]
        for replica in provision.waiting_for(mine, source):
            failed = EngineFailed(f"its files can't be fetched: {error}", attempt=1)
            await self._tell(replica.id, failed, replica.changed)

    # Removing

    async def _remove(self, source: str) -> None:
        try:
            if not self.rehearses:
                await asyncio.to_thread(self.hub.remove, source)
            await self._tell_node(WeightsRemoved(source, "asked for"))
        except Exception as error:
            log.warning("could not remove %s: %r", source, error)
            await asyncio.sleep(5)
        finally:
            self._busy.discard(source)
            self._wake()

    # Measuring

    async def _measure(self, task: Measure) -> None:
        """Tell what a model needs; that it can't be told, only if nobody else could in time."""
        reason = ""
        if task.turn and await self._answered(task, task.turn, figures=True):
            return
        try:
            found = await asyncio.to_thread(self._figures, task.files)
        except (Unmeasurable, Unreachable, Refused, Unlisted, OSError) as error:
            found, reason = Figures(0, 0, 0), str(error)
        if not found.weights:
            others = provision.others_may_tell(self._state, self.node, task.files.source)
            patience = OTHERS_TIME if others else 0.0
            if await self._answered(task, patience, figures=False):
                return
        elif await self._answered(task, 0, figures=True):
            return
        event = ModelMeasured(
            task.files.source, found.weights, found.cache_per_token, found.context, reason
        )
        # Of two nodes that answer at once, one is heard.
        answer = "measured" if found.weights else "unmeasured"
        await self._tell(task.model, event, task.intent, f"{answer}-{task.model}-{task.intent}")

    def _figures(self, files: Files) -> Figures:
        path = Path(files.source)
        if path.exists():
            return folder.measure(path)
        if not provision.is_hub_id(files.source):
            raise Unmeasurable(f"node {self.node} has no folder {files.source}")
        cached = self.hub.cached(files)
        return folder.measure(cached) if cached is not None else self.hub.measure(files)

    async def _answered(self, task: Measure, patience: float, *, figures: bool) -> bool:
        """Wait a while for an answer, with figures or any, or for the question to be gone."""

        def settled(state: State) -> bool:
            model = state.models.get(task.model)
            return (
                model is None
                or model.spec.source != task.files.source
                or (provision.told(model) if figures else _answered(model))
            )

        return await self._projection.until(settled, patience)

    def _look_again(self, source: str) -> None:
        """Files that have come may tell what the hub did not."""
        for model in self._state.models.values():
            if model.spec.source == source and not provision.told(model):
                self._tried.pop(model.id, None)
                self._looked_at = None

    @property
    def _state(self) -> State:
        return self._projection.state

    @property
    def _held(self) -> Mapping[str, Held]:
        node = self._state.nodes.get(self.node)
        return node.weights if node is not None else {}

    async def _tell_node(self, event: Event) -> None:
        await self._tell(self.node, event, None)


def _answered(model: Model) -> bool:
    return model.measured is not None and model.measured.source == model.spec.source


def _now() -> float:
    return asyncio.get_running_loop().time()
