"""The node: it keeps the engines that the log assigns to it running on this machine.

It reads every assignment made to it, keeps one map of running engines, and works off the
difference. Engines outlive the node process: the next one adopts those that are still assigned
and ends those that are not.
"""

import asyncio
import contextlib
import functools
import logging
import os
import socket
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec.structs import replace
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from nebula.actors.actor import Actor
from nebula.actors.node import devices, engine_version, log_reading, processes
from nebula.actors.node.engine_http import EngineSilent
from nebula.actors.node.failure import death_reason, failure_reason, last_words
from nebula.actors.node.launch import Site
from nebula.actors.node.namesake import refuse_namesake
from nebula.actors.node.outbox import Outbox
from nebula.actors.node.processes import EngineProcess
from nebula.actors.node.reconciliation import (
    Action,
    LoadAdapter,
    Start,
    Stop,
    UnloadAdapter,
    is_lost,
    is_suspected,
)
from nebula.actors.node.roster import Roster
from nebula.actors.node.running import NodeEngine
from nebula.actors.node.settings import NodeSettings
from nebula.actors.node.supervision import supervise
from nebula.actors.node.weights.hub import Hub
from nebula.actors.node.weights.supply import Retries, Supply
from nebula.actors.placement.decision import replicas_on
from nebula.events import subjects
from nebula.events.state import Replica
from nebula.events.status import NodeStatus
from nebula.events.values import Device
from nebula.events.version import VERSION
from nebula.events.vocabulary import (
    EngineReady,
    EngineStopped,
    Event,
    NodeHeard,
    NodeRegistered,
    ReplicaEvent,
)
from nebula.store.child_output import keep_bounded
from nebula.store.connection import Connection, Unavailable
from nebula.store.log import TooLarge
from nebula.store.tail import LogReplaced

log = logging.getLogger(__name__)

HEARTBEAT = 2.0
REASON_LINES = 400
"""Where vLLM says why it failed may be this far above its last line."""

LAST_TRY = 3.0
"""Seconds that a node which is to end gives the log to take what its engines did last."""


class Node(Actor):
    """See the module."""

    def __init__(
        self,
        connection: Connection,
        settings: NodeSettings,
        inventory: tuple[Device, ...],
        *,
        stream_replicas: int = 1,
    ) -> None:
        super().__init__(connection, stream_replicas=stream_replicas)
        self.settings = settings
        self.inventory = inventory
        self._engines: Roster[NodeEngine] = Roster(settings.restarts)
        self._gpus_free: tuple[int, ...] = ()
        self._wake = asyncio.Event()
        self._outbox = Outbox(self._tell, self.spawn, self._now)
        self._supply = Supply(
            settings.node,
            Hub(settings.weights),
            self.projection,
            tell=self._tell,
            spawn=self.spawn,
            wake=self._wake.set,
            fetches=settings.fetches,
            rehearses=settings.rehearses,
            retries=Retries(settings.restarts.pause),
        )

    @property
    def _site(self) -> Site:
        settings = self.settings
        return Site(
            settings.node,
            str(settings.folder),
            settings.engine_command,
            self.connection.url,
            devices.cores(),
        )

    async def begin(self) -> None:
        """Register, adopt the engines that still run, end those nobody wants.

        One that was lost registers only when it has ended them all. Raises NameTaken.
        """
        known = self.projection.state.nodes.get(self.settings.node)
        await refuse_namesake(self.connection, self.settings.node, known, HEARTBEAT)
        self.spawn(self._answer_doubts(), "answer suspicions")
        # From here on whoever comes with the same name is told that it is taken.
        await self.connection.client.subscribe(
            subjects.logs(self.settings.node), cb=self._on_log_request
        )
        if not is_lost(self.projection.state, self.settings.node):
            await self._register()
        await self._adopt()
        self.spawn(self._watch_gpus(), "watch GPUs")
        self.spawn(self._beat(), "heartbeat")
        logs = self._log_file("any").parent
        self.spawn(keep_bounded((logs,), self.settings.engine_log_limit), "bound engines' logs")

    async def work(self) -> None:
        """Reconcile whenever the log, an engine or a pause before a restart calls for it."""
        while True:
            self._wake.clear()
            now = self._now()
            for action in self._due(now):
                if not self.stopping:  # what ends untold is no reason to start it again
                    self._perform(action)
            if is_lost(self.projection.state, self.settings.node):
                for engine in self._engines:
                    engine.hurried.set()
                if not self._engines and await self._register():
                    log.warning("this node was lost: it has ended its engines and registered again")
                    continue
            changed = asyncio.ensure_future(self.projection.changed())
            woken = asyncio.ensure_future(self._wake.wait())
            try:
                await asyncio.wait(
                    (changed, woken),
                    timeout=self._engines.pause(now, self._now(), self._supply.retries),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if changed.done():
                    changed.result()
            finally:
                changed.cancel()
                woken.cancel()

    async def _register(self) -> bool:
        """Say what this machine offers; False where the log could not take it before the end."""
        version, held = await asyncio.gather(
            engine_version.find(self.settings.engine_command), self._supply.held()
        )
        registered = NodeRegistered(
            self.inventory,
            socket.gethostname(),
            self.settings.labels,
            self.settings.version,
            version,
            held,
            self.settings.measures,
            VERSION,
        )
        return bool(await self._tell(self.settings.node, registered, None))

    async def end(self) -> None:
        """End every engine, or leave them to the next node process if told so."""
        if self.settings.leave_engines:
            for engine in self._engines:
                if engine.life is not None:
                    engine.life.cancel()
            return
        for engine in self._engines:
            self._stop(engine, "the node was stopped")
        lives = [engine.life for engine in self._engines if engine.life is not None]
        await asyncio.gather(*lives, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * LAST_TRY):
                await self._outbox.emptied()

    def _due(self, now: float) -> tuple[Action, ...]:
        state = self.projection.state
        mine = replicas_on(state, self.settings.node)
        self._supply.work(state, mine, {engine.source for engine in self._engines}, now)
        return self._engines.due(state, mine, now, self._supply.waiting(mine))

    def _perform(self, action: Action) -> None:
        match action:
            case Start(replica=identity, attempt=attempt):
                replica = self.projection.state.replicas[identity]
                ports = {engine.port for engine in self._engines}
                engine = NodeEngine(replica, replica.version, attempt, processes.free_port(ports))
                self._engines.open(engine)
                engine.life = self.spawn(self._live(engine, replica), f"engine {identity}")
            case Stop(replica=identity, reason=reason, drains=drains):
                stopped = self._engines.get(identity)
                if stopped is not None:
                    self._stop(stopped, reason, self.settings.drain * drains)
            case LoadAdapter() | UnloadAdapter():
                if self._engines.adapts(action.replica):
                    self.spawn(self._adapt(action), f"adapter of {action.replica}")

    def _stop(self, engine: NodeEngine, reason: str, drain: float = 0.0) -> None:
        if not drain:
            engine.hurried.set()
        if engine.stop(reason):
            self.spawn(engine.end(self.settings.grace, drain), f"end {engine.replica}")

    async def _live(self, engine: NodeEngine, replica: Replica) -> None:
        """Follow one engine from its start, or its adoption, to its end; tell the log of each."""
        started = self._now()
        code: int | None = None
        try:
            process = engine.process
            if process is None:
                environ, log_file = self._supply.environment(os.environ), self._log_file(replica.id)
                process = await engine.start(self._site, self.inventory, replica, environ, log_file)
                if engine.stop_reason is not None:
                    self.spawn(process.end(self.settings.grace), f"end {engine.replica}")
                pid, made, file = process.pid, process.created, str(process.log_file)
                event = engine.started(pid, made, engine.port, file, process.birth)
                await self._report(engine, event, engine.has_told)
            watching = asyncio.create_task(process.wait())
            looking: asyncio.Task[None] | None = None
            try:
                limits = (self.settings.start_limit, self.settings.grace)
                if not engine.ready and await engine.becomes_ready(watching, *limits):
                    event_ready = EngineReady(
                        await engine.client.version(), round(self._now() - started, 1)
                    )
                    await self._report(engine, event_ready, engine.noted)
                    engine.answers(self._now())
                    self._wake.set()
                report = functools.partial(self._report, engine)
                looking = self.spawn(
                    supervise(engine, replica, self.settings, report), f"look at {replica.id}"
                )
                code = await watching
            finally:
                watching.cancel()
                if looking is not None:
                    looking.cancel()
            reason = failure_reason(process.tail(REASON_LINES))
        except OSError as error:
            reason = f"can't run {' '.join(self.settings.engine_command)}: {error}"
        await self._ended(engine, code, reason)

    async def _ended(self, engine: NodeEngine, code: int | None, reason: str) -> None:
        """Tell of an end, and keep the entry, which holds its devices, until all of it is gone.

        A failure is told at once. That it was stopped is told last: others may get its devices.
        """
        as_wanted = engine.ended()
        await engine.client.close()
        if not as_wanted:
            await self._failed(engine, code, reason)
        if engine.process is not None:
            await engine.process.gone()
        if as_wanted:
            await self._report(engine, EngineStopped(engine.stop_reason or ""), engine.noted)
        self._engines.close(engine)
        self._wake.set()

    async def _failed(self, engine: NodeEngine, code: int | None, words: str) -> None:
        process = engine.process
        reason = engine.hung or death_reason(code, process is not None and process.adopted, words)
        lines = last_words(process.tail()) if process is not None else ()
        failed = self._engines.failed(engine, code, engine.hint + reason, lines, self._now())
        log.warning("%s failed (attempt %d): %s", engine.replica, failed.attempt, reason)

        def told(seq: int) -> None:
            engine.noted(seq)
            self._engines.has_told_failure(failed, engine.replica)
            self._wake.set()

        await self._report(engine, failed, told)

    async def _report(
        self, engine: NodeEngine, event: Event, told: Callable[[int], None] | None = None
    ) -> None:
        """Tell the log what an engine did; where it can't be written, later, and work goes on."""
        await self._outbox.tell(
            engine.replica, event, lambda: engine.last_seq, told or engine.noted
        )

    async def _adapt(self, action: LoadAdapter | UnloadAdapter) -> None:
        """Change one adapter of a ready engine and tell the log how it went."""
        engine = self._engines.get(action.replica)
        replica = self.projection.state.replicas.get(action.replica)
        try:
            if engine is None or replica is None:
                return
            model = self.projection.state.models.get(replica.model)
            cause = model.changed if model is not None else engine.last_seq
            try:
                event = await engine.adapt(action)
            except EngineSilent as error:
                log.warning("%s does not answer about its adapters: %s", action.replica, error)
                await asyncio.sleep(1)
                return
            if self._engines.get(action.replica) is engine:
                await self._tell(action.replica, event, cause)
        finally:
            self._engines.adapted(action.replica)
            self._wake.set()

    async def _adopt(self) -> None:
        kept: set[int] = set()
        for replica in replicas_on(self.projection.state, self.settings.node):
            if replica.engine is None:
                continue
            known = replica.engine
            owner = (self.settings.node, str(self.settings.folder))
            process = EngineProcess.adopt(known.pid, known.birth, Path(known.log_file), *owner)
            if process is None:
                await processes.end_orphans(known.pid, known.birth)
                gone = EngineStopped("it ended while no node watched it")
                await self._tell(replica.id, gone, replica.changed)
                continue
            engine = NodeEngine(replica, known.version, replica.attempt, known.port)
            engine.process = process
            self._engines.adopt(engine, ready=replica.phase == "ready", now=self._now())
            kept.add(process.pid)
            log.info("adopted %s: pid %d, port %d", replica.id, known.pid, known.port)
            engine.life = self.spawn(self._live(engine, replica), f"engine {replica.id}")
        for group in processes.marked_groups(self.settings.node, str(self.settings.folder)) - kept:
            log.warning("ending process group %d: an engine that nobody wants", group)
            await processes.end_group(group, grace=5)

    async def _tell(
        self, identity: str, event: Event, cause: int | None, message_id: str | None = None
    ) -> int:
        """Append a fact however long it takes, and fold it: what happened must not get lost.

        Gives 0 where the node had to end before it could, or where NATS will never take it. Raise
        TooLarge for its registration, without which it is not a node.
        """
        if isinstance(event, ReplicaEvent):
            event = replace(event, node=self.settings.node)
        message_id = message_id or uuid.uuid4().hex
        while not self.projection.ended:
            try:
                seq = await self.log.append(
                    identity, event, cause=cause, message_id=message_id, patience=LAST_TRY
                )
                while not await self.projection.reached(seq, timeout=LAST_TRY):
                    if self.stopping:
                        break
                return seq
            except LogReplaced:
                break
            except TooLarge as error:
                if isinstance(event, NodeRegistered):
                    raise
                log.error("%s", error)
                break
            except Unavailable:
                if self.stopping:
                    break
        log.warning("could not tell that %s: %s", identity, type(event).__name__)
        return 0

    async def _answer_doubts(self) -> None:
        """Say in the log that this node lives, whenever a router asks there.

        Beside all other work: whatever that waits for must not make the node look dead.
        """
        node = self.settings.node
        while True:
            await self.projection.until(lambda state: is_suspected(state, node))
            if not await self._tell(node, NodeHeard("it reads this log"), self._suspicion()):
                return

    def _suspicion(self) -> int | None:
        known = self.projection.state.nodes.get(self.settings.node)
        return known.suspected if known is not None else None

    async def _beat(self) -> None:
        while True:
            engines, free = len(self._engines), devices.memory_free()
            status = NodeStatus(self.settings.node, os.getpid(), engines, free, self._gpus_free)
            if self.connection.connected:
                subject = subjects.node_status(self.settings.node)
                with contextlib.suppress(NatsError):
                    await self.connection.client.publish(subject, msgspec.json.encode(status))
            await asyncio.sleep(HEARTBEAT)

    async def _watch_gpus(self) -> None:
        """Apart from the heartbeat: a driver that hangs must not make the node look dead."""
        while any(device.kind == "gpu" for device in self.inventory):
            self._gpus_free = await asyncio.to_thread(devices.gpus_free)
            await asyncio.sleep(HEARTBEAT)

    async def _on_log_request(self, message: Msg) -> None:
        if message.reply:
            reply = log_reading.answer(message.data, self._log_file)
            await self.connection.client.publish(message.reply, reply)

    def _log_file(self, replica: str) -> Path:
        return self.settings.folder / "logs" / f"{replica}.log"

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
