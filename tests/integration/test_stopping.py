"""Ends in unhandy moments: while something starts, pauses or serves, and of `nebula up` alone."""

import asyncio

import pytest

from nebula.events.intents import ModelUnloadRequested
from nebula.events.vocabulary import EngineFailed, EngineStarted, EngineStopped, NodeRegistered
from tests.integration.asking import CHAT, chat, error, said
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

GRACE = 3
"""Seconds that `Cluster.up` gives engines to end."""

HOUR = 3600
"""Seconds: what ends before them does not wait for them."""


async def test_after_kill_9_of_nebula_up_alone_nothing_is_left_and_the_next_start_serves_again(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.up()
    await cluster.ready()
    await cluster.load("chat")

    cluster.kill("up")

    async def gone() -> bool:
        return not cluster.pids()

    await cluster.poll(gone, "every process has ended")
    cluster.again("up")
    await cluster.ready()
    await cluster.stands("chat")
    async with cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("chat", max_tokens=1))) == "hello"
    assert len(cluster.engine_processes()) == 1


async def test_a_node_that_is_to_leave_its_engines_stops_without_them_and_they_are_adopted(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    for name in ("nats", "router", "gateway"):
        cluster.start(name)
    cluster.start("node", "--leave-engines")
    await cluster.ready()
    await cluster.load("chat")
    engine = await cluster.engine("chat-0")

    assert await asyncio.to_thread(cluster.stop, "node") == 0
    async with cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("chat", max_tokens=1))) == "hello"
    cluster.again("node")

    async def registered() -> bool:
        return len(await cluster.records(NodeRegistered)) == 2

    await cluster.poll(registered, "the next node has begun")
    assert await cluster.engine("chat-0") == engine
    assert await cluster.records(EngineStopped) == []
    assert len(await cluster.records(EngineStarted)) == 1


async def waits_in_line(cluster: Cluster, model: str) -> None:
    """Wait until a request waits for a model."""
    async with cluster.http() as http:

        async def so() -> bool:
            queue = (await http.get(f"/admin/models/{model}")).json()["queue"]
            return queue is not None and queue["waiting"] > 0

        await cluster.poll(so, f"a request waits for {model}")


async def test_a_model_is_unloaded_while_its_engine_starts_pauses_or_is_given_up(
    cluster: Cluster,
) -> None:
    await cluster.ready()
    starting = {"simulate-start": HOUR}
    failing = {"simulate-exit-at-start": 1}
    await cluster.load("failed", options=failing, stands="failed")
    await cluster.load("starting", options=starting, stands="loading")
    await cluster.load("queued", stands="loading")  # waits for the device, where one still starts
    await cluster.logged(EngineStarted, "starting-0")
    async with cluster.http() as http:
        waiting = asyncio.create_task(http.post(CHAT, json=chat("starting")))
        await waits_in_line(cluster, "starting")
        for identity in ("starting", "failed", "queued"):
            assert (await http.delete(f"/admin/models/{identity}")).status_code == 202
        refused = error(await waiting, 503)
    assert "unloaded" in refused["message"]
    await cluster.until(lambda state: not state.models, "all are unloaded")

    # One that was unloaded before it could be reported is ended a moment later.
    async def none_left() -> bool:
        return not cluster.engine_processes()

    await cluster.poll(none_left, "no engine is left")
    assert len(await cluster.records(EngineFailed, identity="failed-0")) == 2


async def test_an_engine_that_does_not_end_by_itself_is_killed_after_the_grace(
    cluster: Cluster,
) -> None:
    await cluster.ready()
    await cluster.load("stubborn")
    [process] = cluster.engine_processes()
    process.suspend()  # it takes no SIGTERM now
    async with cluster.http() as http:
        assert (await http.delete("/admin/models/stubborn")).status_code == 202
    await cluster.until(lambda state: not state.models, "it is unloaded")
    [asked] = await cluster.records(ModelUnloadRequested, identity="stubborn")
    [ended] = await cluster.records(EngineStopped, identity="stubborn-0")
    assert ended.time - asked.time >= GRACE * 10**9, "it had its time to end by itself"
    assert cluster.engine_processes() == []


async def test_a_model_that_is_loaded_again_while_it_is_being_unloaded_comes_back(
    cluster: Cluster,
) -> None:
    await cluster.ready()
    await cluster.load("fickle")
    async with cluster.http() as http:
        for _ in range(5):
            assert (await http.delete("/admin/models/fickle")).status_code == 202
            await cluster.load("fickle", stands="")
        await cluster.stands("fickle")
        assert said(await http.post(CHAT, json=chat("fickle", max_tokens=1))) == "hello"
        assert len(cluster.engine_processes()) == 1
        await http.delete("/admin/models/fickle")
    await cluster.until(lambda state: not state.models, "it is unloaded")
