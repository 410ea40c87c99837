"""The command line's own view of the cluster: one connection, the log folded up to now."""

import asyncio
import getpass
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nebula.actors.actor import cancel
from nebula.actors.projection import Projection
from nebula.events.plain_text import plain
from nebula.store.connection import Connection, NotLetIn, Unavailable
from nebula.store.log import Log, NoLog
from nebula.store.reach import trouble
from nebula.store.refusals import NotAppended

CONNECT_PATIENCE = 3.0
"""Seconds for a NATS server to answer."""

FOLD_PATIENCE = 15.0
"""Seconds to wait for the log: a cluster that loses the log's leader needs up to nine."""


def person() -> str:
    """Return the principal of a command, as events tell it: `cli:USER@HOST`. Nothing proves it."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())
    return plain(f"cli:{user}@{socket.gethostname()}").encode("ascii", "replace").decode()


async def connected(
    nats: str, name: str, *, patience: float | None = None, role: str = "operator"
) -> Connection:
    """Connect to a cluster. Raise Unavailable, which says how to start or to name one.

    `patience`: seconds for a server to be there and to answer. Without it, a server has
    CONNECT_PATIENCE seconds to answer, and one that is not there is not waited for. `role`: whose
    credentials are used at the server of `nebula up`.
    """
    limit = CONNECT_PATIENCE if patience is None else patience
    connection = Connection(nats, name, role=role, forbids_at_once=True)
    try:
        return await connection.open(patience=limit, if_there=patience is None)
    except NotLetIn:
        raise
    except Unavailable as error:
        hint = "`make run` or `nebula up` starts a cluster, --nats URL names another"
        raise Unavailable(f"{error} ({hint})") from error


@asynccontextmanager
async def joined(nats: str, *, patience: float | None = None) -> AsyncIterator[Projection]:
    """Join the cluster at `nats` and fold its log; the projection keeps following it.

    No stream is created: only actors know how many copies a log has. Raise Unavailable, NoLog,
    StreamMismatch.
    """
    connection = await connected(nats, "nebula command", patience=patience)
    try:
        projection = Projection(Log(connection, actor="cli", by=person()))
        await projection.restore()
        following = asyncio.create_task(projection.run())
        try:
            await _catch_up(projection)
            yield projection
        except NotAppended as error:
            refused, _ = await trouble(connection)
            raise NotAppended(refused or error.reason, error.outcome) from error
        finally:
            await cancel([following])
    finally:
        await connection.close()


async def _catch_up(projection: Projection) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + FOLD_PATIENCE
    while True:
        try:
            await projection.log.check()
            await projection.caught_up()
            return
        except NoLog:
            raise
        except Unavailable:
            if loop.time() >= deadline:
                raise
            await asyncio.sleep(0.25)
