"""The node: it keeps the engines that the log assigns to it running on this machine.

It reads its assignments, keeps one map of running engines, and reconciles the difference. Engines
outlive the node process: the next one adopts those that are still assigned and ends the others.
"""

import asyncio
import contextlib
import logging
import os
import socket
import uuid

import msgspec
from msgspec.structs import replace
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from nebula.actors.actor import Actor
from nebula.actors.attribution import is_inbox
from nebula.actors.ear import Ear
from nebula.actors.greeting import offer, shared
from nebula.actors.node import devices, engine_version, log_reading
from nebula.actors.node.adapting import Adapting
from nebula.actors.node.engine_table import EngineTable
from nebula.actors.node.figures import NodeFigures
from nebula.actors.node.gpu_watch import GpuWatch
from nebula.actors.node.launch import Site
from nebula.actors.node.life import EngineLives
from nebula.actors.node.log_keeping import forget_logs
from nebula.actors.node.managed_engine import ManagedEngine
from nebula.actors.node.namesake import refuse_namesake
from nebula.actors.node.outbox import Outbox
from nebula.actors.node.policy.gate import Gate
from nebula.actors.node.reconciliation import (
    Action,
    Kill,
    LoadAdapter,
    Start,
    Stop,
    UnloadAdapter,
    is_out,
    is_suspected,
)
from nebula.actors.node.secret_masks import Mask
from nebula.actors.node.secrets import EngineSecrets, SecretSources
from nebula.actors.node.settings import NodeSettings
from nebula.actors.node.weights.fetching import Retries
from nebula.actors.node.weights.hub import Hub
from nebula.actors.node.weights.manager import WeightsManager
from nebula.actors.placement.capacity import twins
from nebula.actors.placement.decision import replicas_on
from nebula.actors.telling_metrics import MetricsTeller
from nebula.events import subjects
from nebula.events.heartbeats import NodeHeartbeat
from nebula.events.state import Replica
from nebula.events.values import Device
from nebula.events.version import SINCE, VERSION, came_late, reporter
from nebula.events.vocabulary import (
    EngineStopped,
    Event,
    NodeHeard,
    NodeRegistered,
    NodeStopped,
    ReplicaEvent,
)
from nebula.store.child_output import keep_bounded
from nebula.store.connection import Connection, Unavailable
from nebula.store.engine_logins import EngineLogins
from nebula.store.log import TooLarge
from nebula.store.tail import LogReplaced

log = logging.getLogger(__name__)

HEARTBEAT = 2.0
LAST_TRY = 3.0
"""Seconds that an ending node waits for the log to take its engines' last events."""


class Node(Actor):
    """The actor of a node."""

    keeps_streams = False

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
        self._engines: EngineTable[ManagedEngine] = EngineTable(settings.restarts)
        self._gpus = GpuWatch(inventory, HEARTBEAT)
        self.figures = NodeFigures(self, self._engines, self._gpus)
        self._registration = 0
        self._wake = asyncio.Event()
        self._outbox = Outbox(self._tell, self.spawn, self._now)
        sources = SecretSources(settings.secrets_folder, os.environ, settings.secret_command)
        hub = Hub(settings.weights, token=sources.value)
        self._gate = Gate(settings.policy)
        self._adapting = Adapting(
            settings,
            hub,
            self._engines,
            self.projection,
            gate=self._gate,
            tell=self._tell,
            spawn=self.spawn,
            wake=self._wake.set,
        )
        self._weights = WeightsManager(
            settings.node,
            hub,
            self.projection,
            tell=self._tell,
            spawn=self.spawn,
            wake=self._wake.set,
            fetches=settings.fetches,
            simulated=settings.simulated,
            gate=self._gate,
            retries=Retries(settings.restarts.pause),
        )
        self._secrets = EngineSecrets(sources)
        self._logins = EngineLogins(
            settings.engine_nats or self.connection.url, settings.folder / "credentials"
        )
        self._lives = EngineLives(
            settings,
            inventory,
            self._site,
            gate=self._gate,
            roster=self._engines,
            outbox=self._outbox,
            weights=self._weights,
            secrets=self._secrets,
            logins=self._logins,
            spawn=self.spawn,
            wake=self._wake.set,
            now=self._now,
            counts=self.figures.counts,
        )

    def _site(self, replica: Replica) -> Site:
        """Raise NoLogin."""
        settings = self.settings
        return Site(
            settings.node,
            str(settings.folder),
            settings.engine_command,
            self._logins.url_of(replica.model, replica.id),
            devices.cores(),
            settings.policy.media_domains,
            self.projection.state.cluster.id,
            settings.traces,
            self.traceparent_of(replica.changed),
            settings.kv_events,
        )

    async def begin(self) -> None:
        """Register, adopt the engines that still run, and end those that are no longer wanted.

        A node that was lost registers only once it has ended them all. Raise NameTaken.
        """
        known = self.projection.state.nodes.get(self.settings.node)
        await refuse_namesake(self.connection, self.settings.node, known, HEARTBEAT)
        self.spawn(self._answer_doubts(), "answer suspicions")
        # From here on another process with the same name is told that it is taken.
        await self.connection.client.subscribe(
            subjects.logs(self.settings.node), cb=self._on_log_request
        )
        if known is None or not known.lost:
            await self._register()
        state = self.projection.state
        mine = replicas_on(state, self.settings.node)
        await self._lives.adopt(mine, state.cluster.id, self._gone)
        teller = MetricsTeller(self.connection, self.figures, self.figures.texts_of_engines)
        await teller.listen(subjects.node_metrics(self.settings.node))
        self.spawn(self._gpus.run(), "watch GPUs")
        self.spawn(self._beat(), "heartbeat")
        ear = Ear(self.connection)
        await self.connection.client.listen(
            subjects.ROUTER_STATUS, ear.noting(subjects.ROUTER_STATUS)
        )
        self.spawn(ear.run(), "listen for routers")
        self.spawn(self._adapting.keep_tidy(), "tidy copies of adapters")
        logs = self.settings.log_file("any").parent
        self.spawn(keep_bounded((logs,), self.settings.engine_log_limit), "bound engines' logs")
        self.spawn(forget_logs(logs, self._held_here), "forget logs of replicas that are gone")

    def greet(self) -> None:
        """Log which cluster it has joined, and what it offers."""
        super().greet()
        state, node = self.projection.state, self.settings.node
        known = state.nodes.get(node)
        if known is None or known.lost:
            log.warning("node %s was lost: it ends its engines, then registers again", node)
        else:
            log.info("node %s: %s", node, offer(known, len(replicas_on(state, node))))
            beside = shared(node, twins(state))
            if beside:
                log.warning("node %s: %s", node, beside)

    async def work(self) -> None:
        """Reconcile whenever the log or an engine changes, or a pause before a restart ends."""
        lost = False
        while True:
            self._wake.clear()
            now = self._now()
            for action in self._due(now):
                if not self.stopping:  # an unreported end must not start it again
                    self._perform(action)
            if is_out(self.projection.state, self.settings.node) and not self.stopping:
                if not lost:
                    log.warning(
                        "this node was lost or stopped, or taken out of the cluster: "
                        "it ends what it runs"
                    )
                lost = True
                for engine in self._engines:
                    engine.hurried.set()
                if not self._engines and await self._register():
                    log.warning("this node has ended its engines and registered again")
                    lost = False
                    continue
            changed = asyncio.ensure_future(self.projection.changed())
            woken = asyncio.ensure_future(self._wake.wait())
            try:
                await asyncio.wait(
                    (changed, woken),
                    timeout=self._engines.pause(now, self._now(), self._weights.retries),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if changed.done():
                    changed.result()
            finally:
                changed.cancel()
                woken.cancel()

    def _held_here(self) -> set[str]:
        held = {replica.id for replica in replicas_on(self.projection.state, self.settings.node)}
        held |= {engine.replica for engine in self._engines}
        self._secrets.forget(held)
        return held

    async def _register(self) -> bool:
        """Register what this machine offers; return False if the node had to end before."""
        version, held = await asyncio.gather(
            engine_version.find(self.settings.engine_command), self._weights.held()
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
            self.settings.rehearsal,
        )
        self._registration = await self._tell(self.settings.node, registered, None)
        return bool(self._registration)

    def hurry(self) -> None:
        """Kill the engines that have not ended yet, after a second request to stop."""
        self._lives.kill()

    async def end(self) -> None:
        """End every engine, or leave them to the next node process, as configured."""
        await self._lives.end()
        if self.settings.leave_engines:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * LAST_TRY):
                await self._outbox.emptied()
                await self._tell_end()

    async def _tell_end(self) -> None:
        """Report to the log that this node has ended in good order, if all readers know that."""
        state = self.projection.state
        known = state.nodes.get(self.settings.node)
        if known is None or known.away or known.registered != self._registration:
            return
        if state.cluster.version >= SINCE[NodeStopped.__name__][""]:
            await self._tell(known.id, NodeStopped(self._registration), known.changed)

    def _due(self, now: float) -> tuple[Action, ...]:
        state = self.projection.state
        mine = replicas_on(state, self.settings.node)
        # What the policy refuses gets no files: its start fails, with the policy's words.
        fetched = [
            replica
            for replica in mine
            if replica.launch is None or not self._gate.withholds(replica.launch)
        ]
        self._weights.work(state, fetched, {engine.source for engine in self._engines}, now)
        return self._engines.due(state, mine, now, self._weights.waiting(fetched))

    def _perform(self, action: Action) -> None:
        match action:
            case Start(replica=identity, attempt=attempt):
                self._lives.start(self.projection.state.replicas[identity], attempt)
            case Stop(replica=identity, reason=reason, drains=drains):
                stopped = self._engines.get(identity)
                if stopped is not None:
                    seconds = self.settings.drain if drains else 0.0
                    self._lives.stop(stopped, reason, seconds)
            case Kill(replica=identity, asked=asked):
                killed = self._engines.get(identity)
                # The log has what the node said of itself; this machine's owner has the last word.
                if killed is not None and self.settings.rehearsal:
                    self._lives.kill_one(killed, asked)
            case LoadAdapter() | UnloadAdapter():
                self._adapting.begin(action)

    async def _gone(self, replica: Replica, reason: str) -> None:
        await self._tell(replica.id, EngineStopped(reason), replica.changed)

    async def _tell(
        self, identity: str, event: Event, cause: int | None, message_id: str | None = None
    ) -> int:
        """Append a fact, however long it takes, and fold it: facts must not get lost.

        Return its sequence, or 0 if the node had to end before, or if NATS will never take it.
        Raise TooLarge for the registration, without which the node can't work.
        """
        if isinstance(event, ReplicaEvent):
            event = replace(event, node=self.settings.node)
        message_id = message_id or uuid.uuid4().hex
        while not self.projection.ended:
            node = reporter(self.projection.state, event, self.settings.node)
            try:
                seq = await self.log.append(
                    identity,
                    event,
                    cause=cause,
                    message_id=message_id,
                    patience=LAST_TRY,
                    node=node,
                )
                while not await self.projection.reached(seq, timeout=LAST_TRY):
                    if self.stopping:
                        break
                if node or not came_late(self.projection.state, event, seq):
                    return seq
                message_id += "-named"
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
        """Report in the log that this node is alive, whenever a router asks there.

        It runs beside all other work, whose waits must not make the node look dead.
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
            status = NodeHeartbeat(self.settings.node, os.getpid(), engines, free, self._gpus.free)
            if self.connection.connected:
                subject = subjects.node_status(self.settings.node)
                with contextlib.suppress(NatsError):
                    await self.connection.client.publish(subject, msgspec.json.encode(status))
            await asyncio.sleep(HEARTBEAT)

    async def _on_log_request(self, message: Msg) -> None:
        if is_inbox(message.reply):
            reply = await log_reading.answer(message.data, self.settings.log_file, self._mask)
            await self.connection.client.publish(message.reply, reply)

    async def _mask(self, replica: str) -> Mask | None:
        known = self.projection.state.replicas.get(replica)
        return await self._secrets.mask(known) if known is not None else None

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
