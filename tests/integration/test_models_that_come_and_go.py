"""Models that sleep, wake, make room for each other, and grow and shrink with their load."""

import asyncio
import re

import httpx
import pytest

from nebula.events.vocabulary import EngineStopped, ModelScaled, ModelSlept, ModelWoken
from tests.integration.asking import CHAT, chat, error, said
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


async def ask(http: httpx.AsyncClient, model: str, text: str = "hello", most: int = 1) -> str:
    return said(await http.post(CHAT, json=chat(model, text, max_tokens=most)))


async def events(cluster: Cluster, model: str) -> list[type]:
    """What routers decided of a model from what they saw."""
    found = await cluster.records(ModelSlept, ModelWoken, ModelScaled, identity=model)
    return [type(record.content) for record in found]


async def test_a_model_comes_with_its_first_request_and_goes_without_requests(
    cluster: Cluster,
) -> None:
    await cluster.ready()
    await cluster.load("shy", memory="64MiB", on_request=True, idle_after=1.0, stands="asleep")
    assert await events(cluster, "shy") == []
    async with cluster.http() as http:
        answers = await asyncio.gather(*(ask(http, "shy", f"w{n}") for n in range(5)))
        assert answers == [f"w{n}" for n in range(5)]
        await cluster.stands("shy", "asleep")
        stopped = await cluster.logged(EngineStopped, "shy-0")
        assert stopped.reason == "it is no longer assigned to this node"
        assert await ask(http, "shy", "again") == "again"
    assert await events(cluster, "shy") == [ModelWoken, ModelSlept, ModelWoken]
    slept = await cluster.logged(ModelSlept, "shy")
    assert slept.reason.endswith("s: it sleeps after 1 s")
    woken = await cluster.logged(ModelWoken, "shy")
    assert re.search(r"\d requests? waits?, for 0\.", woken.reason), woken.reason


async def test_a_client_without_patience_is_told_that_the_model_loads(cluster: Cluster) -> None:
    await cluster.ready()
    slow = {"simulate-start": 3}
    await cluster.load("lazy", memory="64MiB", on_request=True, options=slow, stands="asleep")
    async with cluster.http() as http:
        headers = {"X-Request-Timeout": "1"}
        answer = await http.post(CHAT, json=chat("lazy"), headers=headers)
        error(answer, 504)
        assert await ask(http, "lazy") == "hello", "it was woken all the same"


async def test_replicas_come_and_go_with_the_load(cluster: Cluster) -> None:
    await cluster.ready()
    auto = {"least": 1, "most": 2, "in_flight": 2, "wait": 5, "calm": 1.5}
    slow = {"simulate-first-token": 3}
    await cluster.load("tide", memory="64MiB", autoscale=auto, options=slow)
    async with cluster.http() as http:
        waits = [asyncio.create_task(ask(http, "tide")) for _ in range(4)]
        more = await cluster.logged(ModelScaled, "tide")
        assert more == ModelScaled(2, "4 requests in flight are 4.0 for each of 1, more than 2")
        await cluster.until(
            lambda state: len(state.models["tide"].assignments) == 2, "it has two replicas"
        )
        assert await asyncio.gather(*waits) == ["hello"] * 4
    await cluster.until(
        lambda state: state.models["tide"].scaled == 1 and len(state.models["tide"].replicas) == 1,
        "one replica is left",
    )


async def test_an_engine_that_is_no_longer_wanted_ends_its_requests_first(
    cluster: Cluster,
) -> None:
    await cluster.ready()
    slow = {"simulate-token": 0.1, "simulate-tokens": 30}
    await cluster.load("fewer", memory="64MiB", replicas=2, options=slow)
    async with cluster.http() as http:
        asking = [asyncio.create_task(ask(http, "fewer", most=30)) for _ in range(6)]

        async def both_run() -> bool:
            counts = [await cluster.engine_says(f"fewer-{n}") for n in range(2)]
            return all(count["running"] for count in counts)

        await cluster.poll(both_run, "both replicas have requests")
        assert (await cluster.nebula("scale", "fewer", "1", "--no-wait")).code == 0
        await asyncio.gather(*asking)
    await cluster.logged(EngineStopped, "fewer-1")
    told = (cluster.folder / "home" / "logs" / "gateway.log").read_text()
    assert "attempt 2" not in told, "none was asked again elsewhere"


async def test_the_least_recently_used_model_makes_room_for_one_that_is_asked_for(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    for name in ("nats", "router", "gateway"):
        cluster.start(name)
    cluster.start("node", "--devices", "gpu:2GiB")
    await cluster.ready()
    for model in ("old", "new"):
        await cluster.load(model, memory="900MiB", evictable=True)
    await cluster.load("third", memory="900MiB", evictable=True, on_request=True, stands="asleep")
    async with cluster.http() as http:
        assert await ask(http, "old") == "hello"
        assert await ask(http, "new") == "hello"
        assert await ask(http, "third") == "hello"
        state = await cluster.state()
        asleep = {identity: model.asleep for identity, model in state.models.items()}
        assert asleep == {"old": True, "new": False, "third": False}
        slept = await cluster.logged(ModelSlept, "old")
        assert slept.reason.startswith("it makes room for third, for which 1 request waits, for ")
        assert await ask(http, "old") == "hello"
    asleep = {identity: model.asleep for identity, model in (await cluster.state()).models.items()}
    assert asleep == {"old": False, "new": True, "third": False}
