"""Requests under way when something is slow, large, or goes missing."""

import asyncio
import shutil
from functools import partial

import pytest

from nebula.events.vocabulary import EngineFailed, EngineStarted
from tests.integration.asking import CHAT, chat, error, events, said, text_of
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


async def counts(cluster: Cluster, replica: str, **wanted: int) -> bool:
    """Return whether an engine counts this many."""
    found = await cluster.engine_says(replica)
    return all(found[name] == number for name, number in wanted.items())


async def test_an_answer_larger_than_any_message_of_nats_arrives_whole(
    own_cluster: Cluster,
) -> None:
    own_cluster.up()
    await own_cluster.ready()
    await own_cluster.load("embed", task="embedding", options={"simulate-dimensions": 4096})
    texts = [f"text {number}" for number in range(256)]
    async with own_cluster.http() as http:
        body = {"model": "embed", "input": texts}
        answer = await http.post("/v1/embeddings", json=body)
        assert len(answer.content) > 16 * 1024 * 1024
        vectors = [item["embedding"] for item in answer.json()["data"]]
        last = await http.post("/v1/embeddings", json={"model": "embed", "input": texts[-1]})
    assert len(vectors) == 256
    assert vectors[-1] == last.json()["data"][0]["embedding"]


async def test_an_engine_that_falls_silent_within_an_answer_is_a_504_and_its_work_is_ended(
    own_cluster: Cluster,
) -> None:
    for name in ("nats", "router", "node"):
        own_cluster.start(name)
    own_cluster.start("gateway", "--idle-timeout", "1")
    await own_cluster.ready()
    await own_cluster.load("chat", options={"simulate-token": 0.1})
    async with own_cluster.http() as http:
        body = chat("chat", stream=True)
        async with http.stream("POST", CHAT, json=body) as answer:
            stream = events(answer)
            heard = [await anext(stream), await anext(stream)]
            await own_cluster.tell_engine("chat-0", stall=True)
            heard += [event async for event in stream]
        *chunks, last = heard
        assert text_of(chunks).startswith("hello")
        assert last["error"]["type"] == "timeout"
        error(await http.post(CHAT, json=chat("chat")), 504)
    await own_cluster.poll(
        partial(counts, own_cluster, "chat-0", running=0, aborted=2), "both are ended", 5
    )
    await own_cluster.tell_engine("chat-0", stall=False)
    async with own_cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("chat", max_tokens=1))) == "hello"


async def test_an_actor_that_finds_another_log_than_it_has_read_ends_instead_of_going_on(
    own_cluster: Cluster,
) -> None:
    own_cluster.start_all()
    await own_cluster.ready()
    await own_cluster.load("chat")
    await own_cluster.load("slow", options={"simulate-start": 30}, stands="loading")
    await own_cluster.logged(EngineStarted, "slow-0")
    own_cluster.kill("nats")
    shutil.rmtree(own_cluster.folder / "jetstream")
    own_cluster.again("nats")
    for name in ("router", "node", "gateway"):
        assert await asyncio.to_thread(own_cluster.ended, name) == 78
        told = own_cluster.output(name)
        assert "nebula: the log" in told, "it says that its log is not there any more"
    assert not own_cluster.engine_processes(), "the node has ended what it had started"


async def test_an_engine_command_that_is_not_there_is_the_reason_of_the_failure(
    own_cluster: Cluster,
) -> None:
    for name in ("nats", "router", "gateway"):
        own_cluster.start(name)
    own_cluster.start("node", "--engine-command", "/no/such/engine --flag")
    await own_cluster.ready()
    await own_cluster.load("chat", stands="failed")
    failed = await own_cluster.logged(EngineFailed, "chat-0")
    assert failed.exit_code is None
    assert failed.reason.startswith("can't run /no/such/engine --flag")
    async with own_cluster.http() as http:
        refused = error(await http.post(CHAT, json=chat("chat")), 503)
        assert "can't run /no/such/engine --flag" in refused["message"]
