"""What is heard through another NATS server of the cluster, by a connection of a few seconds."""

import asyncio
from collections.abc import Callable, Sequence, Set

from nats.errors import Error as NatsError

from nebula.store import reaching
from nebula.store.connection import Connection, Unavailable
from nebula.store.reach import reach

LISTEN = 2.5
"""Seconds of listening: heartbeats come once in 2 s or more often."""

LONGEST = 2 * reaching.CONNECT + LISTEN
"""Seconds for all of it, from the first try to connect."""


async def listen(
    connection: Connection,
    server: str,
    patterns: Sequence[str],
    enough: Callable[[Set[bytes]], bool],
) -> tuple[frozenset[bytes], bool] | None:
    """Return the subjects on which something came through a server, and whether the log answers.

    Args:
        connection: the connection that knows the server.
        server: one of its `others`.
        patterns: the subjects to subscribe to.
        enough: whether these subjects are enough, so that there is no need to listen on.

    None if there is no connection to the server for all of that time.
    """
    heard: set[bytes] = set()
    changed = asyncio.Event()

    def arrived(subject: bytes, _: bytes, __: bytes) -> None:
        if subject not in heard:
            heard.add(bytes(subject))
            changed.set()

    other = connection.beside(server, f"{connection.name} (listens)")
    try:
        async with asyncio.timeout(LONGEST):
            await other.open(patience=0)
            for pattern in patterns:
                await other.client.listen(pattern, arrived)
            asking = asyncio.create_task(reach(other))
            try:
                await _until(heard, changed, enough)
                found = await asking
            finally:
                asking.cancel()
            if other.client.stats["reconnects"] or not other.connected:
                return None
            return frozenset(heard), not found.refused
    except (Unavailable, NatsError, OSError, ValueError, LookupError, TimeoutError):
        return None
    finally:
        await other.close()


async def _until(
    heard: set[bytes], changed: asyncio.Event, enough: Callable[[Set[bytes]], bool]
) -> None:
    """Wait until enough is heard, LISTEN seconds at most."""
    try:
        async with asyncio.timeout(LISTEN):
            while not enough(heard):
                changed.clear()
                await changed.wait()
    except TimeoutError:
        return
