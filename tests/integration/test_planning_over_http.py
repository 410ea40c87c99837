"""`POST /admin/plan`: what would follow, asked with a key that may only look."""

import asyncio
from typing import Any

import pytest

from nebula.events.intents import ModelScaleRequested
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        await cluster.load("chat")

    asyncio.run(load())


async def plan(cluster: Cluster, *intents: dict[str, Any]) -> Any:
    async with cluster.http() as http:
        answer = await http.post("/admin/plan", json={"intents": intents})
    return answer.status_code, answer.json()


async def test_a_plan_over_http_says_where_replicas_would_go(cluster: Cluster) -> None:
    seq = await cluster.last_seq()
    wish = {"type": "ModelScaleRequested", "id": "chat", "event": {"replicas": 2}}
    status, found = await plan(cluster, wish)
    assert (status, found["at"], found["possible"]) == (200, seq, True)
    [effect] = found["effects"]
    assert (effect["kind"], effect["replica"], effect["node"]) == ("place", "chat-1", "here")
    assert await cluster.records(ModelScaleRequested) == []


async def test_the_command_and_http_have_the_same_plan(cluster: Cluster) -> None:
    _, found = await plan(cluster, {"type": "ModelUnloadRequested", "id": "chat"})
    told = await cluster.nebula("unload", "chat", "--plan")
    assert told.code == 0
    assert f"event {found['at']} of the log" in told.out
    assert "chat-0 on here ends: its model is unloaded" in told.out


async def test_what_would_be_refused_is_told_in_the_plan(cluster: Cluster) -> None:
    status, found = await plan(cluster, {"type": "ModelUnloadRequested", "id": "gone"})
    assert (status, found["possible"]) == (200, False)
    assert found["refused"] == [
        {"id": "gone", "type": "ModelUnloadRequested", "reason": "there is no model 'gone'"}
    ]


@pytest.mark.parametrize(
    ("intent", "words"),
    [
        ({"type": "KeyRevoked", "id": "ci"}, "intents[0]: 'KeyRevoked' can't be planned: take"),
        ({"type": "ModelAssigned", "id": "chat"}, "'ModelAssigned' can't be planned"),
        ({"type": "ModelScaleRequested", "id": "chat"}, "the field 'replicas' is missing"),
        ({"type": "ModelScaleRequested", "id": "a b", "event": {"replicas": 1}}, "intents[0].id"),
    ],
)
async def test_what_can_not_be_planned_is_named(
    cluster: Cluster, intent: dict[str, Any], words: str
) -> None:
    status, answer = await plan(cluster, intent)
    assert status == 400
    assert words in answer["error"]["message"]


async def test_a_key_that_may_only_look_may_plan(own_cluster: Cluster) -> None:
    own_cluster.variables["NEBULA_OPEN"] = ""
    own_cluster.up()
    await own_cluster.take_key()
    await own_cluster.ready()
    wish = {"type": "ModelLoadRequested", "id": "chat", "event": {"source": "simulated"}}
    admin = own_cluster.key
    async with own_cluster.http() as http:
        answer = await http.post("/admin/keys", json={"id": "ci", "scopes": ["view"]})
    own_cluster.key = answer.json()["secret"]
    status, found = await plan(own_cluster, wish)
    assert (status, [each["id"] for each in found["changes"]]) == (200, ["chat"])
    async with own_cluster.http() as http:
        refused = await http.post("/admin/models", json={"id": "chat", "source": "simulated"})
    assert refused.status_code == 403
    own_cluster.key = admin
