"""Reads or follows what a stream has, above all the data plane's, on some subjects."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from datetime import datetime
from itertools import count
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError

from nebula.events.record import parse_headers
from nebula.store import streams
from nebula.store.client import Headers
from nebula.store.connection import Connection, Unavailable

T = TypeVar("T")

_EXPIRES = 5.0
"""Seconds of silence after which the stream sends a sign of life: without it, a reader whose stream
or consumer was deleted would wait for ever."""

PATIENCE = 10.0
"""Seconds to wait for the stream; a busy NATS answers late."""

_PROBE = 1.5
"""Seconds without an answer after which NATS is asked whether the stream's server exists."""

_PART = 256

PART_BYTES = 256 * 1024
"""Bytes that a reader requests at a time, unless the next message alone is larger."""

UNREAD = 60.0
"""Seconds after which an idle reader loses its consumer."""


class StoredMessage(Struct, frozen=True):
    """A message of the data plane: `time` in ns since the epoch, `size` of its body in bytes."""

    seq: int
    time: int
    subject: str
    header: bytes
    body: bytes
    size: int

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers, parsed."""
        return parse_headers(self.header)


async def read(
    connection: Connection,
    wanted: Sequence[str],
    *,
    bodies: bool = True,
    stream: str = streams.INFERENCE,
    after: int = 0,
    since: datetime | None = None,
) -> AsyncGenerator[StoredMessage, None]:
    """Yield what a stream has now on these subjects, after a sequence or since a time, in order.

    Raise Unavailable.
    """
    following_all = follow(
        connection, wanted, bodies=bodies, stream=stream, after=after, since=since
    )
    async with contextlib.aclosing(following_all) as following:
        async for said in following:
            if said is None:
                return
            yield said


async def follow(
    connection: Connection,
    wanted: Sequence[str],
    *,
    bodies: bool = True,
    stream: str = streams.INFERENCE,
    after: int = 0,
    since: datetime | None = None,
) -> AsyncGenerator[StoredMessage | None, None]:
    """Yield what a stream has on these subjects, then None once, then new messages, for ever.

    `after`: the sequence after which it begins; `since`: the server's time from which on.

    A single subject without wildcards is looked up in the server's index. For anything else the
    server scans all its messages and does nothing else meanwhile: fifty times the work. A slow
    reader keeps only a part in memory (PART_BYTES), and loses its consumer after UNREAD. Raise
    Unavailable, also if the stream or this reader's consumer is lost.
    """
    client = connection.client
    arrived: asyncio.Queue[Msg | None] = asyncio.Queue()
    inbox = client.new_inbox()

    async def lost() -> None:
        arrived.put_nowait(None)

    made = ""
    try:
        subscription = await client.subscribe(f"{inbox}.*", cb=arrived.put)
        connection.on_disconnect(lost)
        try:
            making = client.jetstream(timeout=PATIENCE).add_consumer(
                stream,
                ConsumerConfig(
                    deliver_policy=(
                        DeliverPolicy.BY_START_SEQUENCE
                        if after
                        else DeliverPolicy.BY_START_TIME
                        if since is not None
                        else DeliverPolicy.ALL
                    ),
                    opt_start_seq=after + 1 if after else None,
                    opt_start_time=None if after else since,
                    ack_policy=AckPolicy.NONE,
                    filter_subjects=list(wanted),
                    headers_only=not bodies,
                    inactive_threshold=UNREAD,
                    mem_storage=True,
                ),
            )
            info = await _unless_offline(connection, making, stream)
            made = info.name
            left = int(info.num_pending or 0)
            if left == 0:
                yield None
            async for message in _pulled(client, made, inbox, arrived, stream):
                yield _said(message)
                left -= 1
                if left == 0:
                    yield None
        finally:
            connection.forget(lost)
            with contextlib.suppress(NatsError):
                if made:
                    # Without this, NATS would check each new message against it for some time.
                    gone = f"$JS.API.CONSUMER.DELETE.{stream}.{made}"
                    await client.publish(gone, reply=client.new_inbox())
                await subscription.unsubscribe()
    except (NatsError, APIError, TimeoutError) as error:
        raise Unavailable(f"{_named(stream)} does not answer: {error!r}") from error


def _named(stream: str) -> str:
    return "the data plane's stream" if stream == streams.INFERENCE else f"stream {stream}"


async def _unless_offline(connection: Connection, making: Coroutine[Any, Any, T], stream: str) -> T:
    """Return the result of a request to the stream, unless its server is gone.

    Raise Unavailable then, long before the request's own timeout: a client is waiting, and the
    answer can be generated again.
    """
    asking = asyncio.ensure_future(making)
    jetstream = connection.client.jetstream(timeout=_PROBE)
    try:
        silent = 0
        while True:
            await asyncio.wait((asking,), timeout=_PROBE)
            if asking.done():
                return asking.result()
            try:
                await jetstream.stream_info(stream)
                silent = 0
            except TimeoutError:
                silent += 1
                if silent < 2:
                    continue
                raise
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def _pulled(
    client: Client,
    consumer: str,
    inbox: str,
    arrived: "asyncio.Queue[Msg | None]",
    stream: str = streams.INFERENCE,
) -> AsyncGenerator[Msg, None]:
    """Yield a consumer's messages, requested part by part, so that no more than a part waits here.

    Status messages of NATS: https://docs.nats.io/reference/reference-protocols/nats_api_reference
    """
    subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
    alone = False
    for number in count():
        wish: dict[str, int] = {"batch": 1 if alone else _PART, "expires": int(_EXPIRES * 10**9)}
        if not alone:
            wish["max_bytes"] = PART_BYTES
        reply = f"{inbox}.{number}"
        await client.publish(subject, msgspec.json.encode(wish), reply=reply)
        left = wish["batch"]
        alone = False
        while left:
            async with asyncio.timeout(_EXPIRES + PATIENCE):
                message = await arrived.get()
            if message is None:
                raise Unavailable("the connection to NATS was lost")
            if message.reply.startswith("$JS.ACK."):
                left -= 1
                yield message
                continue
            if message.subject != reply:
                continue  # of an earlier part
            headers = message.headers or {}
            status, words = headers.get("Status", ""), headers.get("Description", "")
            if status == "409" and "MaxBytes" in words:
                alone = left == _PART  # the next is larger than a part may be
                break
            if status in ("404", "408") or words == "Batch Completed":
                break
            if status != "100":
                raise Unavailable(f"{_named(stream)} is no longer read: {status} {words}")


def _said(message: Msg) -> StoredMessage:
    tokens = message.reply.split(".")  # by NATS's ADR-15, with a domain or without
    first = 4 if len(tokens) > 9 else 2
    headers = message.headers
    size = (headers or {}).get("Nats-Msg-Size", "")
    return StoredMessage(
        int(tokens[first + 3]),
        int(tokens[first + 5]),
        message.subject,
        headers.block if isinstance(headers, Headers) else b"",
        message.data,
        int(size) if size.isdigit() else len(message.data),
    )
