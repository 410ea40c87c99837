"""Takes messages from a stream as work: each goes to one taker, until one says that it is done."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from itertools import count

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from nebula.store.connection import Connection, Unavailable

log = logging.getLogger(__name__)

TAKEN = 30.0
"""Seconds after which work that its taker says nothing about is given to another."""

SIGN = 10.0
"""Seconds between two signs of life for work that is taken."""

PAUSE = 1.0
"""Seconds after which a lost stream is tried again."""

_EXPIRES = 20.0
"""Seconds for which NATS waits for work before the taker asks again."""

_PATIENCE = 5.0

MOST_TAKEN = 10_000
"""Number of messages that may be taken at a time, by all takers together."""


async def works(
    connection: Connection,
    stream: str,
    subject: str,
    name: str,
    room: Callable[[], Awaitable[int]],
) -> AsyncGenerator[Msg, None]:
    """Yield messages of a subject that no taker has, for ever. Raise Unavailable.

    `name`: of the consumer, which all takers share. `room`: waits until there is room for more
    work, and returns for how much.
    """
    client = connection.client
    arrived: asyncio.Queue[Msg | None] = asyncio.Queue()
    inbox = client.new_inbox()

    async def lost() -> None:
        arrived.put_nowait(None)

    consumer = ConsumerConfig(
        durable_name=name,
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=TAKEN,
        max_deliver=-1,
        max_ack_pending=MOST_TAKEN,
        filter_subject=subject,
    )
    try:
        await client.jetstream(timeout=_PATIENCE).add_consumer(stream, consumer)
        subscription = await client.subscribe(f"{inbox}.*", cb=arrived.put)
        connection.on_disconnect(lost)
        try:
            for number in count():
                left = await room()
                wish = {"batch": left, "expires": int(_EXPIRES * 10**9)}
                asking = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"
                reply = f"{inbox}.{number}"
                await client.publish(asking, msgspec.json.encode(wish), reply=reply)
                while left:
                    async with asyncio.timeout(_EXPIRES + _PATIENCE):
                        message = await arrived.get()
                    if message is None:
                        raise Unavailable("the connection to NATS was lost")
                    if message.reply.startswith("$JS.ACK."):
                        left -= 1
                        yield message
                    elif message.subject == reply:
                        headers = message.headers or {}
                        status, words = headers.get("Status", ""), headers.get("Description", "")
                        if status in ("404", "408"):
                            break
                        if status != "100":
                            raise Unavailable(f"stream {stream} gives no work: {status} {words}")
        finally:
            connection.forget(lost)
            with contextlib.suppress(NatsError):
                await subscription.unsubscribe()
    except (NatsError, TimeoutError) as error:
        raise Unavailable(f"stream {stream} gives no work: {error!r}") from error


async def take_again(take: Callable[[], Awaitable[None]], what: str) -> None:
    """Call `take` whenever it has ended, for ever: no fault of a stream ends a worker.

    `what`: the work that it takes, for the log.
    """
    while True:
        try:
            await take()
        except (Unavailable, NatsError, TimeoutError) as error:
            log.debug("no %s are taken now: %r", what, error)
        except Exception:
            log.exception("no %s are taken now", what)
        await asyncio.sleep(PAUSE)


async def done(message: Msg) -> None:
    """Acknowledge work that is done, so that it is not given out again."""
    with contextlib.suppress(NatsError):
        await message.ack()


async def later(message: Msg, seconds: float = 0) -> None:
    """Return work to the queue, to be taken again after some time."""
    with contextlib.suppress(NatsError):
        await message.nak(delay=seconds or None)


async def going_on(message: Msg) -> None:
    """Note that work is still under way."""
    with contextlib.suppress(NatsError):
        await message.in_progress()
