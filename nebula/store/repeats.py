"""Finds an event again by the message id under which it was appended."""

import json
from datetime import UTC, datetime, timedelta

from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError

from nebula.store import streams

WALK = 256
"""Events of one subject that are checked, beside the last one."""


async def find(
    client: Client, jetstream: JetStreamContext, subject: str, message_id: str, *, timeout: float
) -> RawStreamMsg | None:
    """Return the event of a subject that has a message id: the last one, or one in the window.

    The window is JetStream's for repeated ids; its first `WALK` events are checked. Raise nats-py's
    errors, TimeoutError after `timeout` seconds without an answer.
    """
    try:
        last = await jetstream.get_last_msg(streams.EVENTS, subject)
    except NotFoundError:
        return None
    if _has(last, message_id):
        return last
    seq = await _first_since(client, subject, timeout)
    for _ in range(WALK):
        if not seq or seq >= (last.seq or 0):
            return None
        found = await jetstream.get_msg(streams.EVENTS, seq, subject, next=True)
        if _has(found, message_id):
            return found
        seq = (found.seq or 0) + 1
    return None


async def _first_since(client: Client, subject: str, timeout: float) -> int:
    """Return the sequence of a subject's first event in the window, 0 if there is none.

    nats-py has no `start_time` for this request of JetStream's (`STREAM.MSG.GET`, NATS ADR-31).
    """
    since = datetime.now(UTC) - timedelta(seconds=streams.REPEATS)
    asked = {"next_by_subj": subject, "start_time": since.isoformat().replace("+00:00", "Z")}
    answer = await client.request(
        f"$JS.API.STREAM.MSG.GET.{streams.EVENTS}", json.dumps(asked).encode(), timeout=timeout
    )
    message = json.loads(answer.data).get("message")
    return int(message["seq"]) if message else 0


def _has(found: RawStreamMsg, message_id: str) -> bool:
    return (found.headers or {}).get("Nats-Msg-Id") == message_id
