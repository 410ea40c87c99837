"""Fetches the sources that a node needs, one task each, and tries again after failures."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from nebula.actors.node.weights import provision
from nebula.actors.node.weights.bringing import Bringing
from nebula.actors.node.weights.download import Damaged
from nebula.actors.node.weights.hub import Refused
from nebula.actors.node.weights.listing import Malformed
from nebula.actors.node.weights.own_node import OwnNode
from nebula.actors.node.weights.provision import Files
from nebula.events.vocabulary import EngineFailed

log = logging.getLogger(__name__)


class Retries(Struct, frozen=True):
    """Pauses before a failed download is tried again, in seconds, doubled each time, without end.

    `damaged`: how many times in a row a file may differ from the hub's list, or the list may not be
    valid.
    """

    pause: float = 1.0
    longest: float = 300.0
    damaged: int = 3

    def after(self, failures: int) -> float:
        """Return the pause after this many failures in a row."""
        return min(self.pause * 2.0 ** min(failures - 1, 64), self.longest)


class Fetching:
    """The sources that a node fetches and has fetched.

    `ready`: those whose files are here. `running`: the task of each that is being fetched.
    `retry_at`: when a failed source may be tried again, in loop time. `arrived` is called with each
    source that was downloaded.
    """

    def __init__(
        self, own: OwnNode, bringing: Bringing, retries: Retries, arrived: Callable[[str], None]
    ) -> None:
        self.ready: set[Files] = set()
        self.busy: set[str] = set()
        self.running: dict[Files, asyncio.Task[None]] = {}
        self.retry_at: dict[str, float] = {}
        self._own = own
        self._bringing = bringing
        self._retries = retries
        self._arrived = arrived
        self._failures: dict[str, int] = {}
        self._damaged: dict[str, int] = {}

    def start(self, files: Files) -> None:
        """Begin to fetch."""
        self.busy.add(files.source)
        self.running[files] = self._own.spawn(self._fetch(files), f"fetch {files.source}")

    def abandon(self, files: Files) -> None:
        """Stop fetching what is no longer needed."""
        self.running.pop(files).cancel()
        self._own.spawn(self._bringing.abandoned(files.source), f"abandon {files.source}")

    def forget(self, source: str) -> None:
        """Count a source's files as no longer here."""
        self.ready = {files for files in self.ready if files.source != source}

    async def _fetch(self, files: Files) -> None:
        source = files.source
        try:
            if await asyncio.to_thread(Path(source).exists):
                # Engines treat a source as a folder if one exists, whatever its name.
                self.ready.add(files)
                return
            await self._bringing.bring(files)
        except Exception as error:  # any failure is retried, but not at once
            await self._failed(files, error)
        else:
            self._failures.pop(source, None)
            self._damaged.pop(source, None)
            self.retry_at.pop(source, None)
            self.ready.add(files)
            self._arrived(source)
        finally:
            self.running.pop(files, None)
            self.busy.discard(source)
            self._own.wake()

    async def _failed(self, files: Files, error: Exception) -> None:
        """Try again later, or report for every waiting replica that it can't start."""
        source = files.source
        if isinstance(error, Damaged | Malformed):
            self._damaged[source] = self._damaged.get(source, 0) + 1
        final = isinstance(error, Refused) or self._damaged.get(source, 0) >= self._retries.damaged
        failures = self._failures.get(source, 0) + 1
        pause = None if final else self._retries.after(failures)
        log.warning("could not fetch %s: %s", source, error)
        await self._bringing.failed(source, str(error), pause)
        if pause is not None:
            self._failures[source] = failures
            self.retry_at[source] = _now() + pause
            return
        self._failures.pop(source, None)
        self._damaged.pop(source, None)
        self.retry_at[source] = _now() + self._retries.pause
        replicas = self._own.state.replicas.values()
        mine = [replica for replica in replicas if replica.node == self._own.id]
        for replica in provision.waiting_for(mine, source):
            failed = EngineFailed(f"its files can't be fetched: {error}", attempt=1)
            await self._own.tell(replica.id, failed, replica.changed)


def _now() -> float:
    return asyncio.get_running_loop().time()
