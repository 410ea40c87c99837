"""A node's part for adapters: changes them in its engines, reports to the log, removes copies."""

import asyncio
import logging
from collections.abc import Callable, Coroutine

from nebula.actors.node.adapter_copies import AdapterCopies
from nebula.actors.node.engine_http import EngineRefused, EngineSilent
from nebula.actors.node.engine_table import EngineTable
from nebula.actors.node.managed_engine import ManagedEngine
from nebula.actors.node.policy.gate import Gate, NotAllowed
from nebula.actors.node.reconciliation import LoadAdapter, UnloadAdapter
from nebula.actors.node.settings import NodeSettings
from nebula.actors.node.weights.hub import Hub
from nebula.actors.node.weights.own_node import Tell
from nebula.actors.projection import Projection
from nebula.events.state import State
from nebula.events.vocabulary import AdapterLoadFailed, Event

log = logging.getLogger(__name__)

TIDY_EVERY = 60.0
"""Seconds between two searches for unneeded copies."""

RETRY = 1.0
"""Seconds until an engine that does not answer about its adapters is asked again."""


class Adapting:
    """A node's part for adapters."""

    def __init__(
        self,
        settings: NodeSettings,
        hub: Hub,
        engines: EngineTable[ManagedEngine],
        projection: Projection,
        *,
        gate: Gate,
        tell: Tell,
        spawn: Callable[[Coroutine[object, object, None], str], asyncio.Task[None]],
        wake: Callable[[], None],
    ) -> None:
        self._node = settings.node
        self._gate = gate
        self._copies = AdapterCopies(
            settings.folder / "adapters" / settings.node,
            settings.node,
            hub,
            simulated=settings.simulated,
        )
        self._engines = engines
        self._projection = projection
        self._tell = tell
        self._spawn = spawn
        self._wake = wake

    def begin(self, action: LoadAdapter | UnloadAdapter) -> None:
        """Change an adapter, unless another change of the same replica is running."""
        if self._engines.adapts(action.replica):
            self._spawn(self._adapt(action), f"adapter of {action.replica}")

    async def keep_tidy(self) -> None:
        """Delete unneeded copies, again and again."""
        while True:
            await asyncio.sleep(TIDY_EVERY)
            if await asyncio.to_thread(self._copies.any):
                await self.tidy()

    async def tidy(self) -> None:
        """Delete unneeded copies; none if it is unknown which are needed."""
        taken = self._copies.taken
        if self._engines.adapting:
            return
        needed = set(wanted(self._projection.state, self._node))
        try:
            for engine in self._engines:
                if not engine.ready:
                    continue
                needed.update(await engine.client.versions())
        except EngineRefused as error:
            log.info("copies of adapters are kept for now: %s", error)
        except EngineSilent as error:
            log.info("copies of adapters are kept for now, an engine does not answer: %s", error)
        else:
            await asyncio.to_thread(self._copies.prune, needed, taken)

    async def _adapt(self, action: LoadAdapter | UnloadAdapter) -> None:
        """Change one adapter of a ready engine, and report the outcome to the log."""
        engine = self._engines.get(action.replica)
        replica = self._projection.state.replicas.get(action.replica)
        try:
            if engine is None or replica is None:
                return
            model = self._projection.state.models.get(replica.model)
            cause = model.changed if model is not None else engine.last_seq
            try:
                event = await self._changed(engine, action)
            except EngineSilent as error:
                log.warning("%s does not answer about its adapters: %s", action.replica, error)
                await asyncio.sleep(RETRY)
                return
            if self._engines.get(action.replica) is engine:
                await self._tell(action.replica, event, cause)
        finally:
            self._engines.adapted(action.replica)
            self._wake()

    async def _changed(self, engine: ManagedEngine, action: LoadAdapter | UnloadAdapter) -> Event:
        """Change an adapter, if the node's policy allows its source. Raise EngineSilent."""
        if isinstance(action, LoadAdapter):
            try:
                await self._gate.admit_source(action.source)
            except NotAllowed as error:
                name, source = action.name, action.source
                return AdapterLoadFailed(name, source, str(error), asked=action.asked)
        return await engine.adapt(action, self._copies)


def wanted(state: State, node: str) -> frozenset[str]:
    """Return the digests that adapters' names stand for, and those in a node's engines."""
    served = {offer.digest for model in state.models.values() for offer in model.offers.values()}
    held = {
        digest
        for replica in state.replicas.values()
        if replica.node == node
        for status in replica.adapters.values()
        for digest in status.held
    }
    return frozenset(served | held)
