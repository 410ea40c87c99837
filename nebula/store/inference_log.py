"""What the data plane's stream still holds about one request, while it is kept."""

import asyncio
from collections.abc import Mapping

from msgspec import Struct
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from nebula.events import inference, subjects
from nebula.store import streams
from nebula.store.connection import Connection, Unavailable

_PATIENCE = 10.0


class Said(Struct, frozen=True):
    """A message about a request: `time` in ns since the epoch, `size` of its body in bytes."""

    seq: int
    time: int
    subject: str
    headers: Mapping[str, str]
    size: int


async def look_up(connection: Connection, request: str) -> list[Said]:
    """Give all that was said about a request, in order; bodies stay where they are.

    Gives nothing for a request that is unknown or no longer kept. Raises Unavailable.
    """
    if not subjects.is_token(request):
        return []
    found: list[Said] = []
    done = asyncio.Event()
    expected: int | None = None
    seen = 0

    async def arrive(message: Msg) -> None:
        nonlocal seen
        if not message.reply.startswith("$JS.ACK."):
            return
        seen += 1
        headers = message.headers or {}
        if headers.get(inference.REQUEST) == request or message.subject.endswith(f".{request}"):
            found.append(_said(message, headers))
        if seen == expected:
            done.set()

    client = connection.client
    inbox = client.new_inbox()
    try:
        subscription = await client.subscribe(inbox, cb=arrive)
        try:
            info = await client.jetstream(timeout=_PATIENCE).add_consumer(
                streams.INFERENCE,
                ConsumerConfig(
                    deliver_policy=DeliverPolicy.ALL,
                    ack_policy=AckPolicy.NONE,
                    deliver_subject=inbox,
                    filter_subjects=[
                        subjects.REQUESTS,
                        subjects.replica_requests("*", "*"),
                        subjects.responses("*", request),
                        subjects.cancel("*", request),
                    ],
                    headers_only=True,
                    inactive_threshold=30,
                    mem_storage=True,
                ),
            )
            # What was delivered before the answer came counts as delivered, not as pending.
            delivered = info.delivered.consumer_seq if info.delivered is not None else 0
            expected = int(info.num_pending or 0) + int(delivered)
            if seen < expected:
                async with asyncio.timeout(_PATIENCE):
                    await done.wait()
        finally:
            await subscription.unsubscribe()
    except (NatsError, TimeoutError) as error:
        raise Unavailable(f"the data plane's stream does not answer: {error!r}") from error
    return found


def _said(message: Msg, headers: Mapping[str, str]) -> Said:
    tokens = message.reply.split(".")  # as of NATS's ADR-15, with a domain or without
    first = 4 if len(tokens) > 9 else 2
    size = headers.get("Nats-Msg-Size", "0")
    return Said(
        int(tokens[first + 3]),
        int(tokens[first + 5]),
        message.subject,
        headers,
        int(size) if size.isdigit() else 0,
    )
