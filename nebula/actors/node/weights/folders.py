"""Checks whether the folders of models are on this node, and reports it to the log.

No engine is started for a missing folder. The node reports it as a source that it could not fetch;
routers then place the model elsewhere, or report it unschedulable with that reason. The folder is
checked again with each new request for the model, and every half minute while it is wanted.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from nebula.actors.node.policy.gate import Gate, NotAllowed
from nebula.actors.node.weights import folder
from nebula.events.engine_options import option
from nebula.events.sources import is_folder
from nebula.events.state import CachedSource, Replica, State
from nebula.events.vocabulary import DownloadFailed, DownloadFinished, Event, WeightsRemoved

log = logging.getLogger(__name__)

EVERY = 30.0
"""Seconds between two checks of a missing folder."""

PATIENCE = 10.0
"""Seconds that a check may take, for example of a hanging share; then the engine is started
anyway."""


DESCRIBED_BY = ("hf-config-path", "config-format")
"""vLLM's options that say where, or in which form, the description of a model is."""


class TellNode(Protocol):
    """Append an event about this node, however long it takes."""

    def __call__(self, event: Event) -> Coroutine[object, object, None]:
        """Append `event`."""
        ...


Spawn = Callable[[Coroutine[object, object, None], str], asyncio.Task[None]]


class Folders:
    """Checks the folders of models. `enabled`: False if this disk is not to be checked.

    `held` returns this node's files according to the log; `wake` lets the node reconcile again.
    """

    def __init__(
        self,
        held: Callable[[], Mapping[str, CachedSource]],
        tell: TellNode,
        spawn: Spawn,
        wake: Callable[[], None],
        *,
        gate: Gate,
        enabled: bool,
    ) -> None:
        self._held = held
        self._tell = tell
        self._spawn = spawn
        self._wake = wake
        self._gate = gate
        self._enabled = enabled
        self._there: dict[tuple[str, int], bool] = {}
        self._described: frozenset[str] = frozenset()
        self._looking: set[str] = set()
        self._again: dict[str, float] = {}
        self._telling = asyncio.Lock()

    def work(self, state: State, replicas: Sequence[Replica], now: float) -> None:
        """Check wanted folders, and forget unwanted ones. `now`: loop time."""
        if not self._enabled:
            return
        held, wanted = self._held(), asked_for(state)
        self._described = described(state)
        self._there = {key: there for key, there in self._there.items() if key[0] in wanted}
        self._again = {source: at for source, at in self._again.items() if source in wanted}
        for source in due(state, replicas, held, self._there, self._again, now):
            if source not in self._looking:
                self._looking.add(source)
                self._spawn(self._look(source, wanted.get(source, 0)), f"look for {source}")
        for source in forgotten(held, wanted):
            if source not in self._looking:
                self._looking.add(source)
                self._spawn(self._forget(source), f"forget {source}")

    def waiting(self, state: State, replicas: Iterable[Replica]) -> frozenset[str]:
        """Return the ids of the replicas whose folder has not been found yet."""
        if not self._enabled:
            return frozenset()
        wanted = asked_for(state)
        return frozenset(
            replica.id
            for replica in replicas
            if (source := folder_of(replica))
            and not self._there.get((source, wanted.get(source, 0)), False)
        )

    @property
    def retries(self) -> Iterable[float]:
        """When missing folders are checked again, by the clock of `work`."""
        return self._again.values()

    async def missing(self, source: str) -> str:
        """Return why no model can be served from a folder; empty if one can. Report changes.

        It is also empty for a source that is not a folder.
        """
        if not self._enabled or not is_folder(source):
            return ""
        reason = await self._unfit(source)
        async with self._telling:
            known = self._held().get(source)
            if reason and (known is None or known.whole or known.reason != reason):
                await self._tell(DownloadFailed(source, reason))
            elif not reason and known is not None and known.reason:
                await self._tell(DownloadFinished(source, await asyncio.to_thread(_size, source)))
        return reason

    async def _unfit(self, source: str) -> str:
        """Return why a folder can't be served; nothing is told of one that the policy refuses."""
        try:
            await self._gate.admit_source(source)
        except NotAllowed as error:
            return str(error)
        return await _looked(source, source in self._described)

    async def _look(self, source: str, asked: int) -> None:
        now = asyncio.get_running_loop().time
        try:
            reason = await self.missing(source)
            self._there[source, asked] = not reason
            if reason:
                log.warning("%s", reason)
                self._again[source] = now() + EVERY
            else:
                self._again.pop(source, None)
        finally:
            self._looking.discard(source)
            self._wake()

    async def _forget(self, source: str) -> None:
        try:
            await self._tell(WeightsRemoved(source, "no model is served from it any more"))
        finally:
            self._looking.discard(source)


def folder_of(replica: Replica) -> str:
    """Return the folder that a replica's next engine is started from; empty if it has none."""
    launch = replica.launch
    if launch is None or replica.retired or replica.given_up or replica.engine is not None:
        return ""
    return launch.source if is_folder(launch.source) else ""


def asked_for(state: State) -> dict[str, int]:
    """Return the wanted folders, each with the last event that requested it."""
    found: dict[str, int] = {}
    for model in state.models.values():
        sources = {model.spec.source, model.launch.source if model.launch is not None else ""}
        for source in sources if not model.unloading else ():
            if is_folder(source):
                found[source] = max(found.get(source, 0), model.requested_seq)
    return found


def due(
    state: State,
    replicas: Iterable[Replica],
    held: Mapping[str, CachedSource],
    there: Mapping[tuple[str, int], bool],
    again: Mapping[str, float],
    now: float,
) -> tuple[str, ...]:
    """Return the folders to check now: those of the next engines, and missing ones.

    `there`: results of checks by folder and requesting event. `again`: when a missing folder is
    due.
    """
    wanted = asked_for(state)
    near = {source for replica in replicas if (source := folder_of(replica))}
    lacking = {source for source, each in held.items() if is_folder(source) and each.reason}
    return tuple(
        source
        for source in sorted(near | (lacking & set(wanted)))
        if (found := there.get((source, wanted.get(source, 0)))) is None
        or (not found and again.get(source, 0.0) <= now)
    )


def forgotten(held: Mapping[str, CachedSource], wanted: Mapping[str, int]) -> tuple[str, ...]:
    """Return the folders that a node has reported and that no model needs any more."""
    return tuple(
        source
        for source, each in held.items()
        if is_folder(source) and source not in wanted and not each.pinned
    )


def described(state: State) -> frozenset[str]:
    """Return the sources for which some load request says where their model is described.

    vLLM then needs no description in the folder itself.
    """
    return frozenset(
        model.spec.source
        for model in state.models.values()
        if any(option(model.spec.options, name) is not None for name in DESCRIBED_BY)
    )


async def _looked(source: str, described: bool) -> str:
    try:
        async with asyncio.timeout(PATIENCE):
            return await asyncio.to_thread(folder.unusable, Path(source), described=described)
    except TimeoutError:
        log.warning("checking %s takes too long: the engine is started anyway", source)
        return ""


def _size(source: str) -> int:
    try:
        path = Path(source)
        return folder.size(path) if path.is_dir() else path.stat().st_size
    except OSError:
        return 0
