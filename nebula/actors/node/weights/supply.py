"""A node's part for files: fetches, measures and removes them, and reports to the log."""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence, Set
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from nebula.actors.node.weights import folder, provision
from nebula.actors.node.weights.bringing import Bringing
from nebula.actors.node.weights.download import Damaged
from nebula.actors.node.weights.folders import Folders
from nebula.actors.node.weights.hub import Hub, Refused, Unreachable
from nebula.actors.node.weights.listing import Malformed, Unlisted
from nebula.actors.node.weights.measuring import Figures, Unmeasurable
from nebula.actors.node.weights.provision import Abandon, Fetch, Files, Local, Measure, Remove
from nebula.actors.projection import Projection
from nebula.events.state import CachedSource, Model, Replica, State
from nebula.events.values import Weights
from nebula.events.vocabulary import (
    EngineFailed,
    Event,
    ModelMeasured,
    WeightsRemoved,
)

log = logging.getLogger(__name__)

OTHERS_TIME = 2.0
"""Seconds that a node which can't measure a model waits for others that may."""

SCAN_TIME = 5.0
"""Seconds that searching the cache may take at the start of a node."""


class Retries(Struct, frozen=True):
    """Pauses before a failed download is tried again, in seconds, doubled each time, without end.

    `damaged`: how many times in a row a file may differ from the hub's list, or the list may not be
    valid.
    """

    pause: float = 1.0
    longest: float = 300.0
    damaged: int = 3

    def after(self, failures: int) -> float:
        """Return the pause after this many failures in a row."""
        return min(self.pause * 2.0 ** min(failures - 1, 64), self.longest)


class Tell(Protocol):
    """Append an event, however long it takes, and return its sequence."""

    def __call__(
        self, identity: str, event: Event, cause: int | None, message_id: str | None = None
    ) -> Coroutine[object, object, int]:
        """`message_id`: of several events with the same id only the first is kept."""


Spawn = Callable[[Coroutine[object, object, None], str], asyncio.Task[None]]


class Supply:
    """The files of one node. `fetches`: whether the node downloads from the hub itself.

    With `rehearses`, its files are those that the log mentions, and the disk is not touched.
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
        self._bringing = Bringing(hub, self._tell_node, lambda: self._held)
        self._ready: set[Files] = set()
        self._busy: set[str] = set()
        self._fetching: dict[Files, asyncio.Task[None]] = {}
        self._retry_at: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._damaged: dict[str, int] = {}
        self._tried: dict[str, int] = {}
        self._looked_at: object = None
        self._folders = Folders(
            lambda: self._held, self._tell_node, spawn, wake, enabled=fetches and not rehearses
        )

    async def held(self) -> tuple[Weights, ...]:
        """Return the sources that are complete on the disk; nothing if that takes too long."""
        if self.rehearses:
            known = self._held.items()
            return tuple(Weights(source, held.total) for source, held in known if held.whole)
        try:
            async with asyncio.timeout(SCAN_TIME):
                return await asyncio.to_thread(self.hub.held)
        except TimeoutError:
            log.warning("searching %s takes too long", self.hub.cache)
            return ()

    def waiting(self, replicas: Sequence[Replica]) -> frozenset[str]:
        """Return the ids of the replicas whose files are not here yet."""
        folders = self._folders.waiting(self._state, replicas)
        return folders | (provision.waiting(replicas, self._ready) if self.fetches else frozenset())

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of engines, so that they use this node's cache of the hub."""
        place = {"HF_HUB_CACHE": str(self.hub.cache)} if self.hub.chosen else {}
        return {**inherited, **place}

    def work(
        self, state: State, replicas: Sequence[Replica], running: Set[str], now: float
    ) -> None:
        """Start whatever is due. `running`: sources of the running engines. `now`: loop time."""
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
                    self._spawn(self._bringing.abandoned(files.source), f"abandon {files.source}")
                case Remove(source=source):
                    self._busy.add(source)
                    self._ready = {files for files in self._ready if files.source != source}
                    self._spawn(self._remove(source), f"remove {source}")
        self._folders.work(state, replicas, now)
        if state.models is not self._looked_at:
            self._looked_at = state.models
            for asked in provision.unmeasured(state, self.node, self._tried):
                self._tried[asked.model] = asked.requested_seq
                self._spawn(self._measure(asked), f"measure {asked.model}")

    @property
    def retries(self) -> Collection[float]:
        """When failed sources may be tried again, by the clock of `work`."""
        return (*self._retry_at.values(), *self._folders.retries)

    # Fetching

    async def _fetch(self, files: Files) -> None:
        source = files.source
        try:
            if await asyncio.to_thread(Path(source).exists):
                self._ready.add(
                    files
                )  # engines treat a source as a folder if one exists, whatever its name
                return
            await self._bringing.bring(files)
        except Exception as error:  # any failure is retried, but not at once
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

    async def _failed(self, files: Files, error: Exception) -> None:
        """Try again later, or report for every waiting replica that it can't start."""
        source = files.source
        if isinstance(error, Damaged | Malformed):
            self._damaged[source] = self._damaged.get(source, 0) + 1
        final = isinstance(error, Refused) or self._damaged.get(source, 0) >= self._retries.damaged
        failures = self._failures.get(source, 0) + 1
        pause = None if final else self._retries.after(failures)
        log.warning("could not fetch %s: %s", source, error)
        await self._bringing.failed(source, str(error), pause)
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
        """Report a model's memory need; report it as unknown only if no other node knows it."""
        reason = ""
        if task.turn and await self._answered(task, task.turn, figures=True):
            return
        try:
            found = await self._figures(task.files)
        except (Unmeasurable, Unreachable, Refused, Malformed, Unlisted, OSError) as error:
            found, reason = Figures(0, 0, 0), str(error)
        except Exception as error:  # files are untrusted: any error is reported
            log.exception("could not measure %s", task.files.source)
            found, reason = Figures(0, 0, 0), f"{type(error).__name__}: {error}"
        if not found.weights:
            await self._folders.missing(task.files.source)
            others = provision.others_may_tell(self._state, self.node, task.files.source)
            patience = OTHERS_TIME if others else 0.0
            if await self._answered(task, patience, figures=False):
                return
        elif await self._answered(task, 0, figures=True):
            return
        event = ModelMeasured(
            task.files.source, found.weights, found.cache_per_token, found.context, reason
        )
        # If two nodes answer at once, only one answer is kept.
        answer = "measured" if found.weights else "unmeasured"
        await self._tell(
            task.model, event, task.requested_seq, f"{answer}-{task.model}-{task.requested_seq}"
        )

    async def _figures(self, files: Files) -> Figures:
        found = await asyncio.to_thread(self._figures_here, files)
        if found is not None:
            return found
        async with self._bringing.asking():
            return await self.hub.measure(files)

    def _figures_here(self, files: Files) -> Figures | None:
        """Return the measurements of files on this disk; None if only the hub has them."""
        path = Path(files.source)
        if path.exists():
            return folder.measure(path)
        if not provision.is_hub_id(files.source):
            raise Unmeasurable(f"node {self.node} has no folder {files.source}")
        cached = self.hub.cached(files)
        return folder.measure(cached) if cached is not None else None

    async def _answered(self, task: Measure, patience: float, *, figures: bool) -> bool:
        """Wait some time for an answer, with figures or any, or until it is no longer needed."""

        def settled(state: State) -> bool:
            model = state.models.get(task.model)
            return (
                model is None
                or model.spec.source != task.files.source
                or (provision.told(model) if figures else _answered(model))
            )

        return await self._projection.until(settled, patience)

    def _look_again(self, source: str) -> None:
        """Downloaded files may show what the hub did not."""
        for model in self._state.models.values():
            if model.spec.source == source and not provision.told(model):
                self._tried.pop(model.id, None)
                self._looked_at = None

    @property
    def _state(self) -> State:
        return self._projection.state

    @property
    def _held(self) -> Mapping[str, CachedSource]:
        node = self._state.nodes.get(self.node)
        return node.weights if node is not None else {}

    async def _tell_node(self, event: Event) -> None:
        await self._tell(self.node, event, None)


def _answered(model: Model) -> bool:
    return model.measured is not None and model.measured.source == model.spec.source


def _now() -> float:
    return asyncio.get_running_loop().time()
