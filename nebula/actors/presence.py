"""Whether a process runs a node now: nodes answer requests for logs, so NATS knows."""

from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from nebula.events import subjects
from nebula.store.connection import Connection

_ANSWER = 1.0  # seconds


async def answers(connection: Connection, node: str) -> bool | None:
    """Return whether a process runs a node; None if a listener is silent or NATS can't tell."""
    if not connection.connected:
        return None
    try:
        await connection.client.request(subjects.logs(node), b"", timeout=_ANSWER)
    except NoRespondersError:
        return False
    except (NatsError, TimeoutError):
        return None
    return True
