"""One engine of a node: an entry of its map, with its process and its HTTP client."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nebula.actors.engine.progress import whose
from nebula.actors.node import engine_sockets, launch, memory_killer, permanent, processes
from nebula.actors.node.adapter_copies import AdapterCopies, Unusable
from nebula.actors.node.engine_http import EngineClient, EngineRefused, EngineSilent
from nebula.actors.node.engine_keys import EngineKey
from nebula.actors.node.engine_table import EngineEntry
from nebula.actors.node.failure import Death, Recent, Sight, death_reason, failure_reason
from nebula.actors.node.launch import Site
from nebula.actors.node.processes import EngineProcess
from nebula.actors.node.reconciliation import LoadAdapter, UnloadAdapter
from nebula.actors.node.secrets import EngineSecrets
from nebula.actors.node.standstill import Standstill, Verdict
from nebula.actors.node.starting import Patience
from nebula.events.state import Replica
from nebula.events.values import Device
from nebula.events.vocabulary import AdapterLoaded, AdapterLoadFailed, AdapterUnloaded, Event

log = logging.getLogger(__name__)

REASON_LINES = 400
"""Lines before the last in which vLLM may give the reason of a failure."""

UNSENT = 0.3
"""Seconds after which every router knows that an engine gets no more requests."""


class ManagedEngine(EngineEntry):
    """One engine of a node. `hint`: text before an engine's own reason when it fails.

    `hung`: why its node ends it, if it stalled, if its start took too long, or on request.
    `recent`: what the node
    saw of its last seconds. `socket`: on which it listens, if not on its TCP port with a `key`.
    `events`: the socket on which it publishes what its KV cache holds, where it does.
    """

    def __init__(
        self,
        replica: Replica,
        version: int,
        attempt: int,
        port: int,
        socket: Path | None,
        key: EngineKey,
        events: Path | None = None,
    ) -> None:
        super().__init__(replica, version, attempt)
        self.port = port
        self.socket = socket
        self.key = key
        self.events = events
        self.client = EngineClient(port, socket, key.text)
        self.process: EngineProcess | None = None
        self.hint = ""
        self.hung = ""
        self.recent: Recent | None = None
        self.life: asyncio.Task[None] | None = None
        self.hurried = asyncio.Event()

    async def start(
        self,
        site: Site,
        inventory: Sequence[Device],
        replica: Replica,
        inherited: Mapping[str, str],
        log_file: Path,
        secrets: EngineSecrets,
    ) -> EngineProcess:
        """Start its process. Raise OSError if that fails, and SecretMissing."""
        how = replica.launch
        if how is None:
            raise OSError("no plan says how it is started")
        there = {item.index: item for item in reversed(inventory)}
        absent = [index for index in replica.devices if index not in there]
        if absent:
            raise OSError(f"this node has no device {absent[0]}")
        # vLLM applies one fraction to all GPUs; computed from the largest, it never over-commits
        # another.
        device = max((there[index] for index in replica.devices), key=lambda item: item.memory)
        self.hint = _hint(how.source)
        if self.socket is not None:
            engine_sockets.prepare(self.socket)
        else:
            self.key.write()
        events = self.events if launch.publishes(site, how) else None
        if events is not None:
            engine_sockets.prepare(events)
        line = launch.arguments(site, how, replica, device, self.port, self.socket, events)
        given = await secrets.give(replica)
        key = "" if self.socket is not None else self.key.text
        environ = launch.environment(
            site, how, replica, device, self.port, inherited, given, key, events
        )
        log.info("starting %s on port %d: %s", replica.id, self.port, " ".join(line))
        self.process = await EngineProcess.start(line, environ, log_file)
        self.process.mask = await secrets.mask(replica)
        return self.process

    async def becomes_ready(
        self, folder: str, watching: asyncio.Task[int | None], limit: float, grace: float
    ) -> bool:
        """Wait until it answers; return False if it ends before, as `watching` reports.

        `folder`: its node's, by which it is known from what else may listen on its port. `limit`:
        seconds without output after which a start is ended as failed; `grace`: seconds that it then
        gets to end by itself.
        """
        loop, process = asyncio.get_running_loop(), self.process
        patience, own = Patience(limit, loop.time()), whose(folder, self.replica)
        while not watching.done():
            # An older bridge, which an adopted engine may have, does not say whose it is.
            older = process is not None and process.adopted
            if await self.client.healthy() and (older or await self.client.answers_as(own)):
                return True
            size = process.log_size() if process is not None else 0
            overdue = "" if self.stop_reason is not None else patience.look(loop.time(), size)
            if overdue and process is not None:
                log.warning("%s: %s: its start is ended", self.replica, overdue)
                self.hung = f"{overdue}, so its start was ended"
                await process.end(grace)
                break
            await asyncio.wait((watching,), timeout=processes.POLL)
        return False

    def seen(self, process: EngineProcess, now: float) -> None:
        """Note the size of its output so far; for an adopted serving engine, count from now on."""
        anew = self.recent is None and not (process.adopted and self.ready)
        position = process.log_start if anew else process.log_size()
        sight = Sight(now, position, memory_killer.killings())
        if self.recent is None:
            self.recent = Recent(sight)
        else:
            self.recent.note(sight)

    def words(self, process: EngineProcess, code: int | None, now: float) -> str:
        """Return how its process ended, and why, as far as its last output tells."""
        before = self.recent.before(now) if self.recent is not None else None
        killings, then = memory_killer.killings(), before.killings if before is not None else None
        death = Death(
            code, process.adopted, None if killings is None or then is None else killings - then
        )
        since = before.position if before is not None else None
        return death_reason(death, failure_reason(process.tail(REASON_LINES, since)))

    def remedy(self, code: int | None, reason: str) -> str:
        """Return what to do about its end, if another start would end the same way; else ""."""
        if self.ready_since is not None or self.hung:
            return ""
        return permanent.remedy(reason, code, self.source)

    async def look(self, standstill: Standstill, now: Callable[[], float]) -> Verdict:
        """Ask it for its progress, and return the verdict."""
        try:
            progress = await self.client.progress()
        except EngineSilent:
            return standstill.missed(now())
        if progress is None:
            standstill.untold(now())
            return None
        return standstill.heard(progress, now())

    async def end(self, grace: float, drain: float) -> None:
        """End its process, after its requests have had `drain` seconds or until hurried.

        `grace`: seconds that the process then gets to end by itself.
        """
        process = self.process
        if process is None:
            return
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + drain, UNSENT
        while self.ready and process.alive and loop.time() < deadline:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.hurried.wait(), pause)
                break
            if not await self.client.requests():
                break
            pause = processes.POLL
        await process.end(grace)

    async def adapt(self, action: LoadAdapter | UnloadAdapter, copies: AdapterCopies) -> Event:
        """Change one of its adapters, and return the event of the outcome. Raise EngineSilent."""
        name, digest = action.name, action.digest
        if isinstance(action, UnloadAdapter):
            with contextlib.suppress(EngineRefused):  # it had none, which is the goal
                await self.client.unload_adapter(name, digest)
            return AdapterUnloaded(name, digest=digest)
        source, path = action.source, ""
        try:
            await copies.fetch(source, digest)
            digest = await asyncio.to_thread(copies.take, source, digest)
            path = str(copies.path(source, digest))
            await self.client.load_adapter(name, digest, path)
        except Unusable as error:
            return AdapterLoadFailed(name, source, str(error), asked=action.asked)
        except EngineRefused as error:
            said = str(error).replace(path, source)
            problem = await asyncio.to_thread(copies.problem, source)
            said = f"{problem}; the engine says: {said}" if problem else said
            return AdapterLoadFailed(name, source, said, asked=action.asked)
        return AdapterLoaded(name, source, digest=digest, asked=action.asked)


def _hint(source: str) -> str:
    """Return a hint for a missing folder, which vLLM takes for a bad hub id."""
    if not source.startswith("/") or Path(source).exists():
        return ""
    return f"there is no {source} on this node; the engine says: "
