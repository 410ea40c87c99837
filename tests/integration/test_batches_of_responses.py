"""Lines of a batch to /v1/responses and /v1/messages are what a client's requests would be."""

import asyncio
import json
import time
from typing import Any

import openai
import pytest

from nebula.actors.gateway.actor import Gateway
from nebula.events.batch import Batch
from nebula.events.intents import BatchRequested
from nebula.http.authentication import key_ring
from nebula.http.batches.line_requests import LineRequests
from nebula.http.credentials import owner
from nebula.http.inference import Limits
from nebula.http.origins import Doors
from nebula.store.connection import Connection
from nebula.store.responses import ResponseStore
from tests.integration.cluster import Cluster
from tests.integration.test_batches import jsonl, line, official, over, read, submitted

pytestmark = pytest.mark.anyio

RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        await cluster.load("chat")

    asyncio.run(load())


async def answers(
    cluster: Cluster, endpoint: str, *bodies: dict[str, Any], key: str = "ours"
) -> list[dict[str, Any]]:
    """Return what came of each body, as a line of a batch: the status with the body."""
    async with official(cluster, key) as client:
        lines = [line(str(number), body, endpoint) for number, body in enumerate(bodies)]
        batch = await over(cluster, client, (await submitted(client, jsonl(lines), endpoint)).id)
        files = [file for file in (batch.output_file_id, batch.error_file_id) if file]
        results = [each for file in files for each in await read(client, file)]
    return [each["response"] for each in sorted(results, key=lambda each: int(each["custom_id"]))]


async def test_a_response_is_stored_for_the_owner_of_the_batch(cluster: Cluster) -> None:
    asked = {"model": "chat", "input": "Hello world!"}
    stored, unstored = await answers(cluster, RESPONSES, asked, {**asked, "store": False})
    assert (stored["status_code"], unstored["status_code"]) == (200, 200)
    assert (stored["body"]["store"], unstored["body"]["store"]) == (True, False)
    identity = stored["body"]["id"]
    async with official(cluster, "ours") as client, official(cluster, "theirs") as other:
        assert (await client.responses.retrieve(identity)).output_text.startswith("Hello")
        with pytest.raises(openai.NotFoundError):
            await other.responses.retrieve(identity)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(unstored["body"]["id"])


async def test_what_comes_before_a_line_is_put_before_it(cluster: Cluster) -> None:
    async with official(cluster, "ours") as client:
        first = await client.responses.create(model="chat", input="one two three")
        talk = await client.conversations.create(
            items=[{"type": "message", "role": "user", "content": "four five"}]
        )
        usual = await client.responses.create(
            model="chat", input="six", previous_response_id=first.id
        )
    asked = {"model": "chat", "input": "six"}
    followed, talked = await answers(
        cluster,
        RESPONSES,
        {**asked, "previous_response_id": first.id},
        {**asked, "conversation": talk.id},
    )
    assert usual.usage is not None
    assert followed["body"]["usage"]["input_tokens"] == usual.usage.input_tokens
    assert followed["body"]["previous_response_id"] == first.id
    assert talked["body"]["conversation"] == {"id": talk.id}
    async with official(cluster, "ours") as client:
        items = [item async for item in client.conversations.items.list(talk.id, order="asc")]
    assert len(items) == 3
    absent, background, unstored = await answers(
        cluster,
        RESPONSES,
        {**asked, "previous_response_id": "resp_" + "0" * 32},
        {**asked, "background": True},
        {**asked, "conversation": talk.id, "store": False},
    )
    assert absent["body"]["error"]["param"] == "previous_response_id"
    assert background["status_code"] == 400
    assert background["body"]["error"]["param"] == "background"
    assert (unstored["status_code"], unstored["body"]["error"]["param"]) == (400, "store")


async def test_errors_have_the_form_of_the_lines_path(cluster: Cluster) -> None:
    asked = {"max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}]}
    good, unknown, wrong, streamed = await answers(
        cluster,
        MESSAGES,
        {"model": "chat", **asked},
        {"model": "absent", **asked},
        {"model": "chat", **asked, "messages": "no"},
        {"model": "chat", **asked, "stream": True},
    )
    assert good["body"]["type"] == "message"
    for answer, status in ((unknown, 404), (wrong, 400), (streamed, 400)):
        assert answer["status_code"] == status, json.dumps(answer)
        assert answer["body"]["type"] == "error"
        assert answer["body"]["error"]["message"]


async def test_a_line_that_is_sent_again_has_the_answer_that_was_stored(cluster: Cluster) -> None:
    async with official(cluster, "ours") as client:
        talk = await client.conversations.create()
    gateway = Gateway(Connection(cluster.url(), "second"), "gw-second")
    running = asyncio.create_task(gateway.run())

    async def able() -> bool:
        return gateway.able

    try:
        await gateway.projection.until(lambda state: "chat" in state.models)
        await cluster.poll(able, "the gateway is ready")
        owned = BatchRequested("file-1", RESPONSES, owner=owner({b"authorization": b"Bearer ours"}))
        batch = Batch(id="batch_1", request=owned, created_ns=time.time_ns())
        requests = LineRequests(
            gateway, ResponseStore(gateway.connection, 1), Limits(), key_ring(gateway, Doors())
        )
        body = json.dumps({"model": "chat", "input": "six", "conversation": talk.id}).encode()
        first, again = [await requests.answer(batch, 1, body) for _ in range(2)]
        other = await requests.answer(batch, 2, body)
    finally:
        gateway.stop()
        await running
    assert first.status == 200
    assert json.loads(again.body)["id"] == json.loads(first.body)["id"]
    assert json.loads(other.body)["id"] != json.loads(first.body)["id"]
    async with official(cluster, "ours") as client:
        items = [item async for item in client.conversations.items.list(talk.id)]
    assert len(items) == 4
