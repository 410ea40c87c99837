"""Asks all gateways and routers over NATS about requests in flight, and cancels one.

How many gateways there are is not known. So replies are gathered until none has come for a moment.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from nats.errors import Error as NatsError

from nebula.events import subjects
from nebula.events.reading import decoded
from nebula.events.requests_in_flight import (
    CancelQuestion,
    CancelReply,
    InFlightQuestion,
    InFlightReply,
    RequestInFlight,
)
from nebula.store.connection import Connection, Unavailable

R = TypeVar("R", bound=Struct)

FIRST = 2.0
"""Seconds for the first reply."""

QUIET = 0.3
"""Seconds without a further reply after which there is none."""

LONGEST = 5.0
"""Seconds that replies are gathered in all."""


class InFlight(Struct, frozen=True):
    """The requests in flight. `more`: how many others there are; `gateways`: those that replied."""

    requests: tuple[RequestInFlight, ...]
    more: int
    gateways: tuple[str, ...]


async def list_in_flight(connection: Connection, question: InFlightQuestion) -> InFlight:
    """Return the requests in flight of all gateways, the oldest first. Raise Unavailable."""
    requests: list[RequestInFlight] = []
    positions: dict[str, int] = {}
    gateways: list[str] = []
    more = 0
    replies = _replies(connection, subjects.IN_FLIGHT, question, InFlightReply)
    async with aclosing(replies):
        async for reply in replies:
            positions |= reply.positions
            requests += reply.requests
            more += reply.more
            if reply.gateway:
                gateways.append(reply.gateway)
    requests.sort(key=lambda each: each.started)
    more += max(0, len(requests) - question.limit)
    told = tuple(
        replace(each, position=positions[each.id])
        if each.state == "waiting" and each.id in positions
        else each
        for each in requests[: question.limit]
    )
    return InFlight(told, more, tuple(sorted(gateways)))


async def cancel_in_flight(
    connection: Connection, question: CancelQuestion
) -> RequestInFlight | None:
    """Cancel a request; return what it was, or None if no gateway has it. Raise Unavailable."""
    replies = _replies(connection, subjects.CANCEL_IN_FLIGHT, question, CancelReply)
    async with aclosing(replies):
        async for reply in replies:
            if reply.cancelled is not None:
                return reply.cancelled
    return None


async def _replies(
    connection: Connection, subject: str, question: Struct, kind: type[R]
) -> AsyncGenerator[R, None]:
    """Yield the replies as they come. Raise Unavailable if there is none."""
    client = connection.client
    inbox = client.new_inbox()
    loop = asyncio.get_running_loop()
    heard = False
    try:
        replies = await client.subscribe(inbox)
        try:
            await client.publish(subject, msgspec.json.encode(question), reply=inbox)
            ends = loop.time() + LONGEST
            while (left := min(QUIET if heard else FIRST, ends - loop.time())) > 0:
                try:
                    message = await replies.next_msg(left)
                except TimeoutError:
                    break
                if message.headers and not message.data:
                    continue  # NATS says that nothing listens
                reply = decoded(message.data, kind)
                if reply is not None:
                    heard = True
                    yield reply
        finally:
            await replies.unsubscribe()
    except NatsError as error:
        raise Unavailable(f"gateways can't be asked: {error!r}") from error
    if not heard:
        raise Unavailable(connection.trouble or "no gateway or router answers")
