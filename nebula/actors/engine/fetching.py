"""Fetches the body of a request that is larger than a message from its gateway, part by part."""

import msgspec
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from nebula.events import envelope, subjects
from nebula.events.inference import BodyWanted, Request
from nebula.store.connection import Connection

PART_PATIENCE = 10.0
"""Seconds within which a gateway must answer with a part."""

TRIES = 3
"""How often a part is asked for: a message may be lost when NATS is."""


class BodyLost(Exception):
    """A body can't be fetched: its gateway is gone, or does not want the attempt any more."""


async def fetch(connection: Connection, request: Request) -> bytes:
    """Return the body of a request. Raise BodyLost."""
    body = bytearray()
    room = connection.max_body - envelope.HEADER_ROOM
    while len(body) < request.size:
        size = min(room, request.size - len(body))
        wanted = BodyWanted(request.id, request.attempt, len(body), size)
        part = await _part(connection, request.gateway, wanted)
        if not part:
            raise BodyLost(f"its gateway has {len(body)} bytes of it, and not {request.size}")
        body += part
    if len(body) > request.size:
        raise BodyLost(f"its gateway sent more than {request.size} bytes of it")
    return bytes(body)


async def _part(connection: Connection, gateway: str, wanted: BodyWanted) -> bytes:
    question, subject = msgspec.json.encode(wanted), subjects.bodies(gateway)
    failure = "its gateway does not answer"
    for _ in range(TRIES):
        try:
            reply = await connection.client.request(subject, question, timeout=PART_PATIENCE)
        except NoRespondersError:
            failure = "its gateway is gone"
            break
        except (NatsError, TimeoutError) as error:
            failure = f"its gateway does not answer: {error or type(error).__name__}"
            continue
        if reply.headers and envelope.FAILURE in reply.headers:
            raise BodyLost("its gateway does not want it any more")
        return bytes(reply.data)
    raise BodyLost(failure)
