"""The life cycle of all actors: connect, catch up with the log, work until stopped.

An actor ends only when it is stopped or must not continue (another log, streams with wrong
settings); bad messages and lost connections never end it.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from nats.js.api import StreamConfig

from nebula.actors.founding import found
from nebula.actors.greeting import greeting
from nebula.actors.projection import Projection
from nebula.events.log_fields import event_fields
from nebula.store.connection import Connection, Unavailable
from nebula.store.log import Log
from nebula.store.snapshots import Snapshots
from nebula.store.tail import LogReplaced
from nebula.store.upkeep import Upkeep, all_streams

log = logging.getLogger(__name__)


SNAPSHOT_EVERY = 10_000
"""Events after which a snapshot is due: about the most that a start has to fold."""


SNAPSHOT_JITTER = 2.0
"""Seconds over which the actors that notice a due snapshot are spread."""


class Actor:
    """A process of the cluster: override `begin`, `work` and `end`."""

    makes_snapshots = False
    """Whether it makes the snapshots that later starts believe."""

    keeps_streams = True
    """Whether it creates and repairs the streams in memory."""

    def __init__(self, connection: Connection, *, stream_replicas: int = 1) -> None:
        self.connection = connection
        self.log = Log(connection, replicas=stream_replicas)
        self.projection = Projection(self.log)
        self.cluster = ""
        """Name or id of the cluster that the log must belong to; empty: any."""
        self.traceparent_of: Callable[[int], str] = no_trace
        """Returns the `traceparent` of an event's span; "" if this process makes no spans."""
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._snapshots_gone = asyncio.Event()
        self._upkeep = Upkeep(
            connection,
            stream_replicas,
            lambda: len(self.projection.state.nodes),
            lambda: self.projection.state.cluster.version == 0,
            self._snapshots_gone.set,
            self._streams(stream_replicas),
        )

    def _streams(self, replicas: int) -> tuple[StreamConfig, ...]:
        """Return the streams that it looks after."""
        log, *in_memory, snapshots = all_streams(replicas)
        return (
            log,
            *(in_memory if self.keeps_streams else ()),
            *((snapshots,) if self.makes_snapshots else ()),
        )

    def stop(self) -> None:
        """Ask the actor to end; `run` returns once it has ended."""
        self._stopping.set()

    def hurry(self) -> None:
        """Ask an ending actor to end at once."""

    @property
    def stopping(self) -> bool:
        """Whether the actor was asked to end."""
        return self._stopping.is_set()

    async def run(self) -> None:
        """Run until `stop` is called. Raise the error that makes continuing impossible."""
        stopping = asyncio.create_task(self._stopping.wait(), name="wait for stop")
        opening = asyncio.create_task(self._open(), name="connect")
        prevented = asyncio.create_task(self.connection.prevented(), name="wait for a refusal")
        await asyncio.wait((opening, stopping, prevented), return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            await cancel([opening, stopping])
            if not prevented.done():
                await cancel([prevented])
                return
            prevented.result()
        opening.result()
        following = asyncio.create_task(self.projection.run(), name="follow the log")
        working: asyncio.Task[None] | None = None
        barred = asyncio.create_task(self.connection.barred(), name="wait for a revocation")
        keeping = asyncio.create_task(self._upkeep.run(), name="keep streams")
        starting = asyncio.create_task(self._start(following, stopping), name="start")
        try:
            await asyncio.wait((starting, prevented), return_when=asyncio.FIRST_COMPLETED)
            if prevented.done():
                await cancel([starting])
                prevented.result()
            if starting.result():
                prevented.cancel()  # from now on it is logged, and ends nothing
                self.greet()
                if self.makes_snapshots:
                    self.spawn(self._keep_snapshots(), "keep snapshots")
                working = asyncio.create_task(self.work(), name="work")
                await asyncio.wait(
                    (following, working, keeping, barred, stopping),
                    return_when=asyncio.FIRST_COMPLETED,
                )
            for task in (following, keeping, barred, working):
                if task is not None and task.done():
                    task.result()
        finally:
            self.stop()
            await self.end()
            own = (following, keeping, barred, stopping, starting, prevented)
            await cancel([*own, *([working] if working else []), *self._tasks])

    async def _start(self, following: asyncio.Task[None], stopping: asyncio.Task[bool]) -> bool:
        """Catch up with the log and get ready; return False if that ends before. Raise NotLetIn."""
        if await self._caught_up(following, stopping) and await self._founded(following, stopping):
            await self.begin()
            await self.connection.heard()
            return True
        return False

    async def _open(self) -> None:
        await self.connection.open()
        await self.log.open()
        await self.projection.restore()
        if self.keeps_streams:
            self.connection.on_reconnect(self._on_return_of_nats)

    async def _on_return_of_nats(self) -> None:
        self.spawn(self._restore_memory(), "restore the streams in memory")

    async def _restore_memory(self) -> None:
        """A restarted server has lost what was in its memory, including streams."""
        while self.connection.connected:
            try:
                await self.log.restore_memory()
                return
            except Unavailable as error:
                log.warning("%s", error)
                await asyncio.sleep(0.5)

    async def begin(self) -> None:
        """Get ready; the log has been folded up to now."""

    @property
    def title(self) -> str:
        """The name that its log lines begin with."""
        return self.connection.name

    def greet(self) -> None:
        """Log that it has joined the cluster, and which one."""
        log.info("%s", greeting(self.title, self.projection.state, self.connection.shown))

    async def work(self) -> None:
        """Do the actor's work; it must not return before it is cancelled."""
        await asyncio.Event().wait()

    async def end(self) -> None:
        """Release what `begin` acquired; also called if `begin` was never reached."""

    async def _keep_snapshots(self) -> None:
        """Make a snapshot whenever one is due and no other router has made it."""
        snapshots = Snapshots(self.log)
        newest = 0
        while True:
            if await self._snapshot_due(newest + SNAPSHOT_EVERY):
                newest = 0
            # All routers notice at the same event: one that waits longer finds the work done.
            await asyncio.sleep(random.uniform(0, SNAPSHOT_JITTER))
            try:
                newest = max([newest, *await snapshots.seqs()])
                state = self.projection.state
                if state.seq - newest >= SNAPSHOT_EVERY:
                    await snapshots.put(state)
                    newest = state.seq
                    log.info("made a snapshot at event %d", newest, extra=event_fields(newest))
            except Unavailable as error:
                log.warning("%s", error)
                await asyncio.sleep(10)

    async def _snapshot_due(self, seq: int) -> bool:
        """Wait until a snapshot is due; return whether the previous ones are gone."""
        reached = asyncio.ensure_future(self.projection.reached(seq))
        gone = asyncio.ensure_future(self._snapshots_gone.wait())
        try:
            await asyncio.wait((reached, gone), return_when=asyncio.FIRST_COMPLETED)
            if reached.done():
                reached.result()
                return False
        finally:
            await cancel([reached, gone])
        self._snapshots_gone.clear()
        return True

    def spawn(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        """Run long work beside the actor's loop; a failure is logged and ends nothing else."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(
            error, LogReplaced
        ):  # this error ends `run` as well
            log.error("%s failed", task.get_name(), exc_info=error)

    async def _caught_up(self, following: asyncio.Task[None], stopping: asyncio.Task[bool]) -> bool:
        while not following.done() and not stopping.done():
            catching = asyncio.create_task(self.projection.caught_up())
            await asyncio.wait((catching, following, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not catching.done():
                await cancel([catching])
                return False
            try:
                catching.result()
                return True
            except Unavailable:
                await asyncio.sleep(0.25)
        return False

    async def _founded(self, following: asyncio.Task[None], stopping: asyncio.Task[bool]) -> bool:
        """Return whether the log belongs to the right cluster. Raise OtherCluster."""
        founding = asyncio.create_task(found(self.projection, self.cluster), name="found")
        await asyncio.wait((founding, following, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not founding.done():
            await cancel([founding])
            return False
        founding.result()
        return True


def no_trace(_: int) -> str:
    """Return that an event has no span."""
    return ""


async def cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended."""
    tasks = set(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
