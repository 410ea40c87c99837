"""The command line's own view of the cluster: one connection, the log folded up to now."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nebula.actors.actor import cancel
from nebula.actors.projection import Projection
from nebula.store.connection import Connection
from nebula.store.log import Log


@asynccontextmanager
async def joined(nats: str, *, patience: float = 3.0) -> AsyncIterator[Projection]:
    """Join the cluster at `nats` and fold its log; the projection goes on following it.

    Raises Unavailable, StreamMismatch.
    """
    connection = await Connection(nats, "nebula command").open(patience=patience)
    try:
        projection = Projection(await Log(connection, actor="cli").open(patience=patience))
        following = asyncio.create_task(projection.run())
        try:
            await projection.caught_up()
            yield projection
        finally:
            await cancel([following])
    finally:
        await connection.close()
