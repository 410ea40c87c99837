"""A node's files: has them fetched, removed, measured and checked, as the log calls for it."""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence, Set

from nebula.actors.node.policy.gate import Gate
from nebula.actors.node.policy.rules import sources_of
from nebula.actors.node.policy.variables import inherited
from nebula.actors.node.weights import provision
from nebula.actors.node.weights.bringing import Bringing
from nebula.actors.node.weights.fetching import Fetching, Retries
from nebula.actors.node.weights.folders import Folders
from nebula.actors.node.weights.hub import Hub
from nebula.actors.node.weights.own_node import OwnNode, Spawn, Tell
from nebula.actors.node.weights.provision import Abandon, Fetch, Local, Remove
from nebula.actors.node.weights.removing import Removing
from nebula.actors.node.weights.surveying import Surveying
from nebula.actors.projection import Projection
from nebula.events.state import Launch, Replica, State
from nebula.events.values import Weights

log = logging.getLogger(__name__)

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""Variables with the node's token for the hub."""

SCAN_TIME = 5.0
"""Seconds that searching the cache may take at the start of a node."""


class WeightsManager:
    """The files of one node. `fetches`: whether the node downloads from the hub itself.

    With `simulated`, its files are those that the log mentions, and the disk is not touched.
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
        simulated: bool = False,
        gate: Gate,
        retries: Retries,
    ) -> None:
        self.hub = hub
        self.fetches = fetches and not hub.offline and not simulated
        self.simulated = simulated
        self._gate = gate
        self._own = own = OwnNode(node, projection, tell=tell, spawn=spawn, wake=wake)
        bringing = Bringing(hub, own.report, lambda: own.held)
        checks = fetches and not simulated
        self._folders = Folders(
            lambda: own.held, own.report, spawn, wake, gate=gate, enabled=checks
        )
        self._surveying = Surveying(own, hub, bringing, self._folders, gate)
        self._fetching = Fetching(own, bringing, retries, self._surveying.look_again)
        self._removing = Removing(own, None if simulated else hub)

    async def held(self) -> tuple[Weights, ...]:
        """Return the sources that are complete on the disk; nothing if that takes too long."""
        if self.simulated:
            known = self._own.held.items()
            return tuple(Weights(source, held.total) for source, held in known if held.whole)
        try:
            async with asyncio.timeout(SCAN_TIME):
                return await asyncio.to_thread(self.hub.held)
        except TimeoutError:
            log.warning("searching %s takes too long", self.hub.cache)
            return ()

    def waiting(self, replicas: Sequence[Replica]) -> frozenset[str]:
        """Return the ids of the replicas whose files are not here yet."""
        waiting = self._folders.waiting(self._own.state, replicas)
        if self.fetches:
            waiting |= provision.waiting(replicas, self._fetching.ready)
        return waiting

    def environment(self, environ: Mapping[str, str], launch: Launch | None) -> dict[str, str]:
        """Return what an engine gets of this node's `environ`, with this node's cache of the hub.

        Without the token with which the node fetched its files it could not ask the hub about them,
        so it does not ask.
        """
        given = inherited(environ, self._gate.policy.inherit)
        withheld = any(environ.get(name) and name not in given for name in TOKENS)
        fetched = (
            self.fetches
            and launch is not None
            and provision.files_of(launch) is not None
            and sources_of(launch) == (launch.source,)
        )
        place = {"HF_HUB_CACHE": str(self.hub.cache)} if self.hub.chosen else {}
        return {**given, **place, **({"HF_HUB_OFFLINE": "1"} if fetched and withheld else {})}

    def work(
        self, state: State, replicas: Sequence[Replica], running: Set[str], now: float
    ) -> None:
        """Start whatever is due. `running`: sources of the running engines. `now`: loop time."""
        local = Local(
            ready=self._fetching.ready,
            busy=self._fetching.busy | self._removing.busy,
            fetching=self._fetching.running.keys(),
            running=running,
            retry_at=self._fetching.retry_at,
            now=now,
            fetches=self.fetches,
        )
        for task in provision.provide(state, self._own.id, replicas, local):
            match task:
                case Fetch(files=files):
                    self._fetching.start(files)
                case Abandon(files=files):
                    self._fetching.abandon(files)
                case Remove(source=source):
                    self._fetching.forget(source)
                    self._removing.start(source)
        self._folders.work(state, replicas, now)
        self._surveying.work(state)

    @property
    def retries(self) -> Collection[float]:
        """When failed sources may be tried again, by the clock of `work`."""
        return (*self._fetching.retry_at.values(), *self._folders.retries)
