"""Responses in the background survive whatever dies: each text whole, nothing twice."""

import asyncio
import json
from collections.abc import Callable

import openai
import pytest

from tests.integration.asking import prompt, words
from tests.integration.cluster import Cluster
from tests.integration.responding import client_of, over
from tests.ports import free_port

pytestmark = pytest.mark.anyio

MANY = 20
TOKENS = 60


async def begin(cluster: Cluster, *more: str) -> None:
    """Run a cluster whose engines take some seconds for each response."""
    for name in ("nats", "router", "node", "gateway", *more):
        cluster.start(name)
    await cluster.ready()
    await cluster.load(
        "chat", replicas=2, memory="64MiB", options={"simulate-token": 0.05, "max-num-seqs": 64}
    )


async def ask_many(client: openai.AsyncOpenAI) -> list[str]:
    made = [
        await client.responses.create(
            model="chat",
            input=prompt(number),
            background=True,
            max_output_tokens=TOKENS,
            extra_body={"ignore_eos": True},
        )
        for number in range(MANY)
    ]
    return [each.id for each in made]


async def check(client: openai.AsyncOpenAI, identities: list[str]) -> None:
    """Wait for all responses, and check their texts and their streams."""
    for number, identity in enumerate(identities):
        found = await over(client, identity)
        assert (found.status, found.error) == ("incomplete", None)
        assert found.output_text == words(number, TOKENS)
        stream = await client.responses.retrieve(identity, stream=True)
        events = [event async for event in stream]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[-1].type == "response.completed"
        deltas = [each.delta for each in events if each.type == "response.output_text.delta"]
        assert "".join(deltas) == words(number, TOKENS)
        ends = [each for each in events if each.type == "response.output_item.done"]
        assert [each.item.status for each in ends] == ["completed"]  # type: ignore[union-attr]


async def half_said(client: openai.AsyncOpenAI, identity: str) -> None:
    """Wait until a response has some text."""
    async with await client.responses.retrieve(identity, stream=True) as stream:
        async for event in stream:
            if event.type == "response.output_text.delta":
                return


def kill_engine(cluster: Cluster) -> None:
    cluster.engine_processes()[0].kill()


def kill_nats(cluster: Cluster) -> None:
    cluster.kill("nats")
    cluster.again("nats")


def kill_router(cluster: Cluster) -> None:
    cluster.kill("router")
    cluster.again("router")


def kill_gateway(cluster: Cluster) -> None:
    cluster.kill("gateway")
    cluster.again("gateway")


def kill_all(cluster: Cluster) -> None:
    cluster.kill_everything()
    for name in ("nats", "router", "node", "gateway"):
        cluster.again(name)


@pytest.mark.parametrize("kill", [kill_engine, kill_router, kill_nats, kill_gateway, kill_all])
async def test_nothing_is_lost_and_nothing_is_said_twice(
    own_cluster: Cluster, kill: Callable[[Cluster], None]
) -> None:
    await begin(own_cluster)
    async with client_of(own_cluster.port) as client:
        identities = await ask_many(client)
        await half_said(client, identities[0])
        kill(own_cluster)
        await check(client, identities)


async def test_another_gateway_goes_on_where_one_dies_and_shows_all(own_cluster: Cluster) -> None:
    port = free_port()
    await begin(own_cluster)
    own_cluster.start("gateway-2", "--port", str(port))
    await own_cluster.ready(port)
    async with client_of(own_cluster.port) as client, client_of(port) as other:
        identities = await ask_many(client)
        following = asyncio.gather(*(_read(other, identity) for identity in identities))
        await half_said(other, identities[0])
        own_cluster.kill("gateway")
        assert await following == [words(number, TOKENS) for number in range(MANY)]
        await check(other, identities)


async def _read(client: openai.AsyncOpenAI, identity: str) -> str:
    stream = await client.responses.retrieve(identity, stream=True)
    deltas = [e.delta async for e in stream if e.type == "response.output_text.delta"]
    return "".join(deltas)


async def test_a_gateway_that_stops_gives_its_responses_to_another_at_once(
    own_cluster: Cluster,
) -> None:
    port = free_port()
    await begin(own_cluster)
    async with client_of(own_cluster.port) as client, client_of(port) as other:
        identities = await ask_many(client)
        await half_said(client, identities[-1])
        assert own_cluster.stop("gateway") == 0
        own_cluster.start("gateway-2", "--port", str(port))
        await check(other, identities)
    told = await own_cluster.nebula("why", "request", identities[-1], "--json")
    story = json.loads(told.out)
    first = identities[-1].removeprefix("resp_")
    assert story["others"][-1] == first
    again = await own_cluster.nebula("why", "request", first, "--json")
    assert json.loads(again.out) == story


async def test_a_response_that_ends_engines_fails(own_cluster: Cluster) -> None:
    own_cluster.start_all()
    await own_cluster.ready()
    await own_cluster.load("chat", replicas=4, memory="64MiB", options={"simulate-orders": True})
    async with client_of(own_cluster.port) as client:
        made = await client.responses.create(model="chat", input="!exit=1", background=True)
        found = await over(client, made.id)
    assert found.status == "failed"
    assert found.error is not None
    assert found.error.code == "server_error"
