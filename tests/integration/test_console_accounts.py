"""The console's pages of what is used, in a real browser: usage, and what is left of limits."""

from pathlib import Path
from typing import Any

import pytest

from tests.integration.asking import CHAT, chat
from tests.integration.browser import console
from tests.integration.cluster import Cluster
from tests.integration.test_console_of_a_log import shown as shown_log
from tests.integration.test_usage import roll_up, until_recorded

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def base(cluster: Cluster) -> str:
    return f"http://127.0.0.1:{cluster.port}"


async def key(cluster: Cluster, identity: str, **rights: Any) -> str:
    """Issue a key, and return its secret."""
    async with cluster.http() as http:
        answer = await http.post("/admin/keys", json={"id": identity, **rights})
    assert answer.status_code == 201, answer.text
    secret: str = answer.json()["secret"]
    return secret


async def ask(cluster: Cluster, secret: str, words: str = "one two") -> int:
    """Ask the model `chat` with a key, and return how many tokens were used."""
    async with cluster.http() as http:
        headers = {"authorization": f"Bearer {secret}"}
        answer = await http.post(CHAT, json=chat("chat", words, max_tokens=5), headers=headers)
    assert answer.status_code == 200, answer.text
    total: int = answer.json()["usage"]["total_tokens"]
    return total


async def used(cluster: Cluster, identity: str, **rights: Any) -> int:
    """Issue a key, use it once, and return how many tokens that took, once it is recorded."""
    await cluster.ready()
    if "chat" not in (await cluster.state()).models:
        await cluster.load("chat", memory="64MiB")
    tokens = await ask(cluster, await key(cluster, identity, scopes=["infer"], **rights))

    async def told() -> bool:
        async with cluster.http() as http:
            lines = (await http.get("/admin/usage?by=key")).json()["lines"]
        return any(each["key"] == f"key:{identity}" for each in lines)

    await cluster.poll(told, f"usage of {identity}")
    return tokens


async def test_usage_is_told_apart_by_what_is_chosen_and_saved(
    cluster: Cluster, base: str, tmp_path: Path
) -> None:
    tokens = await used(cluster, "apart", tenant="lab")
    async with console(base) as seen:
        page = seen.page
        await seen.open("/usage")
        await seen.sees("apart", "tbody tr")
        await page.get_by_role("group", name="Told apart by").get_by_text("key").press("Enter")
        await page.get_by_role("group", name="Told apart by").get_by_text("tenant").press("Enter")
        await page.wait_for_url("**/console/usage?by=model%2Ctenant&since=7d")
        await seen.sees("lab", "thead ~ tbody")
        async with page.expect_download() as coming:
            await page.get_by_role("button", name="Save as CSV").click()
        await (await coming.value).save_as(tmp_path / "usage.csv")
    lines = (tmp_path / "usage.csv").read_text().splitlines()
    assert lines[0].startswith("model,tenant,requests,prompt_tokens")
    assert f"chat,lab,1,{tokens - 5}" in lines[1] + lines[-1]


async def test_limits_show_what_is_left(cluster: Cluster, base: str) -> None:
    tokens = await used(cluster, "bounded", limits={"tokens_per_month": 1_000_000})
    async with console(base) as seen:
        await seen.open("/usage?find=bounded")
        await seen.sees("tokens per month", "tbody")
        await seen.sees(f"{1_000_000 - tokens:,} left", "tbody")


async def test_a_key_of_a_tenant_sees_what_its_tenant_used_and_may_use(cluster: Cluster) -> None:
    await used(cluster, "mine", tenant="mine", limits={"in_flight": 3})
    await used(cluster, "theirs", tenant="theirs", limits={"in_flight": 4})
    secret = await key(cluster, "looks", scopes=["view"], tenant="mine")
    async with cluster.http() as http:
        headers = {"authorization": f"Bearer {secret}"}
        told = (await http.get("/admin/usage?by=key", headers=headers)).json()
        text = (await http.get("/admin/usage.csv?by=key", headers=headers)).text
        limits = (await http.get("/admin/outline/limits", headers=headers)).json()
    assert [each["key"] for each in told["lines"]] == ["key:mine"]
    assert "theirs" not in text
    assert [each["id"] for each in limits["rows"]] == ["mine"]


async def test_usage_of_a_past_moment_is_that_of_the_hours_before(cluster: Cluster) -> None:
    await used(cluster, "hourly")
    async with cluster.http() as http:
        for wrong in ("by=colour", "since=4711", "since=soon"):
            assert (await http.get(f"/admin/usage?{wrong}")).status_code == 400
        then = (await http.get("/admin/usage?at=2&since=1h")).json()
    assert then["seq"] == 2
    assert then["since"] <= then["time"] < then["until"]


async def test_an_exported_log_shows_what_was_summed_in_it_and_its_keys(
    own_cluster: Cluster, tmp_path: Path
) -> None:
    own_cluster.start_all()
    tokens = await used(own_cluster, "logged")
    await until_recorded(own_cluster, 1)
    await roll_up(own_cluster)
    log = tmp_path / "log.jsonl"
    assert (await own_cluster.nebula("export", str(log))).code == 0
    async with shown_log(log) as base, console(base) as seen:
        await seen.open("/usage?by=key")
        await seen.sees(str(tokens), "tbody tr")
        await seen.sees("logged", "tbody tr")
        await seen.open("/keys/logged")
        await seen.sees("key issued", "table")
