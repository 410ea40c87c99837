"""What routers could not serve at once is recorded, and told with what machines would have done."""

import asyncio
import json
from typing import Any

import pytest

from tests.integration.asking import CHAT, Heard, chat, stream
from tests.integration.cluster import Cluster
from tests.integration.test_going_on import SLOW, begun

pytestmark = pytest.mark.anyio


async def capacity(cluster: Cluster, *arguments: str) -> dict[str, dict[str, Any]]:
    told = await cluster.nebula("capacity", "--json", *arguments)
    assert told.code == 0, told
    return {each["model"]: each for each in json.loads(told.out)["models"]}


async def test_refused_and_awaited_requests_are_told_after_their_router_has_ended(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.start_all()
    await cluster.ready()
    await cluster.load("full", memory="64MiB", options=SLOW, max_in_flight=1, max_waiting=0)
    await cluster.load("shy", memory="64MiB", on_request=True, idle_after=600.0, stands="asleep")
    await cluster.load("idle", memory="64MiB")
    async with cluster.http() as http:
        heard = Heard()
        running = asyncio.create_task(stream(http, chat("full"), heard))
        await begun(cluster, [heard], 1)
        assert (await http.post(CHAT, json=chat("full"))).status_code == 429
        assert (await http.post(CHAT, json=chat("shy"))).status_code == 200
        assert (await http.post(CHAT, json=chat("idle"))).status_code == 200
        await running
    cluster.stop("router")
    async with cluster.http() as http:
        (full, shy) = (await http.get("/admin/demand?since=1h")).json()
        assert full == {
            "model": "full",
            "refusing": 60.0,
            "waiting": 0.0,
            "refused": {"queue-full": 1},
            "requests": 0,
            "longest": 0.0,
        }
        assert (shy["model"], shy["requests"], shy["refusing"]) == ("shy", 1, 0.0)
        assert shy["waiting"] >= 60.0
        assert (await http.get("/admin/demand?until=1h")).json() == []
        for wrong in ("4711", "yesterday"):
            refused = await http.get("/admin/demand", params={"until": wrong})
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "until")
    found = await capacity(cluster, "--with", "n9: 80GiB")
    assert found["full"]["refused"] == {"queue-full": 1}
    assert found["full"]["refusing"] == found["full"]["refusing_otherwise"] == 60.0
    assert found["shy"]["requests"] == 1
    assert found["shy"]["waiting"] >= 60.0
    assert found["shy"]["longest"] > 0
    assert "idle" not in found
    assert not await capacity(cluster, "--until", "1")
    told = await cluster.nebula("capacity")
    assert "1 queue-full" in told.out, told
    assert "requests were refused or waited in" in told.out
