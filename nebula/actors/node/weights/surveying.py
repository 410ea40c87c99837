"""Reports how much memory models need, from their files here or on the hub (``measuring``)."""

import asyncio
import logging
from pathlib import Path

from nebula.actors.node.policy.gate import Gate, NotAllowed
from nebula.actors.node.weights import folder, provision
from nebula.actors.node.weights.bringing import Bringing
from nebula.actors.node.weights.folders import Folders
from nebula.actors.node.weights.hub import Hub, Refused, Unreachable
from nebula.actors.node.weights.listing import Malformed, Unlisted
from nebula.actors.node.weights.measuring import Figures, Unmeasurable
from nebula.actors.node.weights.own_node import OwnNode
from nebula.actors.node.weights.provision import Files, Measure
from nebula.events.state import Model, State
from nebula.events.vocabulary import ModelMeasured

log = logging.getLogger(__name__)

OTHERS_TIME = 2.0
"""Seconds that a node which can't measure a model waits for others that may."""


class Surveying:
    """The measurements of models that one node makes, each once for each load request."""

    def __init__(
        self, own: OwnNode, hub: Hub, bringing: Bringing, folders: Folders, gate: Gate
    ) -> None:
        self._own = own
        self._hub = hub
        self._bringing = bringing
        self._folders = folders
        self._gate = gate
        self._tried: dict[str, int] = {}
        self._looked_at: object = None

    def work(self, state: State) -> None:
        """Begin to measure the models that are not measured yet."""
        if state.models is self._looked_at:
            return
        self._looked_at = state.models
        for asked in provision.unmeasured(state, self._own.id, self._tried):
            self._tried[asked.model] = asked.requested_seq
            self._own.spawn(self._measure(asked), f"measure {asked.model}")

    def look_again(self, source: str) -> None:
        """Measure unmeasured models of a source again: downloaded files may tell more."""
        for model in self._own.state.models.values():
            if model.spec.source == source and not provision.told(model):
                self._tried.pop(model.id, None)
                self._looked_at = None

    async def _measure(self, task: Measure) -> None:
        """Report a model's memory need; report it as unknown only if no other node knows it."""
        reason = ""
        if task.turn and await self._answered(task, task.turn, figures=True):
            return
        try:
            found = await self._figures(task.files)
        except (Unmeasurable, Unreachable, Refused, Malformed, Unlisted, OSError) as error:
            found, reason = Figures(0, 0, 0), str(error)
        except Exception as error:  # files are untrusted: any error is reported
            log.exception("could not measure %s", task.files.source)
            found, reason = Figures(0, 0, 0), f"{type(error).__name__}: {error}"
        if not found.weights:
            await self._folders.missing(task.files.source)
            others = provision.others_may_tell(self._own.state, self._own.id, task.files.source)
            timeout = OTHERS_TIME if others else 0.0
            if await self._answered(task, timeout, figures=False):
                return
        elif await self._answered(task, 0, figures=True):
            return
        event = ModelMeasured(
            task.files.source, found.weights, found.cache_per_token, found.context, reason
        )
        # If two nodes answer at once, only one answer is kept.
        answer = "measured" if found.weights else "unmeasured"
        await self._own.tell(
            task.model, event, task.requested_seq, f"{answer}-{task.model}-{task.requested_seq}"
        )

    async def _figures(self, files: Files) -> Figures:
        try:
            await self._gate.admit_source(files.source)
        except NotAllowed as error:
            raise Unmeasurable(str(error)) from error
        found = await asyncio.to_thread(self._figures_here, files)
        if found is not None:
            return found
        async with self._bringing.asking():
            return await self._hub.measure(files)

    def _figures_here(self, files: Files) -> Figures | None:
        """Return the measurements of files on this disk; None if only the hub has them."""
        path = Path(files.source)
        if path.exists():
            return folder.measure(path)
        if not provision.is_hub_id(files.source):
            raise Unmeasurable(f"node {self._own.id} has no folder {files.source}")
        cached = self._hub.cached(files)
        return folder.measure(cached) if cached is not None else None

    async def _answered(self, task: Measure, timeout: float, *, figures: bool) -> bool:
        """Wait some time for an answer, with figures or any, or until it is no longer needed."""

        def settled(state: State) -> bool:
            model = state.models.get(task.model)
            return (
                model is None
                or model.spec.source != task.files.source
                or (provision.told(model) if figures else _answered(model))
            )

        return await self._own.projection.until(settled, timeout)


def _answered(model: Model) -> bool:
    return model.measured is not None and model.measured.source == model.spec.source
