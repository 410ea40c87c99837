"""NATS goes and comes back: what callers are told meanwhile, and that nothing is loaded again."""

import asyncio
import os
import signal

import httpx
import nats
import pytest

from nebula.events.vocabulary import EngineFailed, EngineStarted, NodeRegistered
from nebula.store import streams
from tests.integration.asking import (
    CHAT,
    Heard,
    chat,
    error,
    events,
    prompt,
    resume,
    said,
    stream,
    words,
)
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


async def answers_of_a_gateway_without_nats(cluster: Cluster, http: httpx.AsyncClient) -> None:
    """Everything that needs NATS is a 503; the process itself is well."""

    async def not_ready() -> bool:
        return (await http.get("/ready")).status_code == 503

    await cluster.poll(not_ready, "the gateway has noticed")
    for answer in (
        await http.get("/ready"),
        await http.post(CHAT, json=chat("chat")),
        await http.post(CHAT, json=chat("chat", stream=True)),
        await http.post("/admin/models", json={"source": "simulated", "id": "more"}),
        await http.patch("/admin/models/chat", json={"replicas": 2}),
        await http.delete("/admin/models/chat"),
    ):
        assert "NATS" in error(answer, 503)["message"]
        assert answer.headers["retry-after"].isdigit()
    assert (await http.get("/health")).status_code == 200
    assert (await http.get("/v1/models")).json()["data"][0]["id"] == "chat", "what it knew last"


async def recovered(cluster: Cluster) -> None:
    """Wait until requests are answered again, by the engine that was there before."""
    await cluster.ready()

    async def served() -> bool:
        async with cluster.http() as http:
            return (await http.post(CHAT, json=chat("chat", max_tokens=1))).status_code == 200

    await cluster.poll(served, "requests are answered", 10)


async def test_while_an_external_nats_is_gone_requests_get_a_503_and_all_recovers_by_itself(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.start("nats")
    cluster.up(own_nats=False)
    await cluster.ready()
    slow = {"simulate-token": 0.1, "simulate-tokens": 1000}
    await cluster.load("chat", options=slow)
    engine = await cluster.engine("chat-0")
    before = cluster.pids() - {cluster.pid("nats")}

    async with cluster.http() as http:
        async with http.stream("POST", CHAT, json=chat("chat", stream=True)) as answer:
            heard = events(answer)
            await anext(heard)
            cluster.kill("nats")
            async with asyncio.timeout(20):
                *_, last = [event async for event in heard]
        assert "NATS" in last["error"]["message"]
        await answers_of_a_gateway_without_nats(cluster, http)
        assert cluster.pids() == before, "nobody gives up"
        cluster.again("nats")
        await recovered(cluster)

        assert await cluster.engine("chat-0") == engine
        assert len(await cluster.records(EngineStarted)) == 1
        assert len(await cluster.records(NodeRegistered)) == 1
        assert cluster.pids() == before | {cluster.pid("nats")}

        # What is asked for afterwards is done: router and node follow the log again.
        await cluster.load("more")
        assert said(await http.post(CHAT, json=chat("more", max_tokens=1))) == "hello"

        async def aborted() -> bool:
            return (await cluster.engine_says("chat-0"))["running"] == 0

        await cluster.poll(aborted, "the stream that was lost with NATS is ended")


async def test_an_embedded_nats_that_dies_is_started_again_and_nothing_is_reloaded(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.up()
    await cluster.ready()
    await cluster.load("chat")
    engine = await cluster.engine("chat-0")
    server = cluster.pid("nats-server")
    others = cluster.pids() - {server}

    cluster.kill("nats-server")
    await recovered(cluster)
    assert cluster.pid("nats-server") != server
    assert await cluster.engine("chat-0") == engine
    assert cluster.pids() == others | {cluster.pid("nats-server")}
    assert len(await cluster.records(EngineStarted)) == 1


async def test_streams_come_whole_although_nats_dies_under_them(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.up()
    await cluster.ready()
    tokens = 200
    fast = {"simulate-token": 0.02, "simulate-tokens": tokens}
    await cluster.load("chat", options=fast)
    await cluster.load("calm", options={"simulate-first-token": 4})
    number = 20
    heard = [Heard() for _ in range(number)]
    async with cluster.http() as http:
        streams_of_all = [
            asyncio.create_task(stream(http, chat("chat", prompt(n)), heard[n]))
            for n in range(number)
        ]
        whole = asyncio.create_task(http.post(CHAT, json=chat("calm", max_tokens=1)))

        async def begun() -> bool:
            return all(len(each.chunks) > 10 for each in heard)

        await cluster.poll(begun, "all streams have begun")
        cluster.kill("nats-server")
        await asyncio.gather(*streams_of_all)
        assert said(await whole) == "hello"
    for each, text in zip(heard, (words(n, tokens) for n in range(number)), strict=True):
        assert each.error is None
        assert each.whole
        assert each.text == text
        assert (len(each.ids), each.roles, each.ends) == (1, 1, ["stop"])
    await recovered(cluster)

    client = await nats.connect(cluster.url())
    for name in (streams.EVENTS, streams.INFERENCE, streams.STATUS):
        assert (await client.jetstream().stream_info(name)).config.name == name
    await client.close()

    # The data plane's stream is there for clients that come back, too.
    async with cluster.http() as http:
        before = await stream(http, chat("chat", max_tokens=5), X_Resumable="true")
        assert (await resume(http, before.request)).raw == before.raw


async def test_actors_that_start_before_nats_wait_for_it(own_cluster: Cluster) -> None:
    cluster = own_cluster
    for name in ("gateway", "router", "node"):
        cluster.start(name)
    async with cluster.http() as http:

        async def alive() -> bool:
            try:
                return (await http.get("/health")).status_code == 200
            except httpx.ConnectError:
                return False

        await cluster.poll(alive, "the gateway listens")
        error(await http.get("/ready"), 503)
        error(await http.post(CHAT, json=chat("chat")), 503)
        error(await http.post("/admin/models", json={"source": "simulated"}), 503)
        cluster.start("nats")
        await cluster.ready()
        await cluster.load("chat")
        assert said(await http.post(CHAT, json=chat("chat", max_tokens=1))) == "hello"


async def test_an_engine_that_dies_while_nats_is_gone_is_reported_and_replaced_afterwards(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.start_all()
    await cluster.ready()
    await cluster.load("chat")
    old = await cluster.engine("chat-0")

    cluster.kill("nats")
    os.kill(old.pid, signal.SIGKILL)

    async def noticed() -> bool:
        return "chat-0 failed" in cluster.output("node")

    await cluster.poll(noticed, "the node has noticed while NATS is gone")
    cluster.again("nats")
    await recovered(cluster)

    failed = await cluster.logged(EngineFailed, "chat-0")
    assert "killed by signal 9" in failed.reason
    assert (await cluster.engine("chat-0")).pid != old.pid
    assert len(cluster.engine_processes()) == 1


async def test_an_engine_is_started_again_while_nats_is_gone_and_the_log_hears_of_it_later(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.start("nats")
    cluster.up(own_nats=False)
    await cluster.ready()
    await cluster.load("chat")
    engine = await cluster.engine("chat-0")
    cluster.kill("nats")
    os.kill(engine.pid, signal.SIGKILL)

    async def started_again() -> bool:
        return any(each.pid != engine.pid for each in cluster.engine_processes())

    await cluster.poll(started_again, "the engine is started again without the log", 30)
    cluster.again("nats")
    await recovered(cluster)
    await cluster.until(
        lambda state: (
            state.replicas["chat-0"].serving
            and state.replicas["chat-0"].engine is not None
            and state.replicas["chat-0"].engine.pid != engine.pid
        ),
        "the log has the engine that runs",
    )
    told = await cluster.records(EngineStarted, EngineFailed, identity="chat-0")
    assert [type(record.content) for record in told] == [EngineStarted, EngineFailed, EngineStarted]
    assert told[2].cause == told[1].seq
