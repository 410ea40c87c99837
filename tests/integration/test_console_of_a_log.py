"""An incident is replayed by slider and links alone, from an exported log and without a cluster."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.integration.browser import console

pytestmark = pytest.mark.anyio

LOG = Path(__file__).parents[1] / "corpus" / "lost-node.jsonl"


@asynccontextmanager
async def shown(log: Path) -> AsyncIterator[str]:
    """Run `nebula console --log` and yield where it serves."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "nebula.cli.main", "console", "--no-browser", "--log", str(log)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            line = (await process.stdout.readline()).decode()
        yield re.findall(r"http://\S+", line)[0].removesuffix("/console")
    finally:
        process.terminate()
        assert await process.wait() == 0


async def test_an_incident_is_followed_by_slider_and_links() -> None:
    async with shown(LOG) as base, console(base) as seen:
        page = seen.page
        await page.goto(base)  # leads to the console
        await seen.sees("End of the log", ".timebar")
        await seen.open("?at=18")
        await seen.sees("poet is unschedulable", ".concerns .bad")
        await page.locator(".concerns .bad a", has_text="poet").first.click()
        await page.wait_for_url("**/console/models/poet?at=18")
        await seen.sees("Places for one more replica")
        await page.get_by_role("link", name="Its events").click()
        await page.wait_for_url("**/console/events?about=model%2Fpoet&at=18")
        await seen.sees("ModelUnschedulable", ".tree")
        await page.locator(".tree .deep .type").first.click()
        await seen.sees("Only what event")
        await page.get_by_role("link", name="Compare").click()
        await seen.sees("What changed from event", "h1")
        assert not await page.get_by_role("button", name="Scale").count()


async def test_its_addresses_are_those_of_a_gateway_and_nothing_can_be_changed() -> None:
    async with shown(LOG) as base, httpx.AsyncClient(base_url=base, trust_env=False) as http:
        state = (await http.get("/admin/state?at=5")).json()
        assert state["seq"] == 5
        assert (await http.get("/admin/events?after=3&limit=2")).json()["events"][0]["seq"] == 4
        assert (await http.get("/admin/attention")).json()["live"] is False
        assert (await http.delete("/admin/models/poet")).status_code in (404, 405)
        foreign = {"host": "evil.example.com"}
        assert (await http.get("/admin/state", headers=foreign)).status_code == 421


async def test_its_commands_look_at_the_log_and_none_asks_a_cluster() -> None:
    async with shown(LOG) as base, console(base) as seen:
        await seen.open("?at=18")
        await seen.sees(f"nebula why poet --log {LOG}", ".concerns")
        assert "nebula load" not in await seen.page.inner_text("body")
        await seen.open("/models/poet?at=18")
        await seen.sees(f"nebula why poet --log {LOG}", ".commands")
        assert "nebula load" not in await seen.page.inner_text("body")
    async with shown(LOG) as base, httpx.AsyncClient(base_url=base, trust_env=False) as http:
        told = (await http.get("/admin/why?about=poet&at=18")).json()
        assert told["command"] == f"nebula why model poet --at 18 --log {LOG}"
        for path in ("attention?at=18", "outline/models/poet?at=18", "why?about=poet&at=18"):
            told = (await http.get(f"/admin/{path}")).text
            assert re.findall("nebula (?!why)[a-z]+ ", told) == [], path


async def test_a_file_that_is_not_a_log_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("{}\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "nebula.cli.main", "console", "--log", str(path)),
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await process.communicate()
    assert process.returncode == 1
    assert "this is not an exported log" in told.decode()
