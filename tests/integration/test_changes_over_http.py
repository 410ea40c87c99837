"""`POST /admin/changes`: what was planned is recorded together, and only while it is the plan."""

import asyncio
from typing import Any

import pytest

from nebula.events.intents import AliasRequested, ModelScaleRequested
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        await cluster.load("chat", memory="64MiB")

    asyncio.run(load())


def scale(replicas: int) -> dict[str, Any]:
    return {"type": "ModelScaleRequested", "id": "chat", "event": {"replicas": replicas}}


def alias(*models: str) -> dict[str, Any]:
    targets = [{"model": each} for each in models]
    return {"type": "AliasRequested", "id": "best", "event": {"targets": targets}}


async def post(cluster: Cluster, path: str, **body: Any) -> tuple[int, Any]:
    async with cluster.http() as http:
        answer = await http.post(path, json=body)
    return answer.status_code, answer.json()


async def test_what_was_planned_is_recorded_together(cluster: Cluster) -> None:
    intents = [scale(1), alias("chat")]
    _, plan = await post(cluster, "/admin/plan", intents=intents)
    assert plan["commands"] == ["nebula scale chat 1", "nebula alias best chat=1"]
    status, found = await post(cluster, "/admin/changes", intents=intents, planned=plan["at"])
    assert status == 202
    first, second = found["seqs"]
    assert [each.seq for each in await cluster.records(ModelScaleRequested)][-1] == first
    assert [each.seq for each in await cluster.records(AliasRequested)][-1] == second
    assert second == first + 1


async def test_a_plan_that_no_longer_holds_is_refused_and_nothing_is_recorded(
    cluster: Cluster,
) -> None:
    _, plan = await post(cluster, "/admin/plan", intents=[scale(2)])
    async with cluster.http() as http:
        other = await http.patch("/admin/models/chat", json={"replicas": 3})
    assert other.status_code == 202
    last = await cluster.last_seq()
    status, found = await post(cluster, "/admin/changes", intents=[scale(2)], planned=plan["at"])
    assert status == 409, found
    assert found["error"]["code"] == "plan_moved"
    assert f"planned on event {plan['at']}, and nothing was recorded" in found["error"]["message"]
    scaled = [each.seq for each in await cluster.records(ModelScaleRequested)]
    assert max(scaled) <= last


async def test_a_plan_holds_while_the_log_goes_on_about_something_else(cluster: Cluster) -> None:
    _, plan = await post(cluster, "/admin/plan", intents=[alias("chat", "later")])
    async with cluster.http() as http:
        other = {"targets": [{"model": "chat"}]}
        assert (await http.put("/admin/aliases/other", json=other)).status_code == 202
    intents = [alias("chat", "later")]
    status, found = await post(cluster, "/admin/changes", intents=intents, planned=plan["at"])
    assert status == 202, found


@pytest.mark.parametrize(
    ("intent", "status", "words"),
    [
        ({"type": "NodeDeregistered", "id": "here"}, 400, "'NodeDeregistered' has another path"),
        ({"type": "ModelScaleRequested", "id": "gone", "event": {"replicas": 1}}, 400, "no model"),
        ({"type": "ModelScaleRequested", "id": "chat"}, 400, "the field 'replicas' is missing"),
    ],
)
async def test_what_can_not_be_changed_so_is_refused_in_words(
    cluster: Cluster, intent: dict[str, Any], status: int, words: str
) -> None:
    planned = await cluster.last_seq()
    found = await post(cluster, "/admin/changes", intents=[intent], planned=planned)
    assert found[0] == status
    assert words in found[1]["error"]["message"]


async def test_a_plan_of_an_event_to_come_is_refused(cluster: Cluster) -> None:
    status, found = await post(cluster, "/admin/changes", intents=[scale(1)], planned=999_999)
    assert status == 400
    assert "planned: there is no sequence 999999 yet" in found["error"]["message"]
