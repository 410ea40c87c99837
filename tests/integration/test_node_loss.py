"""What would have no place without a node, told before it is lost, and then it is lost."""

import json

import pytest

from nebula.events.state import State
from nebula.events.vocabulary import ResilienceChanged
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

PROCESSES = {"here": "node", "there": "node-2"}


async def test_what_is_told_of_a_loss_is_what_happens_when_the_node_is_killed(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.start("nats")
    cluster.start("router", "--lost-after", "6")
    cluster.start("node")
    cluster.start("node-2", "--name", "there")
    cluster.start("gateway")
    await cluster.ready()
    await cluster.until(lambda state: len(state.nodes) == 2, "both nodes are there")
    await cluster.load("chat")
    node = (await cluster.replica("chat-0")).node
    await cluster.load("pinned", node=node)
    await cluster.load("both", replicas=2, apart=["both"])
    async with cluster.http() as http:
        assert (
            await http.put("/admin/aliases/best", json={"targets": [{"model": "chat"}]})
        ).status_code == 202
        told = (await http.get("/admin/resilience")).json()
        (one,) = (await http.get("/admin/resilience", params={"node": node})).json()["nodes"]
        unknown = await http.get("/admin/resilience", params={"node": "nobody"})
        earlier = await http.get("/admin/resilience", params={"at": 3})
    assert unknown.status_code == 404
    assert earlier.json()["seq"] == 3
    assert [each["node"] for each in told["nodes"]] == ["here", "there"]
    assert one in told["nodes"]
    expected = {each["model"]: each for each in one["models"]}
    assert {name: each["missing"] for name, each in expected.items()} == {
        "chat": 0,
        "pinned": 1,
        "both": 1,
    }
    assert expected["chat"]["aliases"] == ["best"]
    asked = await cluster.nebula("resilience", "--json")
    assert json.loads(asked.out)["nodes"] == told["nodes"]
    assert (await cluster.nebula("resilience", "--check")).code == 1

    cluster.kill(PROCESSES[node])

    def decided(state: State) -> bool:
        moved = any(place.node != node for place in state.models["chat"].assignments)
        lacking = (state.models["pinned"], state.models["both"])
        return state.nodes[node].lost and moved and all(each.unschedulable for each in lacking)

    after = await cluster.until(decided, "the router has decided about the loss")
    for name, each in expected.items():
        model = after.models[name]
        kept = [place for place in model.assignments if place.replica not in each["replicas"]]
        planned = {place.node for place in kept}
        assert model.missing == each["missing"]
        assert {place.partition("/")[0] for place in each["places"]} <= planned
        assert node not in planned
    (gone,) = json.loads((await cluster.nebula("resilience", "--json")).out)["nodes"]
    assert gone["node"] != node


async def test_routers_record_once_which_nodes_could_not_be_lost(own_cluster: Cluster) -> None:
    cluster = own_cluster
    for name in ("nats", "router", "router-2", "node"):
        cluster.start(name)
    cluster.start("node-2", "--name", "there")
    cluster.start("gateway")
    await cluster.ready()
    await cluster.until(lambda state: len(state.nodes) == 2, "both nodes are there")
    await cluster.load("pinned", node="here")
    state = await cluster.until(
        lambda state: bool(state.cluster.risks.count), "a router has recorded it"
    )
    assert [(each.node, each.models) for each in state.cluster.risks.nodes] == [
        ("here", ("pinned",))
    ]
    told = (await cluster.nebula("status")).out
    assert "the loss of here would leave replicas of 1 model without a place" in told
    async with cluster.http() as http:
        shown = (await http.get("/admin/state")).json()["cluster"]["risks"]
        home = (await http.get("/admin/attention")).json()
    assert shown["count"] == 1
    assert home["risk"] == "the loss of here would leave replicas of 1 model without a place"
    assert home["risk_seq"] == shown["changed"]
    why = await cluster.nebula("why", "node", "here")
    assert "its loss would leave 1 replica without a place, of pinned" in why.out
    assert len(await cluster.records(ResilienceChanged)) == 1
    assert (await cluster.nebula("replay")).code == 0
