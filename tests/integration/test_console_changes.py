"""The console's forms in a real browser: each shows its plan first, and then asks for just that."""

import pytest
from playwright.async_api import Page, expect

from nebula.events.values import Target
from tests.integration.browser import Console, console
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def base(cluster: Cluster) -> str:
    return f"http://127.0.0.1:{cluster.port}"


async def press(page: Page, name: str) -> None:
    await page.get_by_role("button", name=name, exact=True).click()


async def copied(shown: Console) -> str:
    """Open what is the same as a form, and return it."""
    await shown.page.get_by_text("The same as a command").click()
    return await shown.text(".ways")


async def test_a_model_is_loaded_by_a_form_with_its_plan_first(cluster: Cluster, base: str) -> None:
    await cluster.ready()
    async with console(base) as shown:
        page = shown.page
        await shown.open("/models")
        await press(page, "Load a model")
        await shown.sees("Say first where the model's files are.", ".change")
        await page.get_by_label("Source", exact=True).fill("/simulated/fresh.model")
        await page.get_by_label("Memory of each replica").fill("64MiB")
        await page.get_by_label("Options of vLLM").fill("max-model-len=4096\nenforce-eager=true")
        await page.get_by_label("Variables from secrets").fill("hf:HF_TOKEN")
        await shown.sees("fresh-model-0 would be placed on here", ".change")
        assert "fresh-model" not in (await cluster.state()).models
        same = await copied(shown)
        assert "nebula load /simulated/fresh.model --id fresh-model --memory 64MiB" in same
        assert "--secret hf:HF_TOKEN" in same
        assert "nats pub nebula.events.model.fresh-model.ModelLoadRequested" in same
        await press(page, "Load fresh-model")
        await shown.sees("Asked for: event")
    spec = (await cluster.state()).models["fresh-model"].spec
    assert spec.options == {"max-model-len": 4096, "enforce-eager": True}
    assert list(spec.env) == ["HF_TOKEN"]


async def test_what_the_server_says_of_a_field_stands_beside_it(
    cluster: Cluster, base: str
) -> None:
    await cluster.ready()
    async with console(base) as shown:
        page = shown.page
        await shown.open("/models")
        await press(page, "Load a model")
        await page.get_by_label("Source", exact=True).fill("/simulated")
        await page.get_by_label("Memory of each replica").fill("much")
        await shown.sees("much", "#fault-memory[role=alert]")
        await expect(page.get_by_label("Memory of each replica")).to_have_attribute(
            "aria-invalid", "true"
        )
        await expect(page.get_by_role("button", name="Load simulated")).to_be_disabled()
        await page.get_by_label("Memory of each replica").fill("64MiB")
        await page.get_by_label("Options of vLLM").fill("max-model-len")
        await shown.sees("write each line as KEY=VALUE", "#fault-options")
        shown.faults.clear()  # the browser reports the status 400 of a plan


async def test_a_loaded_model_is_changed_from_what_is_in_effect(
    cluster: Cluster, base: str
) -> None:
    await cluster.ready()
    await cluster.load("alters", memory="64MiB", options={"max-model-len": 2048}, max_waiting=7)
    async with console(base) as shown:
        page = shown.page
        await shown.open("/models/alters")
        await press(page, "Change")
        await expect(page.get_by_label("Options of vLLM")).to_have_value("max-model-len=2048")
        await shown.sees("Nothing would change.", ".change")
        await page.get_by_label("Options of vLLM").fill("max-model-len=1024")
        await shown.sees("alters-0 would end on here", ".change")
        await press(page, "Change alters")
        await shown.sees("Asked for: event")
    spec = (await cluster.state()).models["alters"].spec
    assert (spec.options, spec.max_waiting) == ({"max-model-len": 1024}, 7)


async def test_a_plan_that_no_longer_holds_is_refused_and_planned_again(
    cluster: Cluster, base: str
) -> None:
    await cluster.ready()
    await cluster.load("contended", memory="64MiB")
    async with cluster.http() as http, console(base) as shown:
        page = shown.page
        await shown.open("/models/contended")
        await press(page, "Scale")
        await page.get_by_role("spinbutton", name="Replicas").fill("2")
        await shown.sees("contended: replicas: 1 → 2", ".change")
        other = await http.patch("/admin/models/contended", json={"replicas": 3})
        assert other.status_code == 202
        await press(page, "Scale to 2")
        await shown.sees("the cluster has changed since this was planned", ".failure")
        await shown.sees("contended: replicas: 3 → 2", ".change")
        assert (await cluster.state()).models["contended"].wanted == 3
        await press(page, "Scale to 2")
        await shown.sees("Asked for: event")
        shown.faults.clear()  # the browser reports the status 409
    assert (await cluster.state()).models["contended"].wanted == 2


async def test_adapters_are_loaded_and_unloaded_while_a_model_serves(
    cluster: Cluster, base: str
) -> None:
    await cluster.ready()
    await cluster.load("base", memory="64MiB", lora=True)
    adapter = cluster.folder / "tone"
    adapter.mkdir()
    async with console(base) as shown:
        page = shown.page
        await shown.open("/models/base")
        await press(page, "Load an adapter")
        await page.get_by_label("Name for clients").fill("tone")
        await page.get_by_label("Source", exact=True).fill(str(adapter))
        await shown.sees("base: adapter", ".change")
        assert f"nebula adapters load base tone {adapter}" in await copied(shown)
        await press(page, "Load tone")
        await shown.sees("tone", "[aria-label=Adapters]")
        await press(page, "Unload an adapter")
        await shown.sees("Decided on the cluster", ".change")
        await press(page, "Unload tone")
        await page.get_by_role("heading", name="Adapters").wait_for(state="detached")
    assert not (await cluster.state()).models["base"].adapters


async def test_a_canary_is_set_with_a_slider(cluster: Cluster, base: str) -> None:
    await cluster.ready()
    await cluster.load("steady", memory="64MiB")
    await cluster.load("candidate", memory="64MiB")
    async with console(base) as shown:
        page = shown.page
        await shown.open("/aliases")
        await press(page, "Make an alias")
        await page.get_by_label("Name for clients").fill("best")
        await page.get_by_label("Model 1", exact=True).fill("steady")
        await press(page, "Add a model")
        await page.get_by_label("Model 2", exact=True).fill("candidate")
        slider = page.get_by_label("Of 100 requests to candidate")
        await slider.fill("10")
        await shown.sees("best: alias: name best, targets steady=90, candidate=10", ".change")
        assert "nebula alias best steady=90 candidate=10" in await copied(shown)
        await press(page, "Make best")
        await page.get_by_role("link", name="What best stands for").click()
        await shown.sees("90 %", "tbody")
        await press(page, "Change its models")
        await slider.focus()
        await page.keyboard.press("ArrowRight")
        await expect(page.get_by_label("Weight 2")).to_have_value("11")
        await shown.sees("→", ".change")
        await press(page, "Change best")
        await shown.sees("11 %", "tbody")
    targets = (await cluster.state()).aliases["best"].targets
    assert [(each.model, each.weight) for each in targets] == [("steady", 89), ("candidate", 11)]


async def test_a_model_is_rolled_back_to_before_its_last_change(
    cluster: Cluster, base: str
) -> None:
    await cluster.ready()
    await cluster.load("undone", memory="64MiB", max_waiting=5)
    await cluster.load("undone", memory="64MiB", max_waiting=9)
    async with console(base) as shown:
        page = shown.page
        await shown.open("/models/undone")
        await press(page, "Roll back")
        await shown.sees("max waiting: 9 → 5", ".change")
        assert "nebula revert --to" in (same := await copied(shown))
        assert "--only model/undone" in same
        assert (await cluster.state()).models["undone"].spec.max_waiting == 9
        await page.get_by_role("button", name="Roll back to event").click()
        await shown.sees("Asked for: event")
    assert (await cluster.state()).models["undone"].spec.max_waiting == 5


async def test_a_past_moment_leads_to_rolling_back_to_it(cluster: Cluster, base: str) -> None:
    await cluster.ready()
    await cluster.load("one", memory="64MiB")
    async with cluster.http() as http:
        first = {"targets": [{"model": "one"}]}
        seq = (await http.put("/admin/aliases/past", json=first)).json()["seq"]
        second = {"targets": [{"model": "one"}, {"model": "later"}]}
        assert (await http.put("/admin/aliases/past", json=second)).status_code == 202
    async with console(base) as shown:
        await shown.open(f"/aliases/past?at={seq}")
        await shown.page.get_by_role("link", name="Roll it back to this moment").click()
        await shown.sees("Decided on the cluster", ".change")
        await press(shown.page, f"Roll back to event {seq}")
        await shown.sees("Asked for: event")
    assert (await cluster.state()).aliases["past"].targets == (Target("one"),)


async def test_the_forms_are_off_at_a_past_moment_and_say_why(cluster: Cluster, base: str) -> None:
    await cluster.ready()
    await cluster.load("was", memory="64MiB")
    past = await cluster.last_seq()
    async with console(base) as shown:
        await shown.open(f"/models/was?at={past}")
        await shown.sees("This is a past moment, and changes are made now.")
        assert not await shown.page.get_by_role("button", name="Scale").count()
        await shown.page.get_by_role("link", name="Show it now").click()
        await shown.page.get_by_role("button", name="Scale").wait_for()
