"""Every page and form of the console: for all readers, light and dark, and on a narrow screen.

`CONSOLE_PICTURES=FOLDER` has a picture of each written there, to be looked at.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, ViewportSize

from tests.integration.browser import Console, console
from tests.integration.cluster import Cluster
from tests.integration.console_scene import View, furnished, views
from tests.integration.test_console_of_a_log import LOG
from tests.integration.test_console_of_a_log import shown as shown_log

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900)]

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
COLOURS = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}
WIDE = ViewportSize(width=1280, height=800)
NARROW = ViewportSize(width=380, height=800)
OF_A_LOG = [
    View("log-home", "?at=18", ".concerns"),
    View("log-model", "/models/poet?at=18", "tbody"),
    View("log-nodes", "/nodes", ".card"),
    View("log-compare", "/compare?from=5&at=18", "tbody"),
    View("log-requests", "/requests"),
    View("log-usage", "/usage", "h2"),
]


async def picture(page: Page, name: str) -> None:
    """Write a picture of a page, where a folder for them is named."""
    if folder := os.environ.get("CONSOLE_PICTURES"):
        await page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


async def faults(page: Page, name: str) -> list[str]:
    """Return what is wrong with a page as it is shown, by axe and by its width."""
    axe = Axe()
    found = []
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        rules = RULES if scheme == "light" else COLOURS  # all else is the same in the dark
        told = await axe.run(page, options={"runOnly": rules, "resultTypes": ["violations"]})
        found += [
            f"{name}, {scheme}: {each['help']}: {[node['html'] for node in each['nodes']]}"
            for each in told.response["violations"]
        ]
        await picture(page, f"{name}.{scheme}")
    await page.set_viewport_size(NARROW)
    wider = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
    if wider > 0:
        found.append(f"{name}: {wider} pixels wider than a narrow screen")
    await picture(page, f"{name}.narrow")
    await page.set_viewport_size(WIDE)
    return found


async def looked_at(shown: Console, all_views: Iterable[View]) -> list[str]:
    """Return what is wrong with any of these."""
    found = []
    for view in all_views:
        await shown.open(view.path)
        if view.act:
            await view.act(shown.page)
        await shown.page.locator(view.shows).first.wait_for()
        await shown.page.locator("main[aria-busy=false]").wait_for()
        found += await faults(shown.page, view.name)
    return found


async def test_every_page_and_form_is_for_all_readers_and_fits_a_narrow_screen(
    cluster: Cluster,
) -> None:
    async with (
        furnished(cluster) as scene,
        console(f"http://127.0.0.1:{cluster.port}") as shown,
    ):
        assert not await looked_at(shown, views(scene))
        shown.faults.clear()  # the browser reports the statuses of what is not there


async def test_the_pages_of_a_log_are_for_all_readers_and_fit_a_narrow_screen() -> None:
    async with shown_log(LOG) as base, console(base) as shown:
        assert not await looked_at(shown, OF_A_LOG)


async def test_the_page_that_wants_a_key_is_for_all_readers(own_cluster: Cluster) -> None:
    own_cluster.variables["NEBULA_OPEN"] = "none"
    own_cluster.up()
    await own_cluster.take_key()
    await own_cluster.ready()
    async with console(f"http://127.0.0.1:{own_cluster.port}") as shown:
        assert not await looked_at(shown, [View("locked", "", ".lock")])
        shown.faults.clear()  # the browser reports the status 401
