"""Watches the embedded server's store: tells the cluster how it stands, restarts the server.

It speaks over plain NATS, which works while JetStream can't write.
"""

import asyncio
import contextlib
import logging
from pathlib import Path

import httpx
import msgspec
from nats.errors import Error as NatsError

from nebula.events import subjects
from nebula.events.status import StoreStatus
from nebula.store import disk
from nebula.store.connection import Connection
from nebula.store.disk import Disk
from nebula.store.server import NAME, EmbeddedServer
from nebula.store.writability import WARN_BELOW, Probed, Restarts, restart, status

log = logging.getLogger(__name__)

EVERY = 2.0
"""Seconds between two heartbeats."""

DISK_PATIENCE = 5.0
"""Seconds that a disk gets to take a file; one that takes longer is not waited for."""

SERVER_PATIENCE = 3.0
"""Seconds for the server to say how it is."""


class StoreWatch:
    """See the module. `below`: free bytes that count as little room."""

    def __init__(self, server: EmbeddedServer, *, below: int = WARN_BELOW) -> None:
        self._server = server
        self._store = server.folder / "jetstream"
        self._below = below
        self._connection = Connection(server.url, "store")
        self._probing: asyncio.Task[tuple[Disk, str]] | None = None
        self._restarts = Restarts()
        self._refused_since: float | None = None
        self._said = ""

    async def run(self) -> None:
        """Watch for ever."""
        opening = asyncio.create_task(self._connection.open())
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=SERVER_PATIENCE) as http:
                while True:
                    try:
                        await self._look(http)
                    except Exception:
                        log.exception("the log's store can't be watched")
                    await asyncio.sleep(EVERY)
        finally:
            opening.cancel()
            await self._connection.close()

    async def _look(self, http: httpx.AsyncClient) -> None:
        now = asyncio.get_running_loop().time()
        probed = await self._probe(http)
        self._restarts, due = restart(self._restarts, probed, now)
        told = status(probed, self._below, now - (self._refused_since or now))
        if not told.refused:
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = now
        self._say(told)
        if self._connection.connected:
            with contextlib.suppress(NatsError):
                self._connection.client.post(
                    subjects.store_status(NAME), b"", msgspec.json.encode(told)
                )
        if due:
            log.warning("restarting nats-server: %s", probed.server)
            await self._server.end()  # who supervises it starts it again

    def _say(self, told: StoreStatus) -> None:
        """Log a line when something changes: who refuses or nearly does, not how many bytes."""
        kind = (told.refused or told.warning).partition(":")[0]
        if kind != self._said:
            if told.refused:
                log.error("nothing can be changed now, what is loaded is served: %s", told.refused)
            elif told.warning:
                log.warning("%s", told.warning)
            else:
                log.warning("the log takes events again")
        self._said = kind

    async def _probe(self, http: httpx.AsyncClient) -> Probed:
        found: Disk | None = None
        if self._probing is None:
            self._probing = asyncio.create_task(asyncio.to_thread(_try_disk, self._store))
        await asyncio.wait((self._probing,), timeout=DISK_PATIENCE)
        refusal = "does not answer"
        if self._probing.done():
            probing, self._probing = self._probing, None
            try:
                found, refusal = probing.result()
            except OSError as error:
                refusal = disk.in_words(error)
        server, silent = await self._health(http)
        used, limit = await self._usage(http)
        return Probed(str(self._store), found, refusal, server, silent, used, limit)

    async def _health(self, http: httpx.AsyncClient) -> tuple[str, bool]:
        try:
            answer = await http.get(f"{self._server.monitor}/healthz")
            said = msgspec.json.decode(answer.content, type=dict[str, object])
        except (httpx.HTTPError, msgspec.DecodeError):
            return "", True
        if answer.status_code == 200:
            return "", False
        return str(said.get("error") or said.get("status") or answer.status_code), False

    async def _usage(self, http: httpx.AsyncClient) -> tuple[int, int]:
        try:
            answer = await http.get(f"{self._server.monitor}/jsz")
            usage = msgspec.json.decode(answer.content, type=_Usage)
        except (httpx.HTTPError, msgspec.DecodeError):
            return 0, 0
        return usage.storage, usage.config.max_storage


class _Config(msgspec.Struct):
    max_storage: int = 0


class _Usage(msgspec.Struct):
    """What is read of `/jsz`: https://docs.nats.io/running-a-nats-service/nats_admin/monitoring."""

    storage: int = 0
    config: _Config = msgspec.field(default_factory=_Config)


def _try_disk(folder: Path) -> tuple[Disk, str]:
    return disk.disk_of(folder), disk.refusal(folder)
