"""Engines whose port is open and whose work stands still: told, left alone, ended, started anew."""

import asyncio

import pytest

from nebula.events.standing import standing
from nebula.events.vocabulary import EngineFailed, EngineResumed, EngineStalled
from tests.integration.asking import CHAT, chat, said
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


async def test_the_only_engine_of_a_model_that_stands_still_is_ended_and_started_anew(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.up("--stall-limit", "12")
    await cluster.ready()
    await cluster.load("chat")
    engine = await cluster.engine("chat-0")
    await cluster.tell_engine("chat-0", stall=True)
    async with cluster.http() as http:
        # Clients with less patience than it takes to find out must not wipe the evidence out.
        for _ in range(2):
            answer = await http.post(CHAT, json=chat("chat"), headers={"X-Request-Timeout": "2"})
            assert answer.status_code == 504
    told = await cluster.logged(EngineStalled, "chat-0")
    assert told.requests > 0
    assert "a probe of one token has had no answer" in told.reason or "no token" in told.reason
    state = await cluster.state()
    assert "chat-0 on here stands still since" in standing(state, state.models["chat"]).detail
    failed = await cluster.logged(EngineFailed, "chat-0")
    assert "it stood still for" in failed.reason
    await cluster.until(
        lambda state: (
            state.replicas["chat-0"].serving
            and state.replicas["chat-0"].engine is not None
            and state.replicas["chat-0"].engine.pid != engine.pid
        ),
        "another engine serves",
    )
    async with cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("chat", max_tokens=1))) == "hello"


async def test_of_two_replicas_the_one_that_stands_still_gets_nothing_until_it_goes_on(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.up("--stall-limit", "60")
    await cluster.ready()
    await cluster.load("two", replicas=2, memory="64MiB")
    await cluster.tell_engine("two-0", stall=True)
    patience = {"X-Request-Timeout": "4"}
    async with cluster.http() as http:

        async def ask() -> int:
            body = chat("two", max_tokens=1)
            return (await http.post(CHAT, json=body, headers=patience)).status_code

        async def all_answered() -> bool:
            return await asyncio.gather(*(ask() for _ in range(6))) == [200] * 6

        await cluster.poll(all_answered, "the other one gets all requests", 40)
        for _ in range(8):  # and its own requests' end does not bring the first one back
            assert await all_answered()
        await cluster.logged(EngineStalled, "two-0")
        assert not await cluster.records(EngineFailed, identity="two-0")
        await cluster.tell_engine("two-0", stall=False)
        await cluster.logged(EngineResumed, "two-0")
        before = (await cluster.engine_says("two-0"))["finished"]

        async def used() -> bool:
            await all_answered()
            return (await cluster.engine_says("two-0"))["finished"] > before

        await cluster.poll(used, "it is used again")
