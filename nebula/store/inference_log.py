"""What the data plane's stream still holds about a request: read it again, or follow it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from datetime import datetime
from itertools import count
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, RawStreamMsg
from nats.js.errors import APIError, NotFoundError

from nebula.events import envelope, inference, subjects
from nebula.events.record import parse_headers
from nebula.store import streams
from nebula.store.client import Headers
from nebula.store.connection import Connection, Unavailable

T = TypeVar("T")

_EXPIRES = 5.0
"""Seconds after which the stream says that it still lives, where it has nothing to say: without
that, a reader of a stream that was deleted, or whose place in it was, would wait for ever."""

_PATIENCE = 10.0
"""Seconds in which the stream has to answer: a busy NATS does so late."""

_PROBE = 1.5
"""Seconds without an answer after which NATS is asked whether the stream's server is there."""

_PART = 256

PART_BYTES = 256 * 1024
"""Bytes that a reader asks for at once, unless the next message alone is larger."""

UNREAD = 60.0
"""Seconds after which a reader that asks for nothing more loses its place."""


class Said(Struct, frozen=True):
    """A message of the data plane: `time` in ns since the epoch, `size` of its body in bytes."""

    seq: int
    time: int
    subject: str
    header: bytes
    body: bytes
    size: int

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers, read."""
        return parse_headers(self.header)


async def look_up(connection: Connection, request: str) -> list[Said]:
    """Give all that was said about a request, in order; bodies only of what says why it ended.

    Gives nothing for a request that is unknown or no longer kept. Raises Unavailable.
    """
    if not subjects.is_token(request):
        return []
    wanted = [
        subjects.ALL_REQUESTS,
        subjects.replica_requests("*", "*"),
        subjects.responses("*", request),
        subjects.cancel("*", request),
    ]
    found = [
        said
        async for said in read(connection, wanted, bodies=False)
        if said.subject.endswith(f".{request}") or said.headers.get(envelope.REQUEST) == request
    ]
    return [await _whole(connection, said) if _says_why(said) else said for said in found]


async def kept_since(connection: Connection) -> datetime | None:
    """Give when the first was said that is still kept, as the server says; None for an empty one.

    Raises Unavailable.
    """
    first = await _message(connection, seq=1, subject=subjects.INFERENCE, next=True)
    return first.time if first is not None else None


def _says_why(said: Said) -> bool:
    if said.subject.split(".")[2] == "cancel":
        return said.size > 0
    return said.headers.get(envelope.FAILURE) == inference.REFUSED


async def _whole(connection: Connection, said: Said) -> Said:
    """Give a message with its body, where it is still kept. Raises Unavailable."""
    whole = await _message(connection, seq=said.seq)
    return said if whole is None else replace(said, body=whole.data or b"")


async def _message(connection: Connection, **which: Any) -> RawStreamMsg | None:
    """Give one message, named as nats-py's `get_msg` has it; None where it is not kept."""
    jetstream = connection.client.jetstream(timeout=_PATIENCE)
    try:
        return await jetstream.get_msg(streams.INFERENCE, direct=True, **which)
    except NotFoundError:
        return None
    except (NatsError, TimeoutError) as error:
        raise Unavailable(f"the data plane's stream does not answer: {error!r}") from error


async def read(
    connection: Connection, wanted: Sequence[str], *, bodies: bool = True
) -> AsyncGenerator[Said, None]:
    """Give what the stream holds now on these subjects, in order. Raises Unavailable."""
    async with contextlib.aclosing(follow(connection, wanted, bodies=bodies)) as following:
        async for said in following:
            if said is None:
                return
            yield said


async def follow(
    connection: Connection, wanted: Sequence[str], *, bodies: bool = True
) -> AsyncGenerator[Said | None, None]:
    """Give what the stream holds on these subjects, then None once, then what comes, for ever.

    A single subject without wildcards is looked up in the server's index. For anything else it
    looks at every message that it holds, and does nothing else meanwhile: fifty times the work.
    Who reads slowly holds no more than a part of it (PART_BYTES), and loses its place after UNREAD.
    Raises Unavailable, also when the stream or this reader's place in it is lost.
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
            making = client.jetstream(timeout=_PATIENCE).add_consumer(
                streams.INFERENCE,
                ConsumerConfig(
                    deliver_policy=DeliverPolicy.ALL,
                    ack_policy=AckPolicy.NONE,
                    filter_subjects=list(wanted),
                    headers_only=not bodies,
                    inactive_threshold=UNREAD,
                    mem_storage=True,
                ),
            )
            info = await _unless_offline(connection, making)
            made = info.name
            left = int(info.num_pending or 0)
            if left == 0:
                yield None
            async for message in _pulled(client, made, inbox, arrived):
                yield _said(message)
                left -= 1
                if left == 0:
                    yield None
        finally:
            connection.forget(lost)
            with contextlib.suppress(NatsError):
                if made:
                    # Left to itself, NATS would hold each new message against it for a while more.
                    gone = f"$JS.API.CONSUMER.DELETE.{streams.INFERENCE}.{made}"
                    await client.publish(gone, reply=client.new_inbox())
                await subscription.unsubscribe()
    except (NatsError, APIError, TimeoutError) as error:
        raise Unavailable(f"the data plane's stream does not answer: {error!r}") from error


async def _unless_offline(connection: Connection, making: Coroutine[Any, Any, T]) -> T:
    """Return what a request to the stream gives, unless its server turns out to be gone.

    Raise Unavailable then, long before the request's own time is over: whoever asks has a client
    that waits, and an answer that may be generated anew.
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
                await jetstream.stream_info(streams.INFERENCE)
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
    client: Client, consumer: str, inbox: str, arrived: "asyncio.Queue[Msg | None]"
) -> AsyncGenerator[Msg, None]:
    """Give what a consumer has, asked for part by part: no more waits here than was asked for.

    What NATS says besides: https://docs.nats.io/reference/reference-protocols/nats_api_reference
    """
    subject = f"$JS.API.CONSUMER.MSG.NEXT.{streams.INFERENCE}.{consumer}"
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
            async with asyncio.timeout(_EXPIRES + _PATIENCE):
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
                raise Unavailable(f"the data plane's stream is not read any more: {status} {words}")


def _said(message: Msg) -> Said:
    tokens = message.reply.split(".")  # as of NATS's ADR-15, with a domain or without
    first = 4 if len(tokens) > 9 else 2
    headers = message.headers
    size = (headers or {}).get("Nats-Msg-Size", "")
    return Said(
        int(tokens[first + 3]),
        int(tokens[first + 5]),
        message.subject,
        headers.block if isinstance(headers, Headers) else b"",
        message.data,
        int(size) if size.isdigit() else len(message.data),
    )
