"""The figures of a node: its replicas, engines, devices and files; and the texts of its engines."""

import asyncio
from collections import Counter as Tally
from typing import TYPE_CHECKING, ClassVar

from nebula.actors.engine_metrics import of_engines
from nebula.actors.figures import PATIENCE, Figures
from nebula.actors.node import devices
from nebula.actors.node.engine_counts import EngineCounts
from nebula.actors.node.engine_table import EngineTable
from nebula.actors.node.gpu_watch import GpuWatch
from nebula.actors.node.managed_engine import ManagedEngine
from nebula.actors.placement.decision import replicas_on
from nebula.events.state import CachedSource, State
from nebula.metrics.metric import ActorKind
from nebula.metrics.sheet import Sheet

if TYPE_CHECKING:
    from nebula.actors.node.actor import Node


class NodeFigures(Figures):
    """The figures of one node."""

    kind: ClassVar[ActorKind] = "node"

    def __init__(self, node: "Node", engines: EngineTable[ManagedEngine], gpus: GpuWatch) -> None:
        super().__init__(node, node=node.settings.node)
        self._node = node
        self._engines = engines
        self._gpus = gpus
        self.counts = EngineCounts()

    def now(self, sheet: Sheet) -> None:
        """Add the engines, what was counted, and the free memory of the devices."""
        counts = self.counts
        sheet.add("nebula_engines", len(self._engines))
        for labels in counts.starts.known.keys() | counts.failures.known.keys():
            for name, series in (
                ("nebula_engine_starts_total", counts.starts),
                ("nebula_engine_failures_total", counts.failures),
            ):
                counter = series.known.get(labels)
                sheet.add(name, counter.value if counter is not None else 0, *labels)
        for labels, took in counts.took.known.items():
            sheet.add_histogram("nebula_engine_start_duration_seconds", took, *labels)
        gpus = iter(self._gpus.free)
        for device in self._node.inventory:
            free = next(gpus, None) if device.kind == "gpu" else devices.memory_free()
            if free is not None:
                name = "nebula_device_memory_free_bytes"
                sheet.add(name, free, str(device.index), device.kind)

    def folded(self, sheet: Sheet, state: State) -> None:
        """Add what the log has of this node."""
        node = self._node.settings.node
        here = replicas_on(state, node)
        sheet.begin((each.model, each.id) for each in here)
        replicas = Tally((each.model, each.phase) for each in here)
        for (model, phase), number in replicas.items():
            sheet.add("nebula_replicas", number, model, phase)
        occupancy = state.occupancy.get(node)
        used = occupancy.used if occupancy is not None else {}
        for device in self._node.inventory:
            which = str(device.index), device.kind
            sheet.add("nebula_device_memory_bytes", device.memory, *which)
            promised = used.get(device.index, 0)
            sheet.add("nebula_device_memory_promised_bytes", promised, *which)
        known = state.nodes.get(node)
        self._add_files(sheet, list(known.weights.values()) if known is not None else [])

    async def texts_of_engines(self) -> dict[str, bytes]:
        """Return the metrics of all engines that take requests and tell them in time."""
        ready = [engine for engine in self._engines if engine.ready]
        found = await asyncio.gather(*(each.client.metrics(PATIENCE) for each in ready))
        return {
            each.replica: text for each, text in zip(ready, found, strict=True) if text is not None
        }

    async def engines(self) -> bytes:
        """Return the metrics of the node's engines, for its own port."""
        state, node = self.actor.projection.state, self._node.settings.node
        found = await self.texts_of_engines()
        texts = [
            (each, found[each.id].decode("utf-8", "replace") if each.id in found else None)
            for each in replicas_on(state, node)
            if each.phase == "ready"
        ]
        return await asyncio.to_thread(of_engines, "node", texts)

    def _add_files(self, sheet: Sheet, sources: list[CachedSource]) -> None:
        parts = [each for each in sources if not each.whole]
        sheet.add("nebula_weights_bytes", sum(each.total for each in sources if each.whole))
        states = Tally(
            "failed" if each.reason else "waiting" if each.waits else "running" for each in parts
        )
        for state in ("running", "waiting", "failed"):
            sheet.add("nebula_downloads", states[state], state)
        sheet.add("nebula_download_bytes", sum(each.done for each in parts))
        sheet.add("nebula_download_size_bytes", sum(each.total for each in parts))
