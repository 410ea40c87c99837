"""How the streams of JetStream are, as JetStream tells when it is asked."""

import asyncio
from collections.abc import Iterable

from msgspec import Struct
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError

from nebula.store.connection import Connection


class StreamHealth(Struct, frozen=True):
    """One stream. `copies` of it are wanted, and `current` ones have all of it."""

    name: str
    messages: int
    size: int
    copies: int
    current: int


async def health(
    connection: Connection, names: Iterable[str], patience: float
) -> dict[str, StreamHealth | None]:
    """Return how streams are, by name; None for one that does not answer in time."""
    names = tuple(names)
    found = await asyncio.gather(*(_of(connection, name, patience) for name in names))
    return dict(zip(names, found, strict=True))


async def _of(connection: Connection, name: str, patience: float) -> StreamHealth | None:
    try:
        async with asyncio.timeout(patience):
            info = await connection.client.jetstream(timeout=patience).stream_info(name)
    except (NatsError, JetStreamError, TimeoutError, OSError):
        return None
    peers = (info.cluster.replicas or []) if info.cluster is not None else []
    current = sum(bool(peer.current) and not peer.offline for peer in peers)
    led = info.cluster is None or bool(info.cluster.leader)
    state = info.state
    copies = int(info.config.num_replicas or 1)
    return StreamHealth(name, int(state.messages), int(state.bytes), copies, led + current)
