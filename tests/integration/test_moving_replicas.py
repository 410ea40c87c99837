"""Replicas that lie together, because there was no other node when they were placed, are moved."""

import pytest

from nebula.events.intents import ModelRebalanceRequested
from tests.integration.asking import CHAT, chat, said
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


async def test_what_lies_together_is_shown_and_moved_without_a_gap(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.start_all()
    await cluster.ready()
    await cluster.load("chat", replicas=2)
    cluster.start("node-2", "--name", "there")
    await cluster.until(lambda state: len(state.nodes) == 2, "both nodes are there")

    told = await cluster.nebula("why", "chat")
    assert "2 of its replicas are together on here" in told.out
    assert "nebula rebalance" in told.out
    shown = await cluster.nebula("rebalance")
    assert "here -> there, because 2 replicas of chat share here" in shown.out
    assert "`nebula rebalance --yes` does it" in shown.out
    async with cluster.http() as http:
        [move] = (await http.get("/admin/rebalance")).json()["moves"]
        assert (move["source"], move["target"]) == ("here", "there")
        assert await cluster.records(ModelRebalanceRequested) == [], "it was only shown"

        asked = await http.post("/admin/rebalance")
        assert asked.status_code == 202, asked.text
        assert [each["id"] for each in asked.json()] == ["chat"]

        async def apart() -> bool:
            assert said(await http.post(CHAT, json=chat("chat", "hello", max_tokens=1))) == "hello"
            state = await cluster.state()
            there = [state.replicas[each.replica] for each in state.models["chat"].assignments]
            assert any(each.serving for each in there), "there is no gap"
            where = {each.node for each in there if each.serving}
            return len(state.replicas) == 2 and where == {"here", "there"}

        await cluster.poll(apart, "one replica on each node", 40)
    assert "nothing to move" in (await cluster.nebula("rebalance", "--yes")).out

    assert (await cluster.nebula("scale", "chat", "3")).code == 0
    cluster.start("node-3", "--name", "yonder")
    await cluster.until(lambda state: "yonder" in state.nodes, "a third node is there")
    moved = await cluster.nebula("rebalance", "--yes")
    assert moved.code == 0
    assert "chat is ready: 3 of 3 replicas after " in moved.err, "it has waited for its effect"
    model = (await cluster.state()).models["chat"]
    assert {each.node for each in model.assignments} == {"here", "there", "yonder"}
    assert model.moving == ()
