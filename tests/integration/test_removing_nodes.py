"""Nodes that go for good, by the command, over HTTP and by hand, and those that come again."""

import asyncio
import os
import signal

import pytest

from nebula.events.intents import NodeDrainRequested
from nebula.events.vocabulary import EngineStopped, NodeDeregistered
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


async def started(cluster: Cluster) -> None:
    for name in ("nats", "router", "node"):
        cluster.start(name)
    cluster.start("node-2", "--name", "there", "--folder", str(cluster.folder / "second"))
    cluster.start("gateway")
    await cluster.ready()
    await cluster.until(lambda state: len(state.nodes) == 2, "both nodes are there")


async def test_a_node_goes_once_it_has_ended_and_may_come_again(own_cluster: Cluster) -> None:
    cluster = own_cluster
    await started(cluster)
    refused = await cluster.nebula("remove-node", "there")
    assert refused.code == 1
    assert "node 'there' runs: end its process first" in refused.err
    async with cluster.http() as http:
        answer = await http.delete("/admin/nodes/there")
        assert answer.status_code == 409
        assert "node 'there' runs" in answer.json()["error"]["message"]
        assert (await http.delete("/admin/nodes/nowhere")).status_code == 404
    unknown = await cluster.nebula("remove-node", "nowhere")
    assert (unknown.code, "there are: here, there" in unknown.err) == (1, True)
    assert not await cluster.records(NodeDeregistered)

    assert cluster.stop("node-2") == 0
    gone = await cluster.nebula("remove-node", "there")
    assert (gone.code, "there is removed: event" in gone.out) == (0, True)
    assert "there" not in (await cluster.nebula("nodes")).out
    cluster.again("node-2")
    await cluster.until(lambda state: "there" in state.nodes, "it is there again")

    assert cluster.stop("node-2") == 0
    async with cluster.http() as http:
        key = {"Idempotency-Key": "away with it"}
        answer = await http.delete("/admin/nodes/there", headers=key)
        assert answer.status_code == 202
        assert answer.json()["id"] == "there"
        again = await http.delete("/admin/nodes/there", headers=key)
        assert (again.status_code, again.json()["seq"]) == (202, answer.json()["seq"])
        assert (await http.delete("/admin/nodes/there")).status_code == 404
        assert [node["id"] for node in (await http.get("/admin/nodes")).json()] == ["here"]


async def test_with_drain_its_replicas_move_and_it_goes_when_it_has_ended(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    await started(cluster)
    await cluster.load("chat", node="there")
    has = await cluster.nebula("remove-node", "there")
    assert (has.code, "runs" in has.err) == (1, True)
    await cluster.load("chat")  # it may be anywhere now, and stays where it is
    assert (await cluster.replica("chat-0")).node == "there"
    removing = asyncio.create_task(cluster.nebula("remove-node", "there", "--drain"))
    await cluster.logged(NodeDrainRequested, "there")
    await cluster.until(
        lambda state: not any(each.node == "there" for each in state.replicas.values()),
        "it is empty",
    )
    assert cluster.stop("node-2") == 0
    told = await removing
    assert (told.code, "there is removed" in told.out) == (0, True)
    assert "end its process now" in told.err
    await cluster.stands("chat")


async def test_one_that_was_removed_by_hand_while_it_stood_still_ends_its_engines_and_is_back(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.start_all()
    await cluster.ready()
    await cluster.load("chat")
    engine, node = await cluster.engine("chat-0"), cluster.pid("node")
    os.kill(node, signal.SIGSTOP)
    seq = await cluster.last_seq()
    await cluster.publish("nebula.events.node.here.NodeDeregistered", b"{}")
    await cluster.until(lambda state: "here" not in state.nodes, "it is gone")
    os.kill(node, signal.SIGCONT)
    await cluster.logged(EngineStopped, "chat-0", after=seq)
    await cluster.until(lambda state: "here" in state.nodes, "it is back")
    await cluster.stands("chat")
    state = await cluster.state()
    [replica] = [each for each in state.replicas.values() if each.serving]
    assert replica.engine is not None
    assert replica.engine.pid != engine.pid
    assert len(cluster.engine_processes()) == 1
    assert "taken out of the cluster: it ends what it runs" in cluster.output("node")
