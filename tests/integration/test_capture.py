"""Captured requests: only what was asked for, redacted, bounded; and sent again elsewhere."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace
from nats.js.api import StreamConfig

from nebula.events.captured import CapturedRequest
from nebula.store import captures, credentials
from nebula.store.captures import CaptureStore
from nebula.store.connection import Connection
from nebula.store.forbidden import Forbidden
from tests.integration.asking import CHAT, chat, said, stream
from tests.integration.browser import console
from tests.integration.cluster import PATIENCE, Cluster

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with two models, and with roles for NATS."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))

    async def ready() -> None:
        await cluster.ready()
        for model in ("chat", "other"):
            await cluster.load(model, memory="64MiB")

    try:
        cluster.up()
        asyncio.run(ready())
        yield cluster
    finally:
        cluster.close()


async def start(cluster: Cluster, *options: str, model: str = "chat") -> str:
    """Start a capture, and wait until the gateway follows it."""
    told = await cluster.nebula(
        "capture", "start", "--model", model, "--for", "10m", "--json", *options
    )
    assert told.code == 0, told
    capture = json.loads(told.out)
    async with cluster.http() as http:

        async def knows() -> bool:
            return bool((await http.get("/ready")).json()["seq"] >= capture["seq"])

        await cluster.poll(knows, "the gateway has folded it")
    identity: str = capture["id"]
    return identity


async def stop(cluster: Cluster, capture: str) -> None:
    assert (await cluster.nebula("capture", "stop", capture)).code == 0


async def shown(cluster: Cluster, request: str) -> dict[str, Any]:
    """Wait until a request is in the stream of captures, and give it."""
    found: dict[str, Any] = {}

    async def there() -> bool:
        told = await cluster.nebula("capture", "show", request)
        if told.code:
            assert "was captured" in told.err, told
            return False
        found.update(json.loads(told.out))
        return True

    await cluster.poll(there, f"{request} is captured")
    return found


async def test_only_what_matches_is_captured_and_its_texts_are_masked(cluster: Cluster) -> None:
    capture = await start(cluster)
    async with cluster.http() as http:
        secret = {"authorization": "Bearer sk-abcdefghijklmnop1234"}
        other = await http.post(CHAT, json=chat("other", "not this"), headers=secret)
        answer = await http.post(CHAT, json=chat("chat", "My secret"), headers=secret)
    assert said(answer)
    found = await shown(cluster, answer.headers["x-request-id"])
    assert found["body"]["messages"] == [{"role": "user", "content": "xx xxxxxx"}]
    assert (found["status"], found["capture"], found["model"]) == (200, capture, "chat")
    assert found["completion_tokens"] > 0
    assert "answer" not in found or not found["answer"]
    assert "sk-abc" not in json.dumps(found)
    assert "secret" not in json.dumps(found)
    assert (await cluster.nebula("capture", "show", other.headers["x-request-id"])).code == 1
    listed = await cluster.nebula("capture", "list", "--capture", capture, "--json")
    assert [each["id"] for each in json.loads(listed.out)] == [found["id"]]
    table = (await cluster.nebula("capture")).out
    assert table.splitlines()[1].split()[:2] == [capture, "chat"]
    await stop(cluster, capture)
    assert "capture stopped" in (await cluster.nebula("events", f"capture/{capture}")).out


async def test_once_it_is_stopped_nothing_more_is_captured(cluster: Cluster) -> None:
    capture = await start(cluster)
    await stop(cluster, capture)
    async with cluster.http() as http:
        after = await cluster.last_seq()

        async def knows() -> bool:
            return bool((await http.get("/ready")).json()["seq"] >= after)

        await cluster.poll(knows, "the gateway knows")
        assert said(await http.post(CHAT, json=chat("chat")))
    listed = await cluster.nebula("capture", "list", "--capture", capture, "--json")
    assert json.loads(listed.out) == []


async def test_a_kept_stream_is_sent_again_to_another_model(cluster: Cluster) -> None:
    capture = await start(cluster, "--contents", "keep", "--hide", "email")
    async with cluster.http() as http:
        heard = await stream(http, chat("chat", "write to ann@example.org"))
    found = await shown(cluster, heard.request)
    assert found["stream"]
    assert found["body"]["messages"][0]["content"] == "write to ***"
    assert found["answer"].startswith("write to")
    assert "@" not in found["answer"]
    await stop(cluster, capture)
    at = f"http://127.0.0.1:{cluster.port}"
    line = ["replay", "request", heard.request, "--gateway", at, "--to"]
    told = await cluster.nebula(*line, "other", "--json")
    assert told.code == 0, told
    both = json.loads(told.out)
    assert both["captured"]["id"] == heard.request
    assert both["replayed"]["answer"].startswith("write to ***")
    assert both["replayed"]["status"] == 200
    table = (await cluster.nebula(*line, "other")).out
    assert "captured: chat" in table
    assert "now: other" in table
    unknown = await cluster.nebula(*line, "none")
    assert unknown.code == 1
    assert "404" in unknown.out


async def test_a_captured_request_is_sent_again_over_http(cluster: Cluster) -> None:
    capture = await start(cluster, "--contents", "keep")
    async with cluster.http() as http:
        heard = await stream(http, chat("chat", "once more"))
        await shown(cluster, heard.request)
        await stop(cluster, capture)
        at = f"/admin/captured/{heard.request}/replay"
        both = (await http.post(at, json={"to": "other"})).json()
        assert both["captured"]["id"] == heard.request
        assert both["captured"]["answer"].startswith("once more")
        assert both["replayed"]["answer"].startswith("once more")
        assert (both["replayed"]["model"], both["replayed"]["status"]) == ("other", 200)
        assert both["replayed"]["completion_tokens"] > 0
        assert both["replayed"]["id"] not in ("", heard.request)
        missing = (await http.post(at, json={"to": "none"})).json()["replayed"]
        assert missing["status"] == 404
        assert "none" in missing["answer"]
        async with console(f"http://127.0.0.1:{cluster.port}") as page:
            await page.open(f"/requests/{heard.request}")
            await page.page.get_by_role("button", name="Send again").click()
            await page.page.get_by_role("textbox", name="To model").fill("other")
            await page.page.get_by_role("button", name="Send it").click()
            await page.sees("Now: other", "table")
            await page.page.get_by_text("The same as a command").click()
            await page.sees(f"nebula replay request {heard.request} --to other", ".ways")
        bad: tuple[Any, ...] = ({}, {"to": ""}, {"to": 3}, {"to": "other", "more": 1}, [])
        for body in bad:
            assert (await http.post(at, json=body)).status_code == 400, body
        unknown = await http.post("/admin/captured/gone/replay", json={"to": "other"})
        assert unknown.status_code == 404


async def test_a_large_body_is_answered_and_captured_without_it(cluster: Cluster) -> None:
    capture = await start(cluster, "--contents", "keep")
    async with cluster.http() as http:
        answer = await http.post(CHAT, json=chat("chat", "x " * 4_000_000))
    found = await shown(cluster, answer.headers["x-request-id"])
    assert found["size"] > 8_000_000
    assert found.get("body") is None
    assert "more than" in found["omitted"]
    await stop(cluster, capture)
    told = await cluster.nebula("replay", "request", found["id"], "--to", "other")
    assert told.code == 1
    assert "without its body" in told.err
    async with cluster.http() as http:
        refused = await http.post(f"/admin/captured/{found['id']}/replay", json={"to": "other"})
    assert refused.status_code == 409
    assert "without its body" in refused.json()["error"]["message"]


async def test_a_client_that_leaves_is_captured_as_such(cluster: Cluster) -> None:
    capture = await start(cluster)
    await cluster.tell_engine("chat-0", token=0.2)
    body = chat("chat", "one two three", max_tokens=200, stream=True)
    async with cluster.http() as http, http.stream("POST", CHAT, json=body) as answer:
        identity = answer.headers["x-request-id"]
        async for _ in answer.aiter_bytes():
            break
    found = await shown(cluster, identity)
    assert (found["status"], found["failure"]) == (200, "client-left")
    await cluster.tell_engine("chat-0", token=0)
    await stop(cluster, capture)


async def test_an_admin_captures_and_reads_over_http(cluster: Cluster) -> None:
    at = "/admin/captures/http"
    async with cluster.http() as http:
        rule = {"seconds": 600, "model": "chat", "contents": "keep"}
        assert (await http.put(at, json=rule)).status_code == 202
        assert (await http.put(at, json=rule)).status_code == 409, "it is running"
        (found,) = (await http.get("/admin/captures")).json()
        assert (found["id"], found["rule"]["contents"]) == ("http", "keep")
        own = {"x-request-id": "order-4711"}
        answer = await http.post(CHAT, json=chat("chat", "it is so"), headers=own)
        captured: dict[str, Any] = {}

        async def there() -> bool:
            told = await http.get("/admin/captured/order-4711")
            captured.update(told.json() if told.status_code == 200 else {})
            return told.status_code == 200

        await cluster.poll(there, "it is captured")
        assert captured["path"] == CHAT
        assert captured["answer"].startswith("it is so")
        again = await http.post(captured["path"], json={**captured["body"], "model": "other"})
        assert again.status_code == 200, again.text
        by_id = await http.get(f"/admin/captured/{captured['id']}")
        assert by_id.json() == captured
        assert answer.headers["x-request-id"] in captured["caller_ids"]
        page = (await http.get("/admin/captured?capture=http&limit=1")).json()
        assert [each["id"] for each in page["requests"]] == [captured["id"]]
        assert "it is" not in json.dumps(page), "a list has nothing that a request said"
        assert (await http.get("/admin/captured/none")).status_code == 404
        assert (await http.delete(at)).status_code == 202
        assert (await http.delete("/admin/captures/none")).status_code == 404
        assert (await http.get("/admin/captures")).json() == []


async def test_only_a_key_with_admin_of_no_tenant_reads_captures(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.variables = {"NEBULA_OPEN": "infer"}
    cluster.up("--no-node")
    await cluster.take_key()
    paths = ("/admin/captures", "/admin/captured", "/admin/captured/x")
    async with cluster.http() as http:
        for scope, tenant in (("operate", ""), ("view", ""), ("admin", "team-a")):
            rights = {"scopes": [scope]} | ({"tenant": tenant} if tenant else {})
            issued = await http.post("/admin/keys", json=rights)
            assert issued.status_code == 201, issued.text
            key = {"authorization": f"Bearer {issued.json()['secret']}"}
            for path in paths:
                assert (await http.get(path, headers=key)).status_code == 403, (scope, path)
            rule = {"seconds": 60, "model": "chat"}
            told = await http.put("/admin/captures/no", json=rule, headers=key)
            assert told.status_code == 403
            assert (await http.delete("/admin/captures/no", headers=key)).status_code == 403
        assert (await http.get("/admin/captures", headers={"authorization": ""})).status_code == 401
        assert [(await http.get(path)).status_code for path in paths] == [200, 200, 404]


async def test_only_an_admin_of_nats_reads_what_was_captured(cluster: Cluster) -> None:
    capture = await start(cluster)
    async with cluster.http() as http:
        answer = await http.post(CHAT, json=chat("chat"))
    await shown(cluster, answer.headers["x-request-id"])
    await stop(cluster, capture)
    cluster.refused_users = ("operator", "viewer", "router", "node")
    for role in cluster.refused_users:
        file = credentials.file_of(cluster.folder / "home" / "nats", role)
        if not file.exists():
            continue
        reader = await Connection(f"file:{file}", "reader", forbids_at_once=True).open(
            patience=PATIENCE
        )
        with pytest.raises(Forbidden):
            await CaptureStore(reader).find(answer.headers["x-request-id"])
        await reader.close()


async def test_beyond_its_room_the_oldest_go(own_cluster: Cluster) -> None:
    own_cluster.start("nats")
    connection = await Connection(own_cluster.nats_url, "test").open(patience=PATIENCE)
    store = CaptureStore(connection)
    for number in range(captures.ROOM // (1024 * 1024) + 4):
        captured = CapturedRequest(f"r{number}", "c", 1.0, "gw", "chat", CHAT, "keep", 1)
        await store.put(replace(captured, body="x" * 1024 * 1024))
    assert await store.find("r0") is None
    assert await store.find(f"r{number}") is not None
    await connection.close()


async def test_requests_are_answered_while_nats_takes_no_captures(own_cluster: Cluster) -> None:
    """The stream can't be made: its name is taken by another one."""
    cluster = own_cluster
    cluster.start_all()
    await cluster.ready()
    await cluster.load("chat", memory="64MiB")
    connection = await Connection(cluster.nats_url, "test").open(patience=PATIENCE)
    await connection.client.jetstream().add_stream(
        StreamConfig(name=captures.STREAM, subjects=["elsewhere.>"], max_bytes=1024)
    )
    await connection.close()
    capture = await start(cluster)
    async with cluster.http() as http:
        for _ in range(5):
            assert said(await http.post(CHAT, json=chat("chat")))

        async def warned() -> bool:
            return "captured requests are dropped" in cluster.output("gateway")

        await cluster.poll(warned, "the gateway says that it drops them")
    await stop(cluster, capture)
