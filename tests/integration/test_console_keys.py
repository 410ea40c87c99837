"""The console's pages of API keys, in a real browser."""

import httpx
import pytest

from tests.integration.browser import console
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def base(cluster: Cluster) -> str:
    return f"http://127.0.0.1:{cluster.port}"


async def issue(cluster: Cluster, identity: str, **rights: object) -> str:
    """Issue a key, and return its secret."""
    await cluster.ready()
    async with cluster.http() as http:
        answer = await http.post("/admin/keys", json={"id": identity, **rights})
    assert answer.status_code == 201, answer.text
    secret: str = answer.json()["secret"]
    return secret


async def status_with(cluster: Cluster, secret: str) -> int:
    async with cluster.http() as http:
        headers = {"authorization": f"Bearer {secret}"}
        return (await http.get("/v1/models", headers=headers)).status_code


async def test_a_key_is_issued_and_its_secret_shown_once(cluster: Cluster, base: str) -> None:
    await cluster.ready()
    async with console(base) as seen:
        page = seen.page
        await seen.open("/keys")
        await page.get_by_role("button", name="Issue a key").press("Enter")
        await page.get_by_label("Id (empty").fill("made")
        await page.get_by_label("Its holder").fill("it's <b>mine</b>")
        await page.get_by_label("view").check()
        await page.get_by_label("requests per minute").fill("60")
        await page.get_by_text("The same as a command").click()
        told = "nebula key issue made --name 'it'\\''s <b>mine</b>' --scope infer --scope view"
        await seen.sees(f"{told} --limit requests-per-minute=60", ".ways")
        await page.get_by_role("button", name="Issue the key").press("Enter")
        secret = await seen.text(".secret")
        await seen.sees("it's <b>mine</b>", "tbody")
        await page.get_by_role("link", name="made").click()
        await seen.sees("key issued: for it's <b>mine</b>", "table")
        await page.go_back()
        await seen.sees("made", "tbody")
        assert secret not in await page.content()
    assert await status_with(cluster, secret) == 200
    key = (await cluster.state()).keys["made"]
    assert (key.scopes, key.limits.requests_per_minute) == (("infer", "view"), 60)


async def test_only_what_was_changed_of_a_key_is_sent(cluster: Cluster, base: str) -> None:
    await issue(cluster, "altered", tenant="lab", limits={"in_flight": 3, "priority": [0, 4]})
    async with console(base) as seen, cluster.http() as http:
        page = seen.page
        await seen.open("/keys/altered")
        await page.get_by_role("button", name="Change").click()
        await page.get_by_label("in flight").fill("")
        await page.get_by_label("tokens per day").fill("500")
        await page.get_by_text("The same as a command").click()
        told = "nebula key change altered --limit tokens-per-day=500 --limit in-flight="
        await seen.sees(told, ".ways")
        meanwhile = await http.patch("/admin/keys/altered", json={"name": "of a colleague"})
        assert meanwhile.status_code == 202
        await seen.sees("of a colleague", "dl")
        await page.get_by_role("button", name="Change altered", exact=True).click()
        await seen.sees("Its rights were changed")
    key = (await cluster.state()).keys["altered"]
    assert (key.name, key.tenant) == ("of a colleague", "lab")
    assert (key.limits.in_flight, key.limits.tokens_per_day) == (None, 500)
    assert key.limits.priority == (0, 4)


async def test_a_key_is_rotated_then_revoked(cluster: Cluster, base: str) -> None:
    before = await issue(cluster, "turned")
    async with console(base) as seen:
        page = seen.page
        await seen.open("/keys/turned")
        await page.get_by_role("button", name="Rotate").click()
        await page.get_by_label("Hours for which").fill("0")
        await page.get_by_role("button", name="Make a new secret").click()
        after = await seen.text(".secret")
        assert (await status_with(cluster, before), await status_with(cluster, after)) == (401, 200)
        await page.get_by_role("button", name="I have kept it").click()
        await page.get_by_role("button", name="Revoke").click()
        await page.get_by_role("button", name="Revoke turned", exact=True).click()
        await seen.sees("key turned is revoked", ".headline")
        assert not await page.get_by_role("button", name="Change").count()
    assert await status_with(cluster, after) == 401


async def test_a_past_moment_shows_the_keys_that_there_were_and_changes_none(
    cluster: Cluster, base: str
) -> None:
    await issue(cluster, "early")
    then = await cluster.last_seq()
    await issue(cluster, "later")
    async with cluster.http() as http:
        assert (await http.delete("/admin/keys/early")).status_code == 202
    async with console(base) as seen:
        await seen.open(f"/keys?at={then}&find=a")
        await seen.sees("early", "tbody")
        assert "later" not in await seen.text("tbody")
        await seen.page.get_by_role("link", name="early").click()
        await seen.page.wait_for_url(f"**/console/keys/early?at={then}")
        await seen.sees("valid", "h1")
        assert not await seen.page.get_by_role("button", name="Revoke").count()


async def test_a_key_without_the_right_is_told_so(cluster: Cluster) -> None:
    await issue(cluster, "mine", tenant="mine")
    await issue(cluster, "theirs", tenant="theirs")
    secret = await issue(cluster, "looks", scopes=["view"], tenant="mine")
    headers = {"authorization": f"Bearer {secret}"}
    async with cluster.http() as http:
        rows = (await http.get("/admin/outline/keys", headers=headers)).json()["rows"]
        other: httpx.Response = await http.get("/admin/outline/keys/theirs", headers=headers)
    assert {row["id"] for row in rows} == {"mine", "looks"}
    assert other.status_code == 404
    assert secret not in str(rows)
