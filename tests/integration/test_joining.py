"""What actors say when they join a cluster: its operator learns whether it is in."""

import re

import pytest

from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


async def test_each_actor_says_where_it_is_in_and_a_node_what_it_brings(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.start_all()
    await cluster.ready()
    await cluster.load("chat", memory="128MiB")
    known = (await cluster.state()).cluster

    async def said(name: str, text: str) -> None:
        async def so() -> bool:
            return re.search(text, cluster.output(name)) is not None

        await cluster.poll(so, f"{name} says {text!r}")

    where = rf"is in cluster '{known.id}', version {known.version}, at {cluster.nats_url}"
    await said("node", f"node here {where}")
    await said("node", r"node here: it offers cpu0 \(.*GiB\); no replicas assigned to it")
    await said("router", f"router router-[0-9a-f]+ {where}")
    await said("gateway", f"gateway {where}")
    cluster.kill("node")
    cluster.again("node")
    await said("node", r"1 replica assigned to it")


async def test_a_second_node_of_a_machine_adds_no_memory_and_says_so(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.start_all()
    cluster.start("node-2", "--name", "there", "--folder", str(cluster.folder / "second"))
    await cluster.ready()
    state = await cluster.until(lambda state: len(state.nodes) == 2, "both nodes are there")
    [device] = state.nodes["here"].devices
    assert device.identity == state.nodes["there"].devices[0].identity != ""
    most = int(device.memory * 0.6)
    await cluster.load("first", memory=most)
    await cluster.load("second", memory=most, stands="")
    stood = await cluster.stands("second", "unschedulable")
    assert "are another node's, on the same machine" in stood.detail
    shown = (await cluster.nebula("nodes")).out
    shared = {row.split()[0]: row.split()[7] for row in shown.splitlines()}
    assert shared == {"NODE": "SHARED", "here": "there", "there": "here"}
    said = cluster.output("node") + cluster.output("node-2")
    assert "on the same machine as node" in said
    # A node with given devices has them to itself.
    cluster.start(
        "node-3",
        *("--name", "own", "--devices", "cpu:100GiB"),
        *("--folder", str(cluster.folder / "third")),
    )
    await cluster.stands("second")
