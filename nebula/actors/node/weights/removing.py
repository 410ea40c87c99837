"""Removes the files of sources that were asked to be removed from a node."""

import asyncio
import logging

from nebula.actors.node.weights.hub import Hub
from nebula.actors.node.weights.own_node import OwnNode
from nebula.events.vocabulary import WeightsRemoved

log = logging.getLogger(__name__)

PAUSE = 5
"""Seconds after a failed removal until the next try."""


class Removing:
    """The removals of one node. `hub`: None if the disk is not to be touched."""

    def __init__(self, own: OwnNode, hub: Hub | None) -> None:
        self.busy: set[str] = set()
        self._own = own
        self._hub = hub

    def start(self, source: str) -> None:
        """Begin to remove a source's files."""
        self.busy.add(source)
        self._own.spawn(self._remove(source), f"remove {source}")

    async def _remove(self, source: str) -> None:
        try:
            if self._hub is not None:
                await asyncio.to_thread(self._hub.remove, source)
            await self._own.report(WeightsRemoved(source, "asked for"))
        except Exception as error:
            log.warning("could not remove %s: %r", source, error)
            await asyncio.sleep(PAUSE)
        finally:
            self.busy.discard(source)
            self._own.wake()
