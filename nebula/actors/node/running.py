"""One engine of a node: an entry of its map, with the process and the way to speak to it."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nebula.actors.node import launch, processes
from nebula.actors.node.engine_http import EngineClient, EngineRefused, EngineSilent
from nebula.actors.node.launch import Site
from nebula.actors.node.processes import EngineProcess
from nebula.actors.node.reconciliation import LoadAdapter, UnloadAdapter
from nebula.actors.node.roster import Entry
from nebula.actors.node.standstill import Standstill, Verdict
from nebula.actors.node.starting import Patience
from nebula.events.state import Replica
from nebula.events.values import Device
from nebula.events.vocabulary import AdapterLoaded, AdapterLoadFailed, AdapterUnloaded, Event

log = logging.getLogger(__name__)

UNSENT = 0.3
"""Seconds after which every router knows that an engine is not to be sent requests any more."""


class NodeEngine(Entry):
    """See the module. `hint`: what to say before an engine's own words when it fails.

    `hung`: why its node ends it, where it stood still.
    """

    def __init__(self, replica: Replica, version: int, attempt: int, port: int) -> None:
        super().__init__(replica, version, attempt)
        self.port = port
        self.client = EngineClient(port)
        self.process: EngineProcess | None = None
        self.hint = ""
        self.hung = ""
        self.life: asyncio.Task[None] | None = None
        self.hurried = asyncio.Event()

    async def start(
        self,
        site: Site,
        inventory: Sequence[Device],
        replica: Replica,
        inherited: Mapping[str, str],
        log_file: Path,
    ) -> EngineProcess:
        """Start its process. Raises OSError where that can't be."""
        how = replica.launch
        if how is None:
            raise OSError("no plan says how it is started")
        there = {item.index: item for item in reversed(inventory)}
        absent = [index for index in replica.devices if index not in there]
        if absent:
            raise OSError(f"this node has no device {absent[0]}")
        # vLLM takes one share for all of an engine's GPUs: of the largest, it is none's too much.
        device = max((there[index] for index in replica.devices), key=lambda item: item.memory)
        self.hint = _hint(how.source)
        line = launch.arguments(site, how, replica, device, self.port)
        environ = launch.environment(site, how, replica, device, inherited)
        log.info("starting %s on port %d: %s", replica.id, self.port, " ".join(line))
        self.process = await EngineProcess.start(line, environ, log_file)
        return self.process

    async def becomes_ready(
        self, watching: asyncio.Task[int | None], limit: float, grace: float
    ) -> bool:
        """Wait until it answers; False where it ended before, as `watching` tells.

        `limit`: seconds that it may be silent while it starts, before it is ended as a failure;
        `grace`: those it then gets to end by itself.
        """
        loop, process = asyncio.get_running_loop(), self.process
        patience = Patience(limit, loop.time())
        while not watching.done():
            if await self.client.healthy():
                return True
            size = process.log_size() if process is not None else 0
            overdue = "" if self.stop_reason is not None else patience.look(loop.time(), size)
            if overdue and process is not None:
                log.warning("%s: %s: its start is ended", self.replica, overdue)
                self.hint = f"{overdue}, so its start was ended: "
                await process.end(grace)
                break
            await asyncio.wait((watching,), timeout=processes.POLL)
        return False

    async def look(self, standstill: Standstill, now: Callable[[], float]) -> Verdict:
        """Ask it for its progress, and judge that."""
        try:
            progress = await self.client.progress()
        except EngineSilent:
            return standstill.missed(now())
        if progress is None:
            standstill.untold(now())
            return None
        return standstill.heard(progress, now())

    async def end(self, grace: float, drain: float) -> None:
        """End its process; before that let its requests end, for `drain` seconds or until hurried.

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

    async def adapt(self, action: LoadAdapter | UnloadAdapter) -> Event:
        """Change one of its adapters and give what came of it. Raises EngineSilent."""
        if isinstance(action, UnloadAdapter):
            with contextlib.suppress(EngineRefused):  # it had none: that is what we wanted
                await self.client.unload_adapter(action.name)
            return AdapterUnloaded(action.name)
        try:
            await self.client.load_adapter(action.name, action.source)
        except EngineRefused as error:
            return AdapterLoadFailed(action.name, action.source, str(error))
        return AdapterLoaded(action.name, action.source)


def _hint(source: str) -> str:
    """Say what vLLM does not: it takes a folder that is not there for a bad hub id."""
    if not source.startswith("/") or Path(source).exists():
        return ""
    return f"there is no {source} on this node; the engine says: "
