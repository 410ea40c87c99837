"""The NATS server of `nebula up` and of sandboxes: a user for each role, and its log."""

import asyncio
import logging
from pathlib import Path

from nebula.schema.parties import ROLES, RoleName
from nebula.schema.roles import Role, rights
from nebula.store.connection import Unavailable
from nebula.store.log import Log
from nebula.store.needs import Unfit
from nebula.store.server import NO_LIMIT, EmbeddedServer
from nebula.store.streams import StreamMismatch
from nebula.store.upkeep import Upkeep, all_streams
from nebula.store.watch import StoreWatch

log = logging.getLogger(__name__)

CREATING = 15.0
"""Seconds for the log to be created before the actors are started anyway: they wait for it."""


def embedded(folder: Path, port: int, limit: int = NO_LIMIT) -> EmbeddedServer:
    """Return a server with a user for each role. `limit`: bytes that it may keep in files."""
    return EmbeddedServer(
        folder, port, limit=limit, roles={name: rights(Role(name)) for name in ROLES}
    )


def environment(role: RoleName, server: EmbeddedServer | None, url: str) -> dict[str, str]:
    """Return the variables with which an actor finds NATS, and the credentials for it.

    `server`: the server that was started for them, if any; else `url` names another.
    """
    if server is None:
        return {"NEBULA_NATS_URL": url}
    found = {"NEBULA_NATS_URL": server.login(role)}
    if role == "node":
        found["NEBULA_ENGINE_NATS_URL"] = server.login("engine")
    return found


class LogKeeper:
    """Creates the log, and changes its settings back: no actor may do either.

    It uses the connection of the store's watch.
    """

    def __init__(self, watch: StoreWatch, replicas: int = 1) -> None:
        self._watch = watch
        self._replicas = replicas
        self._created = asyncio.Event()

    async def run(self) -> None:
        """Create the log, then keep its settings, for ever."""
        connection, replicas = self._watch.connection, self._replicas
        try:
            await self._watch.connected.wait()
            await Log(connection, replicas=replicas).open()
            self._created.set()
            kept = all_streams(replicas)[:1]
            await Upkeep(connection, replicas, lambda: 1, lambda: False, lambda: None, kept).run()
        except (StreamMismatch, Unfit, Unavailable) as error:
            log.debug("the log is not kept: %s", error)  # each actor says so and ends
            self._created.set()

    async def created(self) -> None:
        """Wait until the log is there, CREATING seconds at most."""
        try:
            async with asyncio.timeout(CREATING):
                await self._created.wait()
        except TimeoutError:
            log.warning("the log is not created yet")
