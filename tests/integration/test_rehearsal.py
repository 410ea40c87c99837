"""A rehearsal: an engine is killed under a stream, and the stream goes on."""

import pytest

from nebula.events.intents import EngineKillRequested
from nebula.events.vocabulary import EngineFailed
from tests.integration.browser import console
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


async def test_an_engine_is_killed_in_the_playground_and_its_stream_goes_on(
    own_cluster: Cluster,
) -> None:
    own_cluster.up("--rehearsal")
    await own_cluster.ready()
    await own_cluster.load(
        "chat", replicas=2, memory="64MiB", options={"simulate-token": 0.1, "simulate-tokens": 60}
    )
    await own_cluster.until(
        lambda state: (
            all(each.serving for each in state.replicas.values()) and len(state.replicas) == 2
        ),
        "both replicas serve",
    )
    words = " ".join(f"w{number}" for number in range(60))
    async with console(f"http://127.0.0.1:{own_cluster.port}") as shown:
        page = shown.page
        await shown.open("/playground")
        await page.get_by_label("Prompt").fill(words)
        await page.get_by_role("button", name="Ask").click()
        await shown.sees("w2", ".answer")
        await page.get_by_role("button", name="Kill its engine").click()
        await shown.sees("Asked to kill the engine of chat-", ".caution")
        await shown.sees(words, ".answer")
        await shown.sees("all after", ".sides")
    [failed] = await own_cluster.records(EngineFailed)
    assert isinstance(failed.content, EngineFailed)
    [asked] = await own_cluster.records(EngineKillRequested)
    assert (failed.id, failed.cause) == (asked.id, asked.seq)
    assert asked.by
    assert f"killed with SIGKILL, as event {asked.seq} asked" in failed.content.reason


async def test_no_engine_is_killed_unless_it_is_a_rehearsal(cluster: Cluster) -> None:
    await cluster.ready()
    await cluster.load("safe", memory="64MiB")
    async with cluster.http() as http:
        assert (await http.get("/admin/rehearsal")).json() == {
            "rehearsal": False,
            "nodes": [],
        }
        refused = await http.post("/admin/replicas/safe-0/kill")
        unknown = await http.post("/admin/replicas/safe-9/kill")
    assert (refused.status_code, unknown.status_code) == (400, 404)
    assert "was not started with --rehearsal" in refused.json()["error"]["message"]
    assert await cluster.records(EngineKillRequested) == []
    assert (await cluster.state()).replicas["safe-0"].serving
    async with console(f"http://127.0.0.1:{cluster.port}") as shown:
        await shown.open("/playground")
        await shown.page.get_by_role("button", name="Ask").click()
        await shown.sees("all after", ".sides")
        assert not await shown.page.get_by_role("button", name="Kill its engine").count()
