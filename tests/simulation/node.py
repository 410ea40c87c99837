"""The node's process: what it knows and decides is Nebula's own: `EngineTable` and `reconcile`.

The order of events around them is that of nebula/actors/node/actor.py, which has asyncio and real
processes in it: what changes there is to be changed here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from random import Random
from typing import Any

import msgspec
from msgspec.structs import replace

from nebula.actors.node import reconciliation
from nebula.actors.node.engine_table import EngineEntry, EngineTable, service
from nebula.actors.node.reconciliation import (
    LoadAdapter,
    Restarts,
    Start,
    Stop,
    UnloadAdapter,
)
from nebula.actors.placement.decision import replicas_on
from nebula.events import subjects
from nebula.events.heartbeats import NodeHeartbeat
from nebula.events.state import Replica
from nebula.events.version import SINCE, VERSION, came_late, reporter
from nebula.events.vocabulary import (
    AdapterLoaded,
    AdapterLoadFailed,
    AdapterUnloaded,
    EngineReady,
    EngineStopped,
    Event,
    NodeHeard,
    NodeRegistered,
    NodeStopped,
    ReplicaEvent,
)
from tests.simulation.clock import Process, Signal
from tests.simulation.engine import Engine
from tests.simulation.journal import EPOCH, Appender, Follower, Journal, Unavailable
from tests.simulation.machine import Machine

HEARTBEAT = 4.0
"""Twice the real one: a node is lost after thirty seconds."""

POLL = 0.25
UNSENT = 0.3
GRACE = 20.0
DRAIN = 60.0
LAST_TRY = 3.0


class _Entry(EngineEntry):
    """An entry of the node's map, with the engine that runs."""

    def __init__(self, replica: Replica, version: int, attempt: int) -> None:
        super().__init__(replica, version, attempt)
        self.engine: Engine | None = None
        self.hurried = False


class Node(Process):
    """One node."""

    def __init__(self, machine: Machine, journal: Journal, rng: Random, life: int) -> None:
        super().__init__(machine.clock)
        self.machine = machine
        self.journal = journal
        self._rng = rng
        self._name = f"{machine.id}.{life}"
        self._told = 0
        self._appender = Appender(journal, machine.link, self._name)
        self._engines: EngineTable[_Entry] = EngineTable(Restarts())
        self._wake = Signal(self.clock)
        self._woken = False
        self.follower: Follower | None = None
        self.began = self.clock.now
        self._registration = 0
        self._stopping = False
        self.spawn(self._run())

    def crash(self) -> None:
        """End in the middle of it; the engines stay."""
        super().crash()
        if self.follower is not None:
            self.follower.close()

    def stop(self, ended: Callable[[], object]) -> None:
        """End in good order, with all engines, then call `ended`; at once where it only begins."""
        if self._stopping or not self.alive:
            return
        if self.follower is None:
            self.crash()
            ended()
            return
        self._stopping = True
        self.spawn(self._stop(ended))
        # What the log has not taken by then is never told.
        self.clock.after(GRACE + 2 * LAST_TRY, self._gone, ended)

    def _stop(self, ended: Callable[[], object]) -> Generator[Any, Any, None]:
        for entry in self._engines:
            if entry.stop("the node was stopped"):
                self.spawn(self._end(entry, 0.0))
        while len(self._engines):
            yield POLL
        state = self._follow.state
        known = state.nodes.get(self.machine.id)
        told = known is not None and not known.away and known.registered == self._registration
        if told and state.cluster.version >= SINCE[NodeStopped.__name__][""]:
            yield from self._tell(self.machine.id, NodeStopped(self._registration), None)
        self.clock.after(0.0, self._gone, ended)

    def _gone(self, ended: Callable[[], object]) -> None:
        if self.alive:
            self.crash()
            ended()

    @property
    def _follow(self) -> Follower:
        assert self.follower is not None
        return self.follower

    def _run(self) -> Generator[Any, Any, None]:
        while not self.machine.link.up:
            yield 0.25
        self.follower = Follower(self.journal, self.machine.link, self._rng)
        self.began = self.clock.now
        self.spawn(self._answer_doubts())
        known = self._follow.state.nodes.get(self.machine.id)
        if known is None or not known.lost:
            yield from self._register()
        yield from self._adopt()
        self.spawn(self._beat())
        while True:
            self._woken = False
            looked = self.clock.now
            self._act()
            if self._is_out() and not self._stopping:
                for entry in self._engines:
                    entry.hurried = True
                if not self._engines:
                    yield from self._register()
                    continue
            if not self._woken:
                pause = self._engines.pause(looked, self.clock.now)
                if pause is None:
                    yield self._wake
                else:
                    yield (self._wake, pause)

    def _is_out(self) -> bool:
        return reconciliation.is_out(self._follow.state, self.machine.id)

    def _answer_doubts(self) -> Generator[Any, Any, None]:
        while True:
            if reconciliation.is_suspected(self._follow.state, self.machine.id):
                known = self._follow.state.nodes[self.machine.id].suspected
                yield from self._tell(self.machine.id, NodeHeard("it reads this log"), known)
            else:
                yield self._follow.changed

    def _register(self) -> Generator[Any, Any, None]:
        machine = self.machine
        offered = NodeRegistered(machine.devices, machine.id, machine.labels, reads=VERSION)
        self._registration = yield from self._tell(machine.id, offered, None)

    def _notice(self) -> None:
        self._woken = True
        self._wake.fire()

    def _listen(self) -> Generator[Any, Any, None]:
        """The log wakes the work as an engine's end does."""
        while True:
            yield self._follow.changed
            self._notice()

    def _act(self) -> None:
        if self._stopping:
            return
        state = self._follow.state
        mine = replicas_on(state, self.machine.id)
        for action in self._engines.due(state, mine, self.clock.now):
            match action:
                case Start(replica=identity, attempt=attempt):
                    replica = state.replicas[identity]
                    entry = _Entry(replica, replica.version, attempt)
                    self._engines.open(entry)
                    self.spawn(self._live(entry, replica))
                case Stop(replica=identity, reason=reason, drains=drains):
                    stopped = self._engines.get(identity)
                    if stopped is not None and stopped.stop(reason):
                        self.spawn(self._end(stopped, DRAIN * drains))
                case LoadAdapter() | UnloadAdapter():
                    if self._engines.adapts(action.replica):
                        self.spawn(self._adapt(action))

    def _end(self, entry: _Entry, drain: float) -> Generator[Any, Any, None]:
        """End an engine; before that let its requests end."""
        engine = entry.engine
        if engine is None:
            return
        deadline, pause = self.clock.now + drain, UNSENT
        while entry.ready and not engine.exited and self.clock.now < deadline:
            yield pause
            if entry.hurried or not engine.requests:
                break
            pause = POLL
        engine.terminate(GRACE)

    def _live(self, entry: _Entry, replica: Replica) -> Generator[Any, Any, None]:
        started, adopted = self.clock.now, entry.engine is not None
        if entry.engine is None:
            launch = replica.launch
            yield 0.02 + 0.2 * self._rng.random()
            if launch is None or not self._has(replica):
                yield from self._ended(entry, None, "it can't be started here")
                return
            engine = entry.engine = self.machine.start(replica, entry.version, launch)
            if entry.stop_reason is not None:
                engine.terminate(GRACE)
            event = entry.started(engine.pid, engine.created, 1, "engine.log")
            entry.has_told((yield from self._tell(entry.replica, event, entry.last_seq)))
        engine = entry.engine
        while not entry.ready and not engine.exited:
            if engine.answers:
                ready = EngineReady("0", round(self.clock.now - started, 1))
                entry.noted((yield from self._tell(entry.replica, ready, entry.last_seq)))
                entry.answers(self.clock.now, None if adopted else self.clock.now - started)
                self._notice()
            else:
                yield engine.changed
        while not engine.exited:
            yield engine.changed
        yield from self._ended(entry, engine.code, "it ended")

    def _has(self, replica: Replica) -> bool:
        there = {device.index for device in self.machine.devices}
        return there.issuperset(replica.devices)

    def _ended(self, entry: _Entry, code: int | None, reason: str) -> Generator[Any, Any, None]:
        as_wanted = entry.ended()
        if not as_wanted:
            failed = self._engines.failed(entry, code, reason, (), self.clock.now)
            yield from self._tell(entry.replica, failed, entry.last_seq)
            self._engines.has_told_failure(failed, entry.replica)
        while entry.engine is not None and not entry.engine.gone:
            yield entry.engine.changed
        if as_wanted:
            stopped = EngineStopped(entry.stop_reason or "")
            yield from self._tell(entry.replica, stopped, entry.last_seq)
        self._engines.close(entry)
        self._notice()

    def _adapt(self, action: LoadAdapter | UnloadAdapter) -> Generator[Any, Any, None]:
        entry = self._engines.get(action.replica)
        replica = self._follow.state.replicas.get(action.replica)
        if entry is not None and replica is not None and entry.engine is not None:
            model = self._follow.state.models.get(replica.model)
            cause = model.changed if model is not None else entry.last_seq
            yield 0.05 + self._rng.random()
            event: Event
            if not entry.engine.answers:
                yield 1.0
            else:
                if isinstance(action, UnloadAdapter):
                    for held in list(entry.engine.adapters):
                        if held[0] == action.name and action.digest in ("", held[1]):
                            entry.engine.adapters.discard(held)
                    event = AdapterUnloaded(action.name, digest=action.digest)
                else:
                    event = self._load_adapter(entry.engine, action)
                if self._engines.get(action.replica) is entry:
                    yield from self._tell(action.replica, event, cause)
        self._engines.adapted(action.replica)
        self._notice()

    def _load_adapter(self, engine: Engine, action: LoadAdapter) -> Event:
        digest = self.machine.copy(action.source, action.digest)
        if not digest or self.machine.trouble.adapters_fail > self.clock.now:
            why = "refused" if digest else "its files are another version"
            return AdapterLoadFailed(action.name, action.source, why, asked=action.asked)
        engine.adapters.add((action.name, digest))
        return AdapterLoaded(action.name, action.source, digest=digest, asked=action.asked)

    def _adopt(self) -> Generator[Any, Any, None]:
        kept: set[int] = set()
        for replica in replicas_on(self._follow.state, self.machine.id):
            if replica.engine is None:
                continue
            known = replica.engine
            engine = self.machine.adopt(known.pid)
            if engine is None:
                left = self.machine.engines.get(known.pid)
                while left is not None and not left.gone:
                    yield left.changed
                gone = EngineStopped("it ended while no node watched it")
                yield from self._tell(replica.id, gone, replica.changed)
                continue
            entry = _Entry(replica, known.version, replica.attempt)
            entry.engine = engine
            ready, now = replica.phase == "ready", self.clock.now
            served, took = service(replica, EPOCH / 1e9 + now)
            self._engines.adopt(entry, ready=ready, now=now, served=served, took=took)
            kept.add(engine.pid)
            self.spawn(self._live(entry, replica))
        for pid, engine in list(self.machine.engines.items()):
            if pid not in kept:
                engine.terminate(5)
                while not engine.gone:
                    yield engine.changed
        self.spawn(self._listen())

    def _tell(self, identity: str, event: Event, cause: int | None) -> Generator[Any, Any, int]:
        """Append a fact however long it takes, and fold it."""
        if isinstance(event, ReplicaEvent):
            event = replace(event, node=self.machine.id)
        self._told += 1
        unique = f"{self._name}/{self._told}"
        while True:
            node = reporter(self._follow.state, event, self.machine.id)
            try:
                seq: int = yield from self._appender.append(
                    identity,
                    event,
                    cause=cause,
                    message_id=unique,
                    patience=LAST_TRY,
                    node=node,
                )
            except Unavailable:
                continue
            yield from self._follow.until(seq)
            if node or not came_late(self._follow.state, event, seq):
                return seq
            unique += "-named"

    def _beat(self) -> Generator[Any, Any, None]:
        while True:
            status = NodeHeartbeat(self.machine.id, 1, len(self._engines), 0)
            subject = subjects.node_status(self.machine.id)
            self.machine.say(subject, b"", msgspec.json.encode(status))
            yield HEARTBEAT
