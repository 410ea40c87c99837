"""Routers, gateways and nodes beside each other: what they share, and what one's end changes."""

import asyncio
from typing import Any

import pytest

from nebula.events.vocabulary import ModelAssigned, ModelUnloaded, NodeRegistered
from tests.integration.asking import CHAT, chat, said
from tests.integration.cluster import Cluster, free_port

pytestmark = pytest.mark.anyio

SMALL: dict[str, Any] = {"source": "simulated", "memory": "64MiB"}


async def test_two_routers_and_two_gateways_decide_everything_once_and_serve_alike(
    own_cluster: Cluster,
) -> None:
    second = free_port()
    own_cluster.start_all()
    own_cluster.start("router-2")
    own_cluster.start("gateway-2", "--port", str(second))
    await own_cluster.ready()
    await own_cluster.ready(second)
    async with own_cluster.http() as one, own_cluster.http(second) as two:
        names = [f"m{number}" for number in range(6)]
        loads = [
            (one, two)[number % 2].post("/admin/models", json={**SMALL, "id": name})
            for number, name in enumerate(names)
        ]
        assert {answer.status_code for answer in await asyncio.gather(*loads)} == {202}
        for name in names:
            await own_cluster.stands(name)
            for http in (one, two):
                assert said(await http.post(CHAT, json=chat(name, name, max_tokens=1))) == name
        assert (await one.get("/v1/models")).json() == (await two.get("/v1/models")).json()

        own_cluster.kill("router")
        answers = await asyncio.gather(
            *(http.post(CHAT, json=chat("m0", max_tokens=1)) for http in [one, two] * 10)
        )
        assert [said(answer) for answer in answers] == ["hello"] * 20

        gone = await asyncio.gather(*(two.delete(f"/admin/models/{name}") for name in names))
        assert {answer.status_code for answer in gone} == {202}
    await own_cluster.until(lambda state: not state.models, "all are unloaded")
    for kind in (ModelAssigned, ModelUnloaded):
        told = await own_cluster.records(kind)
        assert sorted(record.id for record in told) == names


async def test_two_who_take_the_same_name_at_once_do_not_both_get_it(own_cluster: Cluster) -> None:
    second = free_port()
    own_cluster.start_all()
    own_cluster.start("gateway-2", "--port", str(second))
    await own_cluster.ready()
    await own_cluster.ready(second)
    async with own_cluster.http() as one, own_cluster.http(second) as two:
        for turn in range(5):
            request = {**SMALL, "name": f"wanted-{turn}", "replicas": 0}
            answers = await asyncio.gather(
                one.post("/admin/models", json={**request, "id": f"a{turn}"}),
                two.post("/admin/models", json={**request, "id": f"b{turn}"}),
            )
            assert sorted(answer.status_code for answer in answers) == [202, 409]
    assert len((await own_cluster.state()).models) == 5


async def test_replicas_are_spread_over_the_nodes_and_share_the_requests(
    own_cluster: Cluster,
) -> None:
    own_cluster.start_all()
    own_cluster.start("node-2", "--name", "there", "--label", "zone=b")
    await own_cluster.ready()
    for node in ("here", "there"):
        await own_cluster.logged(NodeRegistered, node)
    assert (await own_cluster.state()).nodes["there"].labels == {"zone": "b"}

    await own_cluster.load("wide", replicas=2, memory="64MiB")
    state = await own_cluster.state()
    assert {state.replicas[name].node for name in ("wide-0", "wide-1")} == {"here", "there"}
    async with own_cluster.http() as http:
        await asyncio.gather(*(http.post(CHAT, json=chat("wide")) for _ in range(40)))
    finished = [(await own_cluster.engine_says(f"wide-{n}"))["finished"] for n in range(2)]
    assert sum(finished) == 40
    assert min(finished) >= 10

    await own_cluster.publish("nebula.events.node.there.NodeDrainRequested", b"")
    await own_cluster.load("more", replicas=2, memory="64MiB")
    state = await own_cluster.state()
    assert {state.replicas[name].node for name in ("more-0", "more-1")} == {"here"}


async def test_a_second_node_process_of_the_same_name_is_refused(own_cluster: Cluster) -> None:
    own_cluster.start_all()
    await own_cluster.ready()
    await own_cluster.load("chat", memory="64MiB")
    own_cluster.start("node-2")
    assert own_cluster.ended("node-2") != 0
    assert "another node process holds" in own_cluster.output("node-2")
    async with own_cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("chat", max_tokens=1))) == "hello"
