"""The web console in a real browser: what it shows, at any moment, and what it keeps to itself."""

import asyncio
import re

import httpx
import pytest
from playwright.async_api import expect

from tests.integration.browser import console
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def base(cluster: Cluster) -> str:
    return f"http://127.0.0.1:{cluster.port}"


async def test_home_is_one_line_when_all_is_well_and_tells_what_is_not_as_it_comes(
    cluster: Cluster, base: str
) -> None:
    await cluster.ready()
    await cluster.load("chat", memory="64MiB")
    async with console(base) as shown:
        await shown.open()
        await shown.sees("All is well: nothing needs attention now.")
        well = await cluster.last_seq()
        await shown.sees("Live", ".timebar.live")
        await cluster.load("huge", memory="900TiB", stands="unschedulable")
        await shown.sees("huge is unschedulable", ".concerns .bad")
        await shown.sees("nebula why huge", ".concerns code")
        await shown.open(f"?at={well}")
        await shown.sees("All is well: nothing needs attention at this moment.")
    async with cluster.http() as http:
        assert (await http.delete("/admin/models/huge")).status_code == 202


async def test_every_address_holds_its_moment(cluster: Cluster, base: str) -> None:
    await cluster.ready()
    await cluster.load("moments", memory="64MiB")
    last = await cluster.last_seq()
    async with console(base) as shown:
        page = shown.page
        await shown.open()
        await page.get_by_label("Go to a moment").fill("2")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/console?at=2")
        await shown.sees("2 of", ".timebar output")
        assert "at=2" in (await page.get_attribute("header.top nav a", "href") or "")
        await page.get_by_label("Event that is shown").focus()
        await page.keyboard.press("ArrowRight")
        await page.wait_for_url("**/console?at=3")
        await page.get_by_label("Go to a moment").fill("0s")
        await page.keyboard.press("Enter")
        await page.wait_for_url(re.compile(r"/console\?at=\d+$"))
        assert int(page.url.rpartition("=")[2]) >= last
        await page.get_by_role("button", name="Live").click()
        await page.wait_for_url("**/console")
        await page.go_back()
        await page.wait_for_url(re.compile(r"/console\?at=\d+$"))


async def test_a_moment_that_does_not_exist_is_told(base: str, cluster: Cluster) -> None:
    await cluster.ready()
    async with console(base) as shown:
        await shown.page.goto(f"{base}/console?at=soon")
        await shown.sees("'soon' is not a moment", ".failure")
        shown.faults.clear()  # the browser reports the status 400 as well


async def test_the_page_of_what_was_not_there_yet_shows_its_moment(
    base: str, cluster: Cluster
) -> None:
    await cluster.ready()
    await cluster.load("later", memory="64MiB")
    async with console(base) as shown:
        await shown.page.goto(f"{base}/console/models/later?at=2")
        await shown.sees("later", ".failure")
        await shown.sees("2 of", ".timebar output")
        shown.faults.clear()  # the browser reports the status 404 as well


async def test_the_shell_runs_no_script_but_its_own_and_can_be_kept(
    base: str, cluster: Cluster
) -> None:
    await cluster.ready()
    async with cluster.http() as http:
        shell = await http.get("/console/models")
        policy = shell.headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert re.findall(r"<script[^>]*></script>", shell.text) == re.findall(
            r"<script.*?</script>", shell.text, re.DOTALL
        )
        assert not re.search(r"https?://", shell.text)
        script = await http.get("/console/static/app.js")
        assert script.headers["content-type"].startswith("text/javascript")
        same = {"if-none-match": script.headers["etag"]}
        assert (await http.get("/console/static/app.js", headers=same)).status_code == 304
        for path in ("index.html", "none.js", "%2e%2e/pages.py", "..%2fpages.py"):
            found = await http.get(f"/console/static/{path}")
            assert found.status_code == 404 or found.text == shell.text


async def test_a_link_elsewhere_leads_to_the_console_and_to_nothing_else(
    base: str, cluster: Cluster
) -> None:
    await cluster.ready()
    led = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    async with cluster.http() as http:
        assert (await http.get("/console/models?at=2", headers=led)).status_code == 200
        assert (await http.get("/admin/attention", headers=led)).status_code == 403


async def test_a_locked_cluster_asks_for_a_key_once(own_cluster: Cluster) -> None:
    own_cluster.variables["NEBULA_OPEN"] = "none"
    own_cluster.up()
    await own_cluster.take_key()
    await own_cluster.ready()
    base = f"http://127.0.0.1:{own_cluster.port}"
    async with console(base) as shown:
        await shown.open()
        await shown.sees("This cluster wants a key")
        await shown.page.get_by_label("API key").fill(own_cluster.key)
        await shown.page.get_by_role("button", name="Use it in this tab").click()
        await shown.sees("All is well")
        await shown.page.reload()
        await shown.sees("All is well")
        shown.faults.clear()  # the browser reports the status 401
    async with console(base) as shown:
        await shown.open(f"#key={own_cluster.key}")
        await shown.sees("All is well")
        assert shown.page.url == f"{base}/console"


async def test_attention_is_told_to_programs_as_well(cluster: Cluster) -> None:
    await cluster.ready()
    async with cluster.http() as http:
        now = (await http.get("/admin/attention")).json()
        then = (await http.get("/admin/attention?at=2")).json()
        wrong = await http.get("/admin/attention?at=999999")
    assert (now["seq"], then["seq"]) == (now["last"], 2)
    assert isinstance(wrong, httpx.Response)
    assert wrong.status_code == 400


async def test_a_change_shows_its_plan_and_its_other_ways_before_it_is_made(
    cluster: Cluster, base: str
) -> None:
    await cluster.ready()
    await cluster.load("grows", memory="64MiB")
    async with console(base) as shown:
        await shown.open("/models/grows")
        await shown.page.get_by_role("button", name="Scale").click()
        await shown.page.get_by_role("spinbutton", name="Replicas").fill("2")
        await shown.sees("grows-1 would be placed", ".change")
        await shown.page.get_by_text("The same as a command").click()
        await shown.sees("nebula scale grows 2", ".ways")
        await shown.sees("nats pub nebula.events.model.grows.ModelScaleRequested", ".ways")
        assert len((await cluster.state()).models["grows"].assignments) == 1
        await shown.page.get_by_role("button", name="Scale to 2").click()
        await shown.sees("Asked for: event")
        await shown.sees("grows-1", "table")
    await cluster.until(lambda state: len(state.models["grows"].replicas) == 2, "it has grown")


async def test_models_are_found_and_nodes_show_their_devices(cluster: Cluster, base: str) -> None:
    await cluster.ready()
    await cluster.load("needle", memory="64MiB")
    async with console(base) as shown:
        await shown.open("/models")
        await shown.page.get_by_label("Find by id or name").fill("needl")
        await shown.page.wait_for_url("**/console/models?find=needl")
        await shown.sees("needle", "tbody")
        await expect(shown.page.locator("tbody tr")).to_have_count(1)
        await shown.open("/nodes")
        await shown.page.get_by_role("img", name=re.compile(r"^cpu0 .* promised")).first.wait_for()
        await shown.page.get_by_role("main").get_by_role("link", name="here").first.click()
        await shown.sees("If this node were lost")


async def test_what_others_wrote_is_shown_as_text(cluster: Cluster, base: str) -> None:
    await cluster.ready()
    evil = "<img src=x onerror=document.title='owned'>"
    async with cluster.http() as http:
        await http.post("/admin/models", json={"id": "evil", "source": evil, "replicas": 0})
    async with console(base) as shown:
        await shown.open("/models/evil")
        await shown.sees(evil)
        await shown.open("/events?about=model/evil")
        await shown.sees(evil)
        assert not await shown.page.locator("main img").count()


async def test_the_playground_asks_models_side_by_side(cluster: Cluster, base: str) -> None:
    await cluster.ready()
    await cluster.load("left", memory="64MiB")
    await cluster.load("right", memory="64MiB")
    await cluster.load("vectors", memory="64MiB", task="embedding")
    async with console(base) as shown:
        page = shown.page
        await shown.open("/playground")
        await page.get_by_label("Prompt").fill("one two three")
        await page.get_by_label("Model first").select_option("left")
        await page.get_by_label("Model second").select_option("right")
        await page.get_by_role("button", name="Ask").click()
        for side in (0, 1):
            await page.locator(".answer", has_text="one two three").nth(side).wait_for()
        await page.get_by_label("Texts, one a line").fill("same\nsame\nother")
        await page.locator("form", has_text="vectors").get_by_role("button", name="Compare").click()
        await shown.sees("1.000", "tbody")


async def test_a_request_in_flight_is_listed_and_cancelled(cluster: Cluster, base: str) -> None:
    await cluster.ready()
    await cluster.load("slow", memory="64MiB")
    await cluster.tell_engine("slow-0", stall=True)
    async with cluster.http() as http, console(base) as shown:
        body = {"model": "slow", "messages": [{"role": "user", "content": "Hello"}]}
        asked = asyncio.create_task(http.post("/v1/chat/completions", json=body))
        await shown.open("/requests")
        await shown.page.get_by_role("button", name="Cancel").click()
        await shown.sees("was cancelled")
        assert (await asked).status_code >= 400
