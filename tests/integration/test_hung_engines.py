"""Engines whose port is open and whose work stands still: told, left alone, ended, started anew."""

import asyncio
import os
import signal

import httpx
import pytest

from nebula.events.model_status import model_status
from nebula.events.vocabulary import EngineFailed, EngineResumed, EngineStalled, EngineStarted
from tests.integration.asking import CHAT, chat, events, said
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
    assert "no token, no step" in told.reason
    state = await cluster.state()
    assert "and has made no progress since" in model_status(state, state.models["chat"]).detail
    failed = await cluster.logged(EngineFailed, "chat-0")
    assert "it made no progress for" in failed.reason
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


async def test_of_two_replicas_a_stalled_one_gets_nothing_until_it_goes_on(
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


async def test_a_stream_of_an_engine_that_is_ended_goes_on_at_the_other_replica(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.up("--stall-limit", "9")
    await cluster.ready()
    options = {"simulate-token": 0.2, "simulate-tokens": 20}
    await cluster.load("two", replicas=2, memory="64MiB", options=options)
    words = " ".join(f"w{number}" for number in range(20))
    async with cluster.http() as http:
        http.timeout = httpx.Timeout(60)

        async def stream() -> str:
            async with http.stream("POST", CHAT, json=chat("two", words, stream=True)) as answer:
                deltas = [each["choices"][0]["delta"] async for each in events(answer)]
            return "".join(delta.get("content") or "" for delta in deltas)

        asked = asyncio.create_task(stream())

        async def busy() -> list[str]:
            each = ("two-0", "two-1")
            return [name for name in each if (await cluster.engine_says(name))["running"]]

        await cluster.poll(busy, "one of them has the request")
        (hung,) = await busy()
        await cluster.tell_engine(hung, stall=True)
        assert await asked == words
    failed = await cluster.logged(EngineFailed, hung)
    assert "it made no progress for" in failed.reason


async def test_an_engine_that_reads_a_long_prompt_is_not_ended_while_it_does(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.up("--stall-limit", "6")
    await cluster.ready()
    await cluster.load("long", options={"simulate-first-token": 15})
    prompt = " ".join(f"word{number}" for number in range(300))  # buys about 40 seconds
    async with cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("long", prompt, max_tokens=1))) == "word0"
    assert len(await cluster.records(EngineStarted, identity="long-0")) == 1
    assert not await cluster.records(EngineFailed, identity="long-0")


async def test_an_engine_that_is_paused_for_less_than_the_limit_is_not_ended(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.up("--stall-limit", "30")
    await cluster.ready()
    await cluster.load("chat", options={"simulate-token": 0.2, "simulate-tokens": 10})
    engine = await cluster.engine("chat-0")
    async with cluster.http() as http:
        asked = asyncio.create_task(http.post(CHAT, json=chat("chat")))
        os.kill(engine.pid, signal.SIGSTOP)
        told = await cluster.logged(EngineStalled, "chat-0")
        assert told.reason == "its server does not answer"
        os.kill(engine.pid, signal.SIGCONT)
        assert (await asked).status_code == 200
    await cluster.logged(EngineResumed, "chat-0")
    assert not await cluster.records(EngineFailed, identity="chat-0")
