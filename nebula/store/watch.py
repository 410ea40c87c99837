"""Watches the embedded server's store: reports its state to the cluster, restarts the server.

It uses plain NATS, which works while JetStream can't write.
"""

import asyncio
import contextlib
import logging
from pathlib import Path

import httpx
import msgspec
from nats.errors import Error as NatsError

from nebula.events import subjects
from nebula.events.heartbeats import StoreHeartbeat
from nebula.events.reading import UNREADABLE
from nebula.store import disk, streams
from nebula.store.connection import Connection
from nebula.store.disk import Disk
from nebula.store.server import NAME, EmbeddedServer
from nebula.store.writability import WARN_BELOW, Probed, Restarts, restart, status

log = logging.getLogger(__name__)

EVERY = 2.0
"""Seconds between two heartbeats."""

DISK_PATIENCE = 5.0
"""Seconds that a disk gets to store a file."""

SERVER_PATIENCE = 3.0
"""Seconds to wait for the server's health."""

LASTS = 1.0
"""Seconds after which an error counts, if it is still there.

While a stream is made or deleted, nats-server (2.15) finds its folder without the stream, and tells
at `/healthz` that it could not be recovered.
"""


class StoreWatch:
    """Watches the embedded server's store. `below`: free bytes that count as little room."""

    def __init__(self, server: EmbeddedServer, *, below: int = WARN_BELOW) -> None:
        self._server = server
        self._store = server.folder / "jetstream"
        self._below = below
        self.connection = Connection(server.login("provision"), "store")
        self.connected = asyncio.Event()
        """Whether the server was reached."""
        self._probing: asyncio.Task[tuple[bool, Disk, str]] | None = None
        self._restarts = Restarts()
        self._refused_since: float | None = None
        self._log_seen = False
        self._said = ""

    async def run(self) -> None:
        """Watch for ever."""
        opening = asyncio.create_task(self._open())
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
            await self.connection.close()

    async def _open(self) -> None:
        await self.connection.open()
        self.connected.set()

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
        if self.connection.connected:
            with contextlib.suppress(NatsError):
                self.connection.client.post(
                    subjects.store_status(NAME), b"", msgspec.json.encode(told)
                )
        if due:
            log.warning("restarting nats-server: %s", probed.server)
            await self._server.end()  # the supervisor starts it again

    def _say(self, told: StoreHeartbeat) -> None:
        """Log when a refusal or a warning begins or ends, not when its figures change."""
        kind = (told.refused or told.warning).partition(":")[0]
        if kind != self._said:
            if told.refused:
                log.error("nothing can be changed now, loaded models are served: %s", told.refused)
            elif told.warning:
                log.warning("%s", told.warning)
            else:
                log.warning("the log takes events again")
        self._said = kind

    async def _probe(self, http: httpx.AsyncClient) -> Probed:
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self._server.keep_logins)
        found: Disk | None = None
        if self._probing is None:
            self._probing = asyncio.create_task(asyncio.to_thread(_try_disk, self._store))
        await asyncio.wait((self._probing,), timeout=DISK_PATIENCE)
        refusal, gone = "does not answer", False
        if self._probing.done():
            probing, self._probing = self._probing, None
            try:
                there, found, refusal = probing.result()
                gone = self._log_seen and not there
                self._log_seen |= there
            except OSError as error:
                refusal = disk.in_words(error)
                gone = isinstance(error, FileNotFoundError)
        server, silent = await self._health(http)
        used, limit = await self._usage(http)
        return Probed(str(self._store), found, refusal, gone, server, silent, used, limit)

    async def _health(self, http: httpx.AsyncClient) -> tuple[str, bool]:
        first, silent = await self._error(http)
        if not first:
            return "", silent
        await asyncio.sleep(LASTS)
        again, silent = await self._error(http)
        return again if again == first else "", silent

    async def _error(self, http: httpx.AsyncClient) -> tuple[str, bool]:
        try:
            answer = await http.get(f"{self._server.monitor}/healthz")
            said = msgspec.json.decode(answer.content, type=dict[str, object])
        except (httpx.HTTPError, *UNREADABLE):
            return "", True
        if answer.status_code == 200:
            return "", False
        return str(said.get("error") or said.get("status") or answer.status_code), False

    async def _usage(self, http: httpx.AsyncClient) -> tuple[int, int]:
        try:
            answer = await http.get(f"{self._server.monitor}/jsz")
            usage = msgspec.json.decode(answer.content, type=_Usage)
        except (httpx.HTTPError, *UNREADABLE):
            return 0, 0
        return usage.storage, usage.config.max_storage


class _Config(msgspec.Struct):
    max_storage: int = 0


class _Usage(msgspec.Struct):
    """The part of `/jsz` that is read: https://docs.nats.io/running-a-nats-service/nats_admin/monitoring."""

    storage: int = 0
    config: _Config = msgspec.field(default_factory=_Config)


def _try_disk(folder: Path) -> tuple[bool, Disk, str]:
    """Return whether the log's files exist, its disk, and why the disk takes no file."""
    return _there(folder), disk.disk_of(folder), disk.refusal(folder)


def _there(folder: Path) -> bool:
    """Return whether the log's files exist, as far as that can be seen.

    nats-server keeps them in streams/NAME/msgs of an account, of which the first is $G.
    """
    try:
        files = tuple((folder / "$G" / "streams" / streams.EVENTS / "msgs").iterdir())
    except FileNotFoundError:
        return False
    return any(file.suffix == ".blk" for file in files)
