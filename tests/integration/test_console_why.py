"""Why in the console, in a real browser: the chain of causes of what is shown."""

import json

import pytest

from tests.integration.browser import console
from tests.integration.cluster import Cluster
from tests.integration.test_console_of_a_log import LOG
from tests.integration.test_console_of_a_log import shown as shown_log

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def base(cluster: Cluster) -> str:
    return f"http://127.0.0.1:{cluster.port}"


async def test_a_line_that_needs_attention_leads_to_its_causes(cluster: Cluster, base: str) -> None:
    await cluster.ready()
    await cluster.load("huge", memory="900TiB", stands="unschedulable")
    told = await cluster.nebula("why", "huge", "--json")
    expected = json.loads(told.out)
    async with console(base) as seen:
        await seen.open()
        await seen.page.get_by_role("link", name="Why huge").press("Enter")
        await seen.page.wait_for_url("**/console/why?about=huge&kind=model")
        await seen.sees(expected["headline"], ".headline")
        await seen.sees("What to do:", ".todo")
        for line in expected["events"]:
            await seen.sees(line["text"], ".tree li")
            for reason in line["reasons"]:
                await seen.sees(reason, ".reasons li")
        await seen.sees("nebula why model huge", ".command")


async def test_a_replica_and_a_node_lead_to_their_causes(cluster: Cluster, base: str) -> None:
    await cluster.ready()
    await cluster.load("chat", memory="64MiB")
    async with console(base) as seen:
        await seen.open("/models/chat")
        await seen.page.get_by_role("link", name="chat-0").click()
        await seen.sees("chat-0 on here is ready", ".headline")
        await seen.sees("engine ready", ".tree")
        await seen.open("/nodes/here")
        await seen.page.get_by_role("link", name="Why here").click()
        await seen.sees("here is ready", ".headline")
        await seen.page.get_by_label("Model, alias").fill("chat")
        await seen.page.keyboard.press("Enter")
        await seen.page.wait_for_url("**/console/why?about=chat")
        await seen.sees("chat is ready", ".headline")


async def test_what_others_wrote_into_a_chain_is_text(cluster: Cluster, base: str) -> None:
    await cluster.ready()
    evil = "<img src=x onerror=document.title='owned'>"
    async with cluster.http() as http:
        await http.post("/admin/models", json={"id": "evil", "source": evil, "replicas": 0})
    async with console(base) as seen:
        await seen.open("/why?about=evil")
        await seen.sees(evil, ".tree")
        assert not await seen.page.locator("main img").count()


async def test_the_causes_of_an_exported_log_are_followed_back_in_time() -> None:
    async with shown_log(LOG) as base, console(base) as seen:
        await seen.open("?at=18")
        await seen.page.get_by_role("link", name="Why poet").click()
        await seen.page.wait_for_url("**/console/why?about=poet&kind=model&at=18")
        await seen.sees("poet is unschedulable", ".headline")
        await seen.sees("n2", ".tree .what b")
        await seen.page.locator(".tree .seq", has_text="10").click()
        await seen.page.wait_for_url("**/console/why?about=poet&kind=model&at=10")
        await seen.sees("poet is ready", ".headline")
