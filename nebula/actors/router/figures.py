"""The figures of a router: its queues and decisions, the cluster as the log has it, JetStream."""

import asyncio
import time
from collections import Counter as Tally
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from nebula.actors.figures import PATIENCE, Figures
from nebula.actors.placement.decision import Decision
from nebula.actors.router.dispatch import Dispatch
from nebula.actors.router.request_counts import MODELS
from nebula.events.decisions import ModelAssigned, ModelSlept, ModelWoken
from nebula.events.model_status import model_phase
from nebula.events.state import State
from nebula.metrics.counting import Counter, Series
from nebula.metrics.metric import OTHER, ActorKind
from nebula.metrics.sheet import Sheet
from nebula.store.connection import Unavailable
from nebula.store.snapshots import Snapshots
from nebula.store.stream_health import health
from nebula.store.upkeep import all_streams

if TYPE_CHECKING:
    from nebula.actors.router.actor import Router

_OF_MODELS = {
    ModelAssigned: "nebula_model_placements_total",
    ModelWoken: "nebula_model_wakes_total",
    ModelSlept: "nebula_model_sleeps_total",
}
"""Decisions that are counted by model, too."""


PHASES = ("ready", "loading", "failed", "unschedulable", "unloading", "idle", "asleep")
"""The phases of models."""

STANDS = ("ready", "draining", "lost", "stopped")
"""What a node may be."""


class RouterFigures(Figures):
    """The figures of one router."""

    kind: ClassVar[ActorKind] = "router"

    def __init__(self, router: "Router", dispatch: Dispatch) -> None:
        super().__init__(router, router=router.id)
        self._router = router
        self._dispatch = dispatch
        self._snapshots = Snapshots(router.log)
        self._snapshot: tuple[int, int] = (0, 0)
        """Sequence and time (ns) of the event that the newest snapshot was taken at."""
        self._decisions: Tally[str] = Tally()
        self._of_models: Series[Counter] = Series(Counter, MODELS, lambda key: (key[0], OTHER))

    def decided(self, decision: Decision) -> None:
        """Count a decision that this router has added to the log."""
        kind = type(decision.event)
        self._decisions[kind.__name__] += 1
        if kind in _OF_MODELS:
            self._of_models.get((_OF_MODELS[kind], decision.id)).add()

    async def look(self, sheet: Sheet) -> None:
        """Add how JetStream's streams are, and how old the newest snapshot is."""
        names = [stream.name or "" for stream in all_streams(1)]
        streams, _ = await asyncio.gather(
            health(self._router.connection, names, PATIENCE), self._look_at_snapshots(sheet)
        )
        for name, found in streams.items():
            sheet.add("nebula_stream_up", int(found is not None), name)
            if found is not None:
                sheet.add("nebula_stream_messages", found.messages, name)
                sheet.add("nebula_stream_bytes", found.size, name)
                sheet.add("nebula_stream_replicas", found.copies, name)
                sheet.add("nebula_stream_replicas_current", found.current, name)

    def now(self, sheet: Sheet) -> None:
        """Add the queues, and what was counted."""
        counts = self._dispatch.counts
        queues = self._dispatch.status().queues
        loads = self._dispatch.loads()
        counted = {model for (model,) in counts.waits.known if model != OTHER}
        for model in sorted(counted | queues.keys() | loads.keys())[:MODELS]:
            line, load = queues.get(model), loads.get(model)
            sheet.add("nebula_requests_waiting", line.waiting if line else 0, model)
            sheet.add("nebula_slack_requests_waiting", line.slack if line else 0, model)
            sheet.add("nebula_longest_wait_seconds", line.oldest if line else 0, model)
            sheet.add("nebula_engine_requests", load.in_flight if load else 0, model)
        for labels, histogram in counts.waits.known.items():
            sheet.add_histogram("nebula_queue_wait_seconds", histogram, *labels)
        for labels, counter in counts.refusals.known.items():
            sheet.add("nebula_router_requests_refused_total", counter.value, *labels)
        for kind, number in self._decisions.items():
            sheet.add("nebula_decisions_total", number, kind)
        for (name, model), counter in self._of_models.known.items():
            sheet.add(name, counter.value, model)

    def folded(self, sheet: Sheet, state: State) -> None:
        """Add models and nodes, and what is not counted yet."""
        models = [(model, model_phase(state, model)) for _, model in sorted(state.models.items())]
        missing = (((model.id,), int(bool(model.unschedulable))) for model, _ in models)
        sheet.add_all("nebula_model_unschedulable", missing)
        wanted = (((model.id,), number) for model, (_, _, number) in models)
        sheet.add_all("nebula_model_replicas_wanted", wanted)
        ready = (((model.id,), number) for model, (_, number, _) in models)
        sheet.add_all("nebula_model_replicas_ready", ready)
        for phase, number in _filled(PHASES, (phase for _, (phase, _, _) in models)).items():
            sheet.add("nebula_models", number, phase)
        stands = (node.closed or "ready" for node in state.nodes.values())
        for stand, number in _filled(STANDS, stands).items():
            sheet.add("nebula_nodes", number, stand)
        sheet.add("nebula_nodes_at_risk", state.cluster.risks.count)
        sheet.add("nebula_models_at_risk", state.cluster.risks.models)
        sheet.begin((model.id,) for model, _ in models)

    async def _look_at_snapshots(self, sheet: Sheet) -> None:
        seq = self._router.projection.state.seq
        try:
            async with asyncio.timeout(PATIENCE):
                newest = max(await self._snapshots.seqs(), default=0)
                if newest and newest != self._snapshot[0]:
                    entry = await self._router.log.entry(newest)
                    self._snapshot = newest, entry.time if entry is not None else 0
        except (Unavailable, TimeoutError):
            return
        sheet.add("nebula_snapshot_lag_events", max(0, seq - newest))
        if newest and self._snapshot[1]:
            age = max(0.0, (time.time_ns() - self._snapshot[1]) / 1e9)
            sheet.add("nebula_snapshot_age_seconds", age)


def _filled(words: tuple[str, ...], found: Iterable[str]) -> dict[str, int]:
    """Return how often each word was found, 0 for those that were not."""
    return {**dict.fromkeys(words, 0), **Tally(found)}
