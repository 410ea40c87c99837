"""A request's own fault costs no other request: no replica is benched for it, no other ended."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import httpx
import pytest

from nebula.events.vocabulary import EngineFailed
from tests.integration.asking import CHAT, chat, error, said
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

ORDERS = {"simulate-orders": True}


async def load(cluster: Cluster, model: str, replicas: int, **fields: Any) -> None:
    await cluster.ready()
    await cluster.load(model, replicas=replicas, memory="64MiB", options=ORDERS, **fields)


async def counts(cluster: Cluster, model: str, replicas: int, what: str) -> list[int]:
    return [(await cluster.engine_says(f"{model}-{n}"))[what] for n in range(replicas)]


async def test_one_bad_request_benches_no_replica(cluster: Cluster) -> None:
    await load(cluster, "crowd", 4)
    async with cluster.http() as http:
        for status in (500, 500, 503, 429):
            bad = await http.post(CHAT, json=chat("crowd", f"!status={status}"))
            assert bad.status_code == status
            before = await counts(cluster, "crowd", 4, "finished")
            asked = [http.post(CHAT, json=chat("crowd", f"w{n}", max_tokens=1)) for n in range(80)]
            answers = await asyncio.gather(*asked)
            assert [said(answer) for answer in answers] == [f"w{n}" for n in range(80)]
            after = await counts(cluster, "crowd", 4, "finished")
            grown = [late - early for early, late in zip(before, after, strict=True)]
            assert min(grown) >= 8, grown
    state = await cluster.state()
    assert [replica.attempt for replica in state.replicas_of(state.models["crowd"])] == [1] * 4


@pytest.mark.parametrize(("status", "tries"), [(500, 2), (503, 1), (429, 1), (501, 1), (400, 1)])
async def test_a_bad_request_gets_the_engine_s_own_words_after_as_many_tries_as_may_help(
    cluster: Cluster, status: int, tries: int
) -> None:
    model = f"tries-{status}"
    await load(cluster, model, 2)
    async with cluster.http() as http:
        answer = await http.post(CHAT, json=chat(model, f"!status={status} !retry-after=7"))
    assert answer.status_code == status
    assert answer.json()["error"]["message"] == "The prompt ordered it."
    assert answer.headers["retry-after"] == "7"
    assert sum(await counts(cluster, model, 2, "refused")) == tries


async def test_the_only_engine_is_asked_once(cluster: Cluster) -> None:
    await load(cluster, "alone", 1)
    async with cluster.http() as http:
        answer = await http.post(CHAT, json=chat("alone", "!status=500"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, 500)
        assert await counts(cluster, "alone", 1, "refused") == [1]
        told = await http.post(CHAT, json=chat("alone", "good", max_tokens=1))
        assert said(told) == "good"


async def test_of_a_request_that_ends_engines_only_two_die(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.up()
    await load(cluster, "poisoned", 4)
    async with cluster.http() as http:
        http.timeout = httpx.Timeout(30)
        answer = await http.post(CHAT, json=chat("poisoned", "!exit=1"))
        told = error(answer, 500)
        assert told["code"] == "engines_failed"
        assert answer.headers["x-should-retry"] == "false"
        good = await http.post(CHAT, json=chat("poisoned", "good", max_tokens=1))
        assert said(good) == "good"
    assert len(await cluster.records(EngineFailed)) == 2


async def test_one_death_of_the_only_engine_is_held_against_no_request(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.up()
    await cluster.ready()
    slow = {"simulate-token": 0.05, "simulate-tokens": 20}
    await cluster.load("only", memory="64MiB", options=slow)
    async with cluster.http() as http:
        http.timeout = httpx.Timeout(60)
        asked = [
            asyncio.create_task(http.post(CHAT, json=chat("only", f"w{n}"))) for n in range(40)
        ]

        async def all_run() -> bool:
            return (await cluster.engine_says("only-0"))["running"] == len(asked)

        await cluster.poll(all_run, "all run")
        os.kill((await cluster.engine("only-0")).pid, signal.SIGKILL)
        answers = await asyncio.gather(*asked)
    assert [answer.status_code for answer in answers] == [200] * len(asked)
    assert len(await cluster.records(EngineFailed)) == 1
