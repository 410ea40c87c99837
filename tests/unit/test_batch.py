"""Messages that are stored together, as they go to the server; and those that come in parts."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest
from nats.aio.msg import Msg

from nebula.store import batch, inference_log
from nebula.store.batch import BatchRefused
from nebula.store.connection import Unavailable
from nebula.store.inference_log import PART_BYTES

pytestmark = pytest.mark.anyio

GUARD = {"Nats-Expected-Last-Sequence": "7"}


class Server:
    """A server that answers with the given JSON, and notes what it was sent."""

    def __init__(self, *answers: object) -> None:
        self.answers = [b"" if each is None else json.dumps(each).encode() for each in answers]
        self.requests: list[dict[str, str]] = []
        self.plain: list[dict[str, str]] = []
        self.sent: list[dict[str, str]] = []

    async def request(self, _: str, body: bytes, **fields: Any) -> Msg:
        self.requests.append(fields["headers"])
        self.sent.append(fields["headers"])
        return Msg(cast("Any", None), data=self.answers.pop(0))

    async def publish(self, _: str, body: bytes, *, headers: dict[str, str]) -> None:
        self.plain.append(headers)
        self.sent.append(headers)

    async def stores(self, count: int) -> int:
        messages = [(f"s.{number}", b"x", {"Own": str(number)}) for number in range(count)]
        return await batch.publish(cast("Any", self), messages, guard=GUARD)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
async def test_the_first_message_has_the_guard_and_the_last_commits(count: int) -> None:
    server = Server(*([None] if count > 1 else []), {"seq": 12})
    assert await server.stores(count) == 12
    assert [each["Nats-Batch-Sequence"] for each in server.sent] == [
        str(number) for number in range(1, count + 1)
    ]
    assert len({each["Nats-Batch-Id"] for each in server.sent}) == 1
    assert [each["Own"] for each in server.sent] == [str(number) for number in range(count)]
    assert [GUARD.items() <= each.items() for each in server.sent] == [True] + [False] * (count - 1)
    commits = [each.get("Nats-Batch-Commit") for each in server.sent]
    assert commits == [None] * (count - 1) + ["1"]
    assert len(server.requests) == min(count, 2)


@pytest.mark.parametrize(
    ("code", "conflict", "too_large"),
    [(10071, True, False), (10164, True, False), (10054, False, True), (10097, False, True)],
)
async def test_a_refusal_of_the_first_or_the_last_message_stores_nothing(
    code: int, conflict: bool, too_large: bool
) -> None:
    error = {"error": {"err_code": code, "description": "no"}}
    for answers in ((error,), (None, error)):
        server = Server(*answers)
        with pytest.raises(BatchRefused, match="no") as refused:
            await server.stores(3)
        assert (refused.value.conflict, refused.value.too_large) == (conflict, too_large)
        assert len(server.requests) == len(answers)


# Parts of what the stream has


class Consumer:
    """A consumer that answers each wish with messages or a status."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.wishes: list[dict[str, int]] = []
        self.arrived: asyncio.Queue[Msg | None] = asyncio.Queue()

    async def publish(self, _: str, wish: bytes, *, reply: str) -> None:
        self.wishes.append(json.loads(wish))
        while self.answers:
            answer = self.answers.pop(0)
            if answer == "message":
                message = Msg(cast("Any", None), "said", "$JS.ACK.s.c.1.1.1.1.0", b"x")
            else:
                status, _, words = answer.partition(" ")
                headers = {"Status": status, "Description": words}
                message = Msg(cast("Any", None), reply, "", b"", headers)
            self.arrived.put_nowait(message)
            if answer not in ("message", "100 Idle Heartbeat"):
                return

    async def reads(self, count: int) -> int:
        found = 0
        pulled = inference_log._pulled(cast("Any", self), "c", "_INBOX.x", self.arrived)
        async for _ in pulled:
            found += 1
            if found == count:
                break
        await pulled.aclose()
        return found


async def test_a_message_that_is_larger_than_a_part_is_asked_for_by_itself() -> None:
    consumer = Consumer("409 Message Size Exceeds MaxBytes", "message")
    assert await consumer.reads(1) == 1
    parts = [(each["batch"] > 1, each.get("max_bytes")) for each in consumer.wishes]
    assert parts == [(True, PART_BYTES), (False, None)]


async def test_a_part_that_is_full_is_followed_by_another_part() -> None:
    consumer = Consumer("message", "409 Message Size Exceeds MaxBytes", "message")
    assert await consumer.reads(2) == 2
    parts = [(each["batch"] > 1, each.get("max_bytes")) for each in consumer.wishes]
    assert parts == [(True, PART_BYTES)] * 2


@pytest.mark.parametrize("ends", ["404 No Messages", "408 Request Timeout", "409 Batch Completed"])
async def test_a_wish_that_is_over_is_followed_by_another(ends: str) -> None:
    consumer = Consumer("100 Idle Heartbeat", "message", ends, "message")
    assert await consumer.reads(2) == 2
    assert len(consumer.wishes) == 2


async def test_a_consumer_that_is_gone_is_told() -> None:
    with pytest.raises(Unavailable, match="409 Consumer Deleted"):
        await Consumer("message", "409 Consumer Deleted").reads(2)
