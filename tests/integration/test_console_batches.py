"""The console's pages of batches, in a real browser."""

import json
from pathlib import Path

import pytest

from tests.integration.asking import chat
from tests.integration.browser import console
from tests.integration.cluster import Cluster
from tests.integration.test_batches import jsonl, line, official, over, submitted
from tests.integration.test_console_keys import issue

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def base(cluster: Cluster) -> str:
    return f"http://127.0.0.1:{cluster.port}"


async def test_a_batch_shows_how_far_it_is_and_its_owner_saves_its_files(
    cluster: Cluster, base: str, tmp_path: Path
) -> None:
    secret = await issue(cluster, "owner", scopes=["infer", "view"])
    await cluster.load("chat", memory="64MiB")
    lines = [line(f"c{n}", chat("chat", "word", max_tokens=3)) for n in range(3)]
    lines.append(line("none", chat("nowhere")))
    async with official(cluster, secret) as client:
        batch = (await submitted(client, jsonl(lines), metadata={"<i>job</i>": "nightly"})).id
        await over(cluster, client, batch)
    async with console(base) as seen:
        await seen.open("/batches")
        await seen.sees("3 of 4 lines, 1 failed", "tbody")
        await seen.page.get_by_role("link", name=batch).press("Enter")
        await seen.page.wait_for_url(f"**/console/batches/{batch}")
        await seen.sees("<i>job</i>", "dl")
        await seen.sees("They are their owner's")
        assert not await seen.page.get_by_role("button", name="Save").count()
    async with console(base) as seen:
        await seen.open(f"/batches/{batch}#key={secret}")
        async with seen.page.expect_download() as coming:
            await seen.page.get_by_role("button", name="Save answers").click()
        await (await coming.value).save_as(tmp_path / "answers.jsonl")
    answers = [json.loads(each) for each in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [each["custom_id"] for each in answers] == ["c0", "c1", "c2"]


async def test_what_is_wrong_with_an_input_is_told(cluster: Cluster, base: str) -> None:
    await cluster.ready()
    async with official(cluster) as client:
        batch = (await submitted(client, b'{"<b>": 1}\n')).id
        await over(cluster, client, batch)
    async with console(base) as seen:
        await seen.open(f"/batches/{batch}")
        await seen.sees("failed: its input is not valid", ".headline")
        await seen.sees("line 1: ", "ul")
        assert not await seen.page.get_by_role("button", name="Cancel").count()


async def test_an_operator_cancels_a_batch_of_another_caller(cluster: Cluster, base: str) -> None:
    secret = await issue(cluster, "waits")
    await cluster.load("sleeper", on_request=True, stands="asleep")
    async with official(cluster, secret) as client:
        batch = (await submitted(client, jsonl([line("a", chat("sleeper"))]))).id
        await cluster.until(lambda state: state.batches[batch].lines == 1, "it is read")
        begun = await cluster.last_seq()
        async with console(base) as seen:
            await seen.open(f"/batches/{batch}")
            await seen.page.get_by_role("button", name="Cancel", exact=True).click()
            await seen.page.get_by_text("The same as a command").click()
            await seen.sees(f"nebula batch cancel {batch}", ".ways")
            await seen.page.get_by_role("button", name="Cancel this batch").click()
            await seen.sees("It is asked to end")
            await seen.sees("is cancelled", ".headline")
            await seen.open(f"/batches/{batch}?at={begun}")
            await seen.sees("is in progress", ".headline")
            assert not await seen.page.get_by_role("button", name="Cancel").count()
        assert (await over(cluster, client, batch)).status == "cancelled"
    async with cluster.http() as http:
        again = await http.post(f"/admin/batches/{batch}/cancel")
    assert again.status_code == 409
    assert "is cancelled already" in again.text


async def test_a_key_of_a_tenant_sees_and_cancels_the_batches_of_its_tenant(
    cluster: Cluster,
) -> None:
    mine = await issue(cluster, "mine", tenant="mine")
    theirs = await issue(cluster, "theirs", tenant="theirs")
    operates = await issue(cluster, "operates", scopes=["operate"], tenant="mine")
    ids = []
    for secret in (mine, theirs):
        async with official(cluster, secret) as client:
            ids.append((await submitted(client, jsonl([line("a", chat("none"))]))).id)
    headers = {"authorization": f"Bearer {operates}"}
    async with cluster.http() as http:
        rows = (await http.get("/admin/outline/batches", headers=headers)).json()["rows"]
        shown = await http.get(f"/admin/outline/batches/{ids[1]}", headers=headers)
        ended = await http.post(f"/admin/batches/{ids[1]}/cancel", headers=headers)
    assert [row["id"] for row in rows] == ids[:1]
    assert (shown.status_code, ended.status_code) == (404, 404)
