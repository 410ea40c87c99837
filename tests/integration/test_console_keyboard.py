"""The console without a mouse: each form is opened, filled in, sent and closed by keys alone."""

import re

import pytest
from playwright.async_api import Locator, Page, expect

from tests.integration.browser import console
from tests.integration.cluster import Cluster
from tests.integration.test_console_keys import issue

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def base(cluster: Cluster) -> str:
    return f"http://127.0.0.1:{cluster.port}"


async def reach(page: Page, wanted: Locator, key: str = "Tab") -> None:
    """Go on with a key until something has the focus."""
    await wanted.wait_for()
    for _ in range(200):
        if await wanted.evaluate("(found) => found === document.activeElement"):
            return
        await page.keyboard.press(key)
    raise AssertionError(f"{key} does not reach {wanted}")


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


async def test_a_change_is_planned_and_made_by_keys(cluster: Cluster, base: str) -> None:
    await cluster.ready()
    await cluster.load("keyed", memory="64MiB")
    async with console(base) as shown:
        page = shown.page
        await shown.open("/models/keyed")
        await reach(page, button(page, "Scale"))
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("spinbutton", name="Replicas")).to_be_focused()
        await page.keyboard.press("Control+A")
        await page.keyboard.type("2")
        await shown.sees("keyed: replicas: 1 → 2", "[aria-live=polite]")
        await reach(page, button(page, "Scale to 2"))
        await page.keyboard.press("Enter")
        await expect(page.locator("[role=status]", has_text="Asked for: event")).to_be_focused()
    await cluster.until(lambda state: state.models["keyed"].wanted == 2, "it is scaled")


async def test_a_form_that_closes_returns_to_its_button(cluster: Cluster, base: str) -> None:
    await cluster.ready()
    await cluster.load("closes", memory="64MiB")
    await issue(cluster, "closes")
    forms = [
        ("/models", "Load a model", "Source"),
        ("/models/closes", "Scale", "Replicas"),
        ("/models/closes", "Unload", "Unload"),
        ("/aliases", "Make an alias", "Name for clients"),
        ("/nodes/here", "Drain", "Drain"),
        ("/keys", "Issue a key", "Id (empty: one is made up)"),
        ("/keys/closes", "Rotate", "Hours for which the previous secret stays valid"),
        ("/keys/closes", "Revoke", "Revoke the key"),
    ]
    async with console(base) as shown:
        page = shown.page
        for path, opens, first in forms:
            await shown.open(path)
            await reach(page, button(page, opens))
            await page.keyboard.press("Enter")
            await expect(page.locator(".change .card")).to_be_visible()
            focused = page.locator(".change .card:focus, .change .card :focus")
            await expect(focused).to_have_accessible_name(first)
            await page.keyboard.press("Escape")
            await expect(page.locator(".change .card")).to_have_count(0)
            await expect(button(page, opens)).to_be_focused()
            await expect(button(page, opens)).to_have_attribute("aria-expanded", "false")


async def test_what_is_refused_is_an_alert_and_leads_back_to_the_plan(
    cluster: Cluster, base: str
) -> None:
    await cluster.ready()
    await cluster.load("refused", memory="64MiB")
    async with cluster.http() as http, console(base) as shown:
        page = shown.page
        await shown.open("/models/refused?form=scale")
        await expect(page.get_by_role("spinbutton", name="Replicas")).to_be_focused()
        await page.keyboard.press("Control+A")
        await page.keyboard.type("2")
        await shown.sees("refused: replicas: 1 → 2", ".change")
        other = await http.patch("/admin/models/refused", json={"replicas": 3})
        assert other.status_code == 202
        await page.keyboard.press("Enter")
        await shown.sees("the cluster has changed since this was planned", "[role=alert]")
        await expect(page.get_by_role("heading", name="What would follow")).to_be_focused()
        shown.faults.clear()  # the browser reports the status 409


async def test_a_secret_is_shown_and_put_away_by_keys(cluster: Cluster, base: str) -> None:
    await issue(cluster, "spun")
    async with console(base) as shown:
        page = shown.page
        await shown.open("/keys/spun")
        await reach(page, button(page, "Rotate"))
        await page.keyboard.press("Enter")
        await reach(page, button(page, "Make a new secret"))
        await page.keyboard.press("Enter")
        await expect(page.locator("[role=status]", has_text="It has a new secret")).to_be_focused()
        await reach(page, button(page, "I have kept it"))
        await page.keyboard.press("Enter")
        await expect(page.locator("main")).to_be_focused()
        await expect(page.locator(".secret")).to_have_count(0)


async def test_models_of_an_alias_are_added_and_left_out_by_keys(
    cluster: Cluster, base: str
) -> None:
    await cluster.ready()
    async with console(base) as shown:
        page = shown.page
        await shown.open("/aliases")
        await reach(page, button(page, "Make an alias"))
        await page.keyboard.press("Enter")
        await reach(page, button(page, "Add a model"))
        await page.keyboard.press("Enter")
        await expect(page.get_by_label("Model 2", exact=True)).to_be_focused()
        await reach(page, button(page, "Leave out model 2"))
        await page.keyboard.press("Enter")
        await expect(page.get_by_label("Model 1", exact=True)).to_be_focused()


async def test_the_moment_is_moved_by_keys_to_both_ends(cluster: Cluster, base: str) -> None:
    await cluster.ready()
    async with console(base) as shown:
        page = shown.page
        await shown.open("?at=3")
        slider = page.get_by_label("Event that is shown")
        await reach(page, button(page, "One event earlier"))
        await page.keyboard.press("Enter")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/console?at=1")
        await expect(slider).to_be_focused()
        await page.keyboard.press("ArrowRight")
        await page.wait_for_url("**/console?at=2")
        await page.keyboard.press("End")
        await page.wait_for_url(re.compile("/console$"))
        await expect(slider).to_be_focused()


async def test_a_page_that_is_followed_to_has_the_focus(cluster: Cluster, base: str) -> None:
    await cluster.ready()
    async with console(base) as shown:
        page = shown.page
        await shown.open()
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the page")).to_be_focused()
        await reach(page, page.get_by_role("link", name="Nodes", exact=True))
        await page.keyboard.press("Enter")
        await expect(page.locator("main")).to_be_focused()
        await reach(page, page.get_by_role("main").get_by_role("link", name="here"))
        await page.keyboard.press("Enter")
        await shown.sees("If this node were lost")
        await expect(page.locator("main")).to_be_focused()
