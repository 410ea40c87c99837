"""Requests that do not carry their bodies: whole, wherever they go and whatever dies."""

import asyncio
import os
import signal

import pytest

from nebula.actors.gateway.large_bodies import CARRIED
from nebula.engines.simulated_vectors import vector_of
from nebula.events import subjects
from nebula.store.inference_log import StoredMessage
from nebula.store.request_log import look_up
from nebula.store.server import MAX_PAYLOAD
from tests.integration.asking import CHAT, EMBEDDINGS, chat, error
from tests.integration.cluster import Cluster
from tests.ports import free_port

pytestmark = pytest.mark.anyio

TEXT = "many words " * (2 * MAX_PAYLOAD // 11) + "and an end"
DIMENSIONS = 384


@pytest.fixture
async def embed(own_cluster: Cluster) -> Cluster:
    """A cluster with an embedding model that has two replicas."""
    own_cluster.up()
    await own_cluster.ready()
    await own_cluster.load(
        "embed",
        task="embedding",
        replicas=2,
        memory="64MiB",
        options={"max-model-len": 10**7},
    )
    return own_cluster


def expected() -> list[float]:
    return list(vector_of(TEXT, DIMENSIONS))


async def test_a_request_of_two_messages_size_is_answered_as_any_other(embed: Cluster) -> None:
    async with embed.http() as http:
        answer = await http.post(EMBEDDINGS, json={"model": "embed", "input": TEXT})
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["embedding"] == expected()


async def sent(cluster: Cluster, request: str) -> list[StoredMessage]:
    """The messages with which a request went to a router and to an engine."""
    async with cluster.joined() as projection:
        said = await look_up(projection.log.connection, request)
    answers = subjects.responses("", "").removesuffix(".")
    return [each for each in said if not each.subject.startswith(answers)]


async def test_a_long_prompt_is_not_kept_with_its_request(embed: Cluster) -> None:
    text = "many words " * (2 * CARRIED // 11)
    async with embed.http() as http:
        answer = await http.post(EMBEDDINGS, json={"model": "embed", "input": text})
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["embedding"] == list(vector_of(text, DIMENSIONS))
    request = answer.headers["x-request-id"]
    messages = await sent(embed, request)
    assert messages
    assert {each.size for each in messages} == {0}
    told = await embed.nebula("why", "request", request)
    assert f"{len(answer.request.content)} bytes" in " ".join(told.out.split())


async def test_a_long_prompt_whose_answer_is_kept_travels_with_its_request(embed: Cluster) -> None:
    text = "many words " * (2 * CARRIED // 11)
    asked = {"model": "embed", "input": text}
    async with embed.http() as http:
        answer = await http.post(EMBEDDINGS, json=asked, headers={"X-Resumable": "true"})
    assert answer.status_code == 200, answer.text
    messages = await sent(embed, answer.headers["x-request-id"])
    assert {each.size for each in messages} == {len(answer.request.content)}


async def test_one_whose_engine_dies_is_handed_out_again(embed: Cluster) -> None:
    for replica in ("embed-0", "embed-1"):
        await embed.tell_engine(replica, first_token=1.0)

    async def runs_on() -> str:
        for replica in ("embed-0", "embed-1"):
            if (await embed.engine_says(replica))["running"]:
                return replica
        return ""

    async with embed.http() as http:
        asked = asyncio.create_task(http.post(EMBEDDINGS, json={"model": "embed", "input": TEXT}))
        await embed.poll(runs_on, "an engine works on it")
        os.kill((await embed.engine(await runs_on())).pid, signal.SIGKILL)
        answer = await asked
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["embedding"] == expected()


async def test_an_answer_to_one_can_t_be_kept_and_its_client_is_told_why(embed: Cluster) -> None:
    for field in ({"X-Resumable": "true"}, {"Idempotency-Key": "k"}):
        async with embed.http() as http:
            refused = await http.post(
                EMBEDDINGS, json={"model": "embed", "input": TEXT}, headers=field
            )
        assert "can be kept only if" in error(refused, 413)["message"]


async def test_the_limit_is_the_operator_s_and_is_told(own_cluster: Cluster) -> None:
    small = free_port()
    own_cluster.start_all()
    own_cluster.start("gateway-small", "--port", str(small), "--max-body", "5000")
    await own_cluster.ready()
    await own_cluster.ready(small)
    await own_cluster.load("chat")
    async with own_cluster.http(small) as http:
        refused = await http.post(CHAT, json=chat("chat", "x" * 5000))
        assert "larger than 5000 bytes" in error(refused, 413)["message"]
    async with own_cluster.http() as http:
        assert (await http.post(CHAT, json=chat("chat", "x" * 5000))).status_code == 200
