"""An adapter on two nodes whose files differ, or of which one has none: one version answers."""

import asyncio
import os
import signal
from typing import Any

import pytest

from nebula.events.state import State
from tests.adapters import trained
from tests.integration.asking import CHAT, chat, said
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


def train(cluster: Cluster, says: str) -> str:
    return trained(cluster.folder / "poet", says=says)


async def load(cluster: Cluster, source: str) -> int:
    async with cluster.http() as http:
        fields = {"name": "poet", "source": source}
        answer = await http.post("/admin/models/base/adapters", json=fields)
    assert answer.status_code == 202, answer.text
    seq: int = answer.json()["seq"]
    return seq


async def view(cluster: Cluster) -> dict[str, Any]:
    async with cluster.http() as http:
        model = (await http.get("/admin/models/base")).json()
    found: dict[str, Any] = model["adapters"][0]
    return found


async def answers(cluster: Cluster, times: int = 20) -> set[str]:
    async with cluster.http() as http:
        got = await asyncio.gather(
            *(http.post(CHAT, json=chat("poet", max_tokens=1)) for _ in range(times))
        )
    return {said(each) for each in got}


async def test_a_node_with_other_files_serves_none_until_they_are_asked_for_again(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.start_all()
    await cluster.ready()
    await cluster.load("base", lora=True)
    source = train(cluster, "old")
    first = await load(cluster, source)
    await cluster.until(
        lambda state: state.models["base"].offers["poet"].served == first, "the first has it"
    )
    train(cluster, "new")
    cluster.start("node-2", "--name", "there")
    await cluster.until(lambda state: "there" in state.nodes, "there are two nodes")
    async with cluster.http() as http:
        assert (await http.patch("/admin/models/base", json={"replicas": 2})).status_code == 202

    def refused(state: State) -> bool:
        replica = state.replicas.get("base-1")
        return replica is not None and "poet" in replica.adapters

    state = await cluster.until(refused, "the second has said what it found")
    assert state.replicas["base-1"].node == "there"
    shown = await view(cluster)
    assert shown["loaded"] == 1
    assert list(shown["versions"]) == ["base-0"]
    assert "base-1 on there: its files on there are version" in shown["reason"]
    assert f"{shown['version'][:12]} is wanted: make them the same" in shown["reason"]
    assert await answers(cluster) == {"[old]"}
    told = await cluster.nebula("why", "poet")
    assert "in place on 1 of 2 replicas" in " ".join(told.out.split())

    # While the only one that has it starts anew, requests wait for it.
    os.kill((await cluster.engine("base-0")).pid, signal.SIGKILL)
    assert await answers(cluster) == {"[old]"}

    told = await cluster.nebula("adapters", "load", "base", "poet", source)
    assert told.code == 0, told.err
    shown = await view(cluster)
    assert (shown["loaded"], shown["reason"]) == (2, "")
    assert await answers(cluster) == {"[new]"}
