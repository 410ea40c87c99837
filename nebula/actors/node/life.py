"""Follows a node's engines from start or adoption to their end, and reports to the log.

Engines outlive the node process: the next one adopts those that are still assigned and ends the
others.
"""

import asyncio
import functools
import logging
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import TypeAlias

from nebula.actors.node import engine_keys, engine_sockets, permanent, processes
from nebula.actors.node.engine_counts import EngineCounts
from nebula.actors.node.engine_mark import EngineMark
from nebula.actors.node.engine_table import EngineTable, service
from nebula.actors.node.failure import last_words
from nebula.actors.node.launch import Site
from nebula.actors.node.managed_engine import ManagedEngine
from nebula.actors.node.outbox import Outbox
from nebula.actors.node.policy.gate import Gate, NotAllowed
from nebula.actors.node.processes import EngineProcess, NotAdopted
from nebula.actors.node.secrets import EngineSecrets, SecretMissing
from nebula.actors.node.settings import NodeSettings
from nebula.actors.node.supervision import supervise
from nebula.actors.node.weights.manager import WeightsManager
from nebula.events.state import Launch, Replica
from nebula.events.values import Device
from nebula.events.vocabulary import EngineReady, EngineStopped, Event
from nebula.store.engine_logins import EngineLogins, NoLogin

log = logging.getLogger(__name__)

Gone: TypeAlias = Callable[[Replica, str], Coroutine[object, object, None]]


class EngineLives:
    """Starts, adopts, follows and ends the engines in a node's `roster`.

    `gate`: which of them may run here. `site`: how engines reach the node and NATS. `spawn` runs a
    task beside the node's other work; `wake` lets the node reconcile again; `now` is a monotonic
    clock, in seconds.
    """

    def __init__(
        self,
        settings: NodeSettings,
        inventory: Sequence[Device],
        site: Callable[[Replica], Site],
        *,
        gate: Gate,
        roster: EngineTable[ManagedEngine],
        outbox: Outbox,
        weights: WeightsManager,
        secrets: EngineSecrets,
        logins: EngineLogins,
        spawn: Callable[[Coroutine[object, object, None], str], asyncio.Task[None]],
        wake: Callable[[], None],
        now: Callable[[], float],
        counts: EngineCounts,
    ) -> None:
        self._settings = settings
        self._sockets = engine_sockets.place(settings.folder)
        self._gate = gate
        self._inventory = inventory
        self._site = site
        self._engines = roster
        self._outbox = outbox
        self._weights = weights
        self._secrets = secrets
        self._logins = logins
        self._spawn = spawn
        self._wake = wake
        self._now = now
        self._counts = counts

    def start(self, replica: Replica, attempt: int) -> None:
        """Start a replica's engine and follow it."""
        ports = {engine.port for engine in self._engines}
        port = processes.free_port(ports)
        socket = engine_sockets.socket_of(self._sockets, port)
        engine = ManagedEngine(
            replica,
            replica.version,
            attempt,
            port,
            socket if self._settings.engine_sockets else None,
            engine_keys.new(self._sockets, port),
            engine_sockets.events_of(self._sockets, port),
        )
        self._engines.open(engine)
        self._counts.started(replica.model, replica.id)
        engine.life = self._spawn(self._live(engine, replica), f"engine {replica.id}")

    def stop(self, engine: ManagedEngine, reason: str, drain: float = 0.0) -> None:
        """End an engine for a `reason`; its requests get `drain` seconds before."""
        if not drain:
            engine.hurried.set()
        if engine.stop(reason):
            self._spawn(engine.end(self._settings.grace, drain), f"end {engine.replica}")

    def kill_one(self, engine: ManagedEngine, asked: int) -> None:
        """Kill an engine as the event `asked` requests; its end is reported as a failure."""
        if engine.process is not None:
            engine.hung = engine.kill(asked)
            log.warning("%s: %s", engine.replica, engine.hung)
            engine.process.kill()

    def kill(self) -> None:
        """Kill every engine, unless engines are to be left running."""
        for engine in () if self._settings.leave_engines else self._engines:
            if engine.process is not None:
                engine.process.kill()

    async def end(self) -> None:
        """End every engine, or leave them to the next node process, as configured."""
        lives = [engine.life for engine in self._engines if engine.life is not None]
        if self._settings.leave_engines:
            for life in lives:
                life.cancel()
            return
        for engine in self._engines:
            self.stop(engine, "the node was stopped")
        await asyncio.gather(*lives, return_exceptions=True)
        engine_sockets.tidy(self._sockets, ())

    async def adopt(self, replicas: Sequence[Replica], cluster: str, gone: Gone) -> None:
        """Adopt the engines of an earlier process of this node, and end unwanted ones.

        `cluster`: its id. `gone` reports to the log why an engine of a replica is not adopted.
        """
        kept: set[int] = set()
        for replica in replicas:
            if replica.engine is None:
                continue
            known = replica.engine
            which = (replica.id, str(known.version), str(known.port))
            mark = EngineMark(self._settings.node, str(self._settings.folder), *which, cluster)
            log_file = self._settings.log_file(replica.id)
            try:
                if known.log_file != str(log_file):
                    raise NotAdopted(f"its report names a log file that is not {log_file}")
                process = EngineProcess.adopt(known.pid, known.birth, log_file, mark)
            except NotAdopted as error:
                if str(error) != processes.ENDED:
                    log.warning("%s is not adopted: %s", replica.id, error)
                await processes.end_orphans(known.pid, known.birth, mark, log_file)
                await gone(replica, str(error))
                continue
            refused = await self._refused(replica.launch)
            if refused:
                log.warning("an engine of an earlier process is ended: %s", refused)
                await process.end(self._settings.grace)
                await gone(replica, refused)
                continue
            socket = engine_sockets.socket_of(self._sockets, known.port)
            there = socket if socket.exists() else None  # an older one listens on its port
            key = engine_keys.known(self._sockets, known.port)
            plan = (replica, known.version, replica.attempt)
            engine = ManagedEngine(*plan, known.port, there, key)
            engine.process = process
            process.mask = await self._secrets.mask(replica)
            ready, (served, took) = replica.phase == "ready", service(replica, time.time())
            self._engines.adopt(engine, ready=ready, now=self._now(), served=served, took=took)
            kept.add(process.pid)
            log.info("adopted %s: pid %d, port %d", replica.id, known.pid, known.port)
            engine.life = self._spawn(self._live(engine, replica), f"engine {replica.id}")
        owner = self._settings.node, str(self._settings.folder)
        for group in processes.marked_groups(*owner) - kept:
            log.warning("ending process group %d: an engine that is not wanted", group)
            await processes.end_group(group, grace=5)
        engine_sockets.tidy(self._sockets, {engine.port for engine in self._engines})

    async def _refused(self, launch: Launch | None) -> str:
        """Return why an engine may not run here; "" if it may."""
        try:
            if launch is not None:
                await self._gate.admit(launch)
        except NotAllowed as error:
            return str(error)
        return ""

    async def _live(self, engine: ManagedEngine, replica: Replica) -> None:
        """Follow one engine from its start or adoption to its end, and report both to the log."""
        started = self._now()
        code: int | None = None
        remedy = ""
        try:
            process = engine.process
            if process is None:
                if replica.launch is not None:
                    await self._gate.admit(replica.launch)
                given = self._weights.environment(os.environ, replica.launch)
                how = (given, self._settings.log_file(replica.id), self._secrets)
                process = await engine.start(self._site(replica), self._inventory, replica, *how)
                if engine.stop_reason is not None:
                    self._spawn(process.end(self._settings.grace), f"end {engine.replica}")
                pid, made, file = process.pid, process.created, str(process.log_file)
                event = engine.started(pid, made, engine.port, file, process.birth)
                await self._report(engine, event, engine.has_told)
            engine.seen(process, self._now())
            watching = asyncio.create_task(process.wait())
            looking: asyncio.Task[None] | None = None
            try:
                limits = (self._settings.start_limit, self._settings.grace)
                own = str(self._settings.folder)
                if not engine.ready and await engine.becomes_ready(own, watching, *limits):
                    took = self._now() - started
                    self._counts.ready(replica.model, took)
                    version, can = await engine.client.version(), await engine.client.abilities()
                    event_ready = EngineReady(
                        version,
                        round(took, 1),
                        tasks=can.tasks,
                        max_model_len=can.max_model_len,
                    )
                    await self._report(engine, event_ready, engine.noted)
                    engine.answers(self._now(), None if process.adopted else took)
                    self._wake()
                report = functools.partial(self._report, engine)
                looking = self._spawn(
                    supervise(engine, replica, self._settings, report), f"look at {replica.id}"
                )
                code = await watching
            finally:
                watching.cancel()
                if looking is not None:
                    looking.cancel()
            reason = engine.words(process, code, self._now())
            remedy = engine.remedy(code, reason)
        except NotAllowed as error:
            reason, remedy = error.why.reason, error.why.remedy
        except NoLogin as error:
            reason = str(error)
        except OSError as error:
            reason = f"can't run {' '.join(self._settings.engine_command)}: {error}"
            remedy = permanent.remedy_of_command(error, self._settings.engine_command[0])
        except SecretMissing as error:
            # An engine that has served is started again: its secret was here before.
            reason, remedy = error.told(again=replica.served)
        await self._ended(engine, code, reason, remedy)

    async def _ended(
        self, engine: ManagedEngine, code: int | None, reason: str, remedy: str
    ) -> None:
        """Report an end, and keep the entry, which reserves its devices, until all of it is gone.

        A failure is reported at once, a stop only at the end, since others may then get its
        devices.
        """
        as_wanted = engine.ended()
        await engine.client.close()
        if not as_wanted:
            await self._failed(engine, code, reason, remedy)
        if engine.process is not None:
            await engine.process.gone()
        if engine.socket is not None:
            engine.socket.unlink(missing_ok=True)
        self._logins.forget(engine.replica)
        if as_wanted:
            await self._report(engine, EngineStopped(engine.stop_reason or ""), engine.noted)
        self._engines.close(engine)
        self._wake()

    async def _failed(
        self, engine: ManagedEngine, code: int | None, words: str, remedy: str
    ) -> None:
        process = engine.process
        reason = engine.hung or words
        reason = permanent.told(reason, remedy) if remedy else reason
        lines = last_words(process.tail()) if process is not None else ()
        reason, now = engine.hint + reason, self._now()
        failed = self._engines.failed(engine, code, reason, lines, now, again=not remedy)
        self._counts.failed(engine.replica)
        log.warning("%s failed (attempt %d): %s", engine.replica, failed.attempt, reason)

        def told(seq: int) -> None:
            engine.noted(seq)
            self._engines.has_told_failure(failed, engine.replica)
            self._wake()

        await self._report(engine, failed, told)

    async def _report(
        self, engine: ManagedEngine, event: Event, told: Callable[[int], None] | None = None
    ) -> None:
        """Report to the log what an engine did; if that is impossible now, it is done later."""
        await self._outbox.tell(
            engine.replica, event, lambda: engine.last_seq, told or engine.noted
        )
