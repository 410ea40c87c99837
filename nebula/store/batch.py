"""Stores several messages, all or none, with JetStream's atomic publish (NATS ADR-50)."""

import json
import uuid
from collections.abc import Mapping, Sequence

from nats.aio.client import Client
from nats.errors import Error as NatsError

LIMIT = 1000
"""Messages of one batch, at most."""

CONFLICTS = (10071, 10164)
"""JetStream's error codes for a guard that does not hold: another writer was first."""

TOO_LARGE = (10054, 10097)
"""JetStream's error codes for a message, or headers, that are too large for it."""


class BatchRefused(Exception):
    """The server stored nothing; `code` is JetStream's error code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code

    @property
    def conflict(self) -> bool:
        """Whether another writer was first."""
        return self.code in CONFLICTS

    @property
    def too_large(self) -> bool:
        """Whether one of the messages is too large for the server."""
        return self.code in TOO_LARGE


async def publish(
    client: Client,
    messages: Sequence[tuple[str, bytes, Mapping[str, str]]],
    *,
    guard: Mapping[str, str],
    timeout: float = 10.0,
) -> int:
    """Store (subject, body, headers) messages together, and return the last sequence.

    `guard`: headers that the server checks first, such as `Nats-Expected-Last-Sequence`. Raise
    BatchRefused; raise TimeoutError or nats-py's errors if it is unknown whether the batch was
    stored.
    """
    batch = uuid.uuid4().hex
    acknowledged = b""
    for number, (subject, body, headers) in enumerate(messages, 1):
        sent = {**headers, "Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
        if number == 1:
            sent |= guard
        if number == len(messages):
            sent["Nats-Batch-Commit"] = "1"
        if number in (1, len(messages)):
            # The first answer says whether the batch may begin, the last that it is stored.
            answer = await client.request(subject, body, timeout=timeout, headers=sent)
            acknowledged = answer.data
            _raise_refusal(acknowledged)
        else:
            await client.publish(subject, body, headers=sent)
    return int(json.loads(acknowledged)["seq"])


def _raise_refusal(answer: bytes) -> None:
    if not answer:
        return
    try:
        error = json.loads(answer).get("error")
    except ValueError as problem:
        raise NatsError(f"an answer that is not valid JSON: {answer[:80]!r}") from problem
    if error:
        raise BatchRefused(int(error.get("err_code", 0)), str(error.get("description", error)))
