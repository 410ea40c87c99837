"""Routers, gateways and nodes beside each other: what they share, and what one's end changes."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from nebula.events.vocabulary import ModelAssigned, ModelUnloaded, NodeRegistered
from tests.integration.asking import CHAT, chat, said
from tests.integration.cluster import Cluster
from tests.ports import free_port

pytestmark = pytest.mark.anyio

SMALL: dict[str, Any] = {"source": "simulated", "memory": "64MiB"}
SECOND = free_port()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with two of each actor."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))

    async def ready() -> None:
        for port in (None, SECOND):
            await cluster.ready(port)
        for node in ("here", "there"):
            await cluster.logged(NodeRegistered, node)

    try:
        cluster.start_all()
        cluster.start("router-2")
        cluster.start("gateway-2", "--port", str(SECOND))
        cluster.start("node-2", "--name", "there", "--label", "zone=b")
        asyncio.run(ready())
        yield cluster
    finally:
        cluster.close()


async def test_of_two_requests_for_the_same_name_at_once_one_gets_it(cluster: Cluster) -> None:
    async with cluster.http() as one, cluster.http(SECOND) as two:
        for turn in range(5):
            request = {**SMALL, "name": f"wanted-{turn}", "replicas": 0}
            answers = await asyncio.gather(
                one.post("/admin/models", json={**request, "id": f"a{turn}"}),
                two.post("/admin/models", json={**request, "id": f"b{turn}"}),
            )
            assert sorted(answer.status_code for answer in answers) == [202, 409]
    state = await cluster.state()
    assert {f"wanted-{turn}" for turn in range(5)} == set(state.names)
    assert not state.rejections


async def test_replicas_are_spread_over_the_nodes_and_share_the_requests(cluster: Cluster) -> None:
    assert (await cluster.state()).nodes["there"].labels == {"zone": "b"}
    await cluster.load("wide", replicas=2, memory="64MiB")
    state = await cluster.state()
    assert {state.replicas[name].node for name in ("wide-0", "wide-1")} == {"here", "there"}
    async with cluster.http() as http:
        await asyncio.gather(*(http.post(CHAT, json=chat("wide")) for _ in range(40)))
    finished = [(await cluster.engine_says(f"wide-{n}"))["finished"] for n in range(2)]
    assert sum(finished) == 40
    assert min(finished) >= 10


async def test_a_node_that_is_drained_gets_nothing_new(cluster: Cluster) -> None:
    await cluster.publish("nebula.events.node.there.NodeDrainRequested", b"")
    await cluster.until(lambda state: state.nodes["there"].draining, "it is drained")
    await cluster.load("undivided", replicas=2, memory="64MiB")
    state = await cluster.state()
    assert {state.replicas[name].node for name in ("undivided-0", "undivided-1")} == {"here"}


async def test_a_second_node_process_of_the_same_name_is_refused(cluster: Cluster) -> None:
    cluster.start("node-3")
    assert await asyncio.to_thread(cluster.ended, "node-3") != 0
    assert "another node process holds" in cluster.output("node-3")


async def test_a_node_of_the_same_name_from_another_folder_is_refused_and_the_first_goes_on(
    cluster: Cluster,
) -> None:
    registered = await cluster.records(NodeRegistered, identity="here")
    cluster.start("node-4", "--folder", str(cluster.folder / "elsewhere"))
    assert await asyncio.to_thread(cluster.ended, "node-4") == 78
    assert "node 'here' runs already, as process" in cluster.output("node-4")
    assert await cluster.records(NodeRegistered, identity="here") == registered
    assert cluster.runs("node")


async def test_everything_is_decided_once_and_either_gateway_or_router_serves_it_all(
    cluster: Cluster,
) -> None:
    names = [f"m{number}" for number in range(4)]

    async def load(http: httpx.AsyncClient, name: str) -> int:
        return (await http.post("/admin/models", json={**SMALL, "id": name})).status_code

    async with cluster.http() as one, cluster.http(SECOND) as two:
        http = [one, two] * 2
        assert set(await asyncio.gather(*map(load, http, names))) == {202}
        for name in names:
            await cluster.stands(name)
            for gateway in (one, two):
                assert said(await gateway.post(CHAT, json=chat(name, name, max_tokens=1))) == name
        assert (await one.get("/v1/models")).json() == (await two.get("/v1/models")).json()

        cluster.kill("router")
        answers = await asyncio.gather(
            *(gateway.post(CHAT, json=chat("m0", max_tokens=1)) for gateway in [one, two] * 10)
        )
        assert [said(answer) for answer in answers] == ["hello"] * 20

        gone = await asyncio.gather(*(two.delete(f"/admin/models/{name}") for name in names))
        assert {answer.status_code for answer in gone} == {202}
    await cluster.until(lambda state: not set(names) & set(state.models), "all are unloaded")
    for kind in (ModelAssigned, ModelUnloaded):
        told = [record.id for record in await cluster.records(kind) if record.id in names]
        assert sorted(told) == names
