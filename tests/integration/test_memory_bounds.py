"""What clients send is refused where it would take too much memory, and told by which bound."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.asking import CHAT, chat, error, said
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

LARGE = "x" * 300_000


async def test_requests_beyond_the_budgets_are_refused_and_others_served(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    for name in ("nats", "node"):
        cluster.start(name)
    cluster.start("router", "--waiting-memory", "1200KiB")
    cluster.start("gateway", "--request-memory", "1MiB")
    await cluster.ready()
    await cluster.load("chat", memory="64MiB", max_in_flight=1)
    await cluster.tell_engine("chat-0", stall=True)
    async with cluster.http() as http, asyncio.TaskGroup() as tasks:
        first = tasks.create_task(http.post(CHAT, json=chat("chat", "first", max_tokens=1)))

        async def waiting() -> int:
            shown = (await http.get("/admin/models/chat")).json()
            count: int = shown["queue"]["waiting"]
            return count

        async def runs() -> bool:
            return (await cluster.engine_says("chat-0"))["running"] == 1

        await cluster.poll(runs, "the first one runs")
        large = tasks.create_task(http.post(CHAT, json=chat("chat", LARGE, max_tokens=1)))

        async def lined_up() -> bool:
            return await waiting() == 1

        await cluster.poll(lined_up, "a large one waits")
        told = error(await http.post(CHAT, json=chat("chat", LARGE + LARGE)), 429)
        assert "half of the router's --waiting-memory" in told["message"]
        small = tasks.create_task(http.post(CHAT, json=chat("chat", "small", max_tokens=1)))
        refused = await http.post(CHAT, json=chat("chat", LARGE * 3))
        told = error(refused, 503)
        assert told["message"] == "the gateway has as many bytes of requests in hand as it may"
        assert refused.headers["retry-after"] == "1"
        await cluster.tell_engine("chat-0", stall=False)
    assert [said(task.result()) for task in (first, small)] == ["first", "small"]
    assert said(large.result()) == LARGE
