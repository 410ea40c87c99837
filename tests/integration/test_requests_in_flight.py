"""Requests in flight: which there are in the whole cluster, and an end to any of them."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from tests.integration.asking import CHAT, Heard, chat, error, listen, said
from tests.integration.cluster import PATIENCE, Cluster
from tests.ports import free_port

pytestmark = pytest.mark.anyio

LIST = "/admin/requests"
SECOND = free_port()
LONG = 5000
SLOW = {"simulate-token": 0.05, "simulate-tokens": LONG}
"""An answer takes minutes, so that it ends only when it is cancelled."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with two gateways and two routers."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))

    async def ready() -> None:
        for port in (None, SECOND):
            await cluster.ready(port)
        await cluster.load("chat", memory="64MiB", max_in_flight=2, options=SLOW)

    try:
        cluster.start_all()
        cluster.start("router-2")
        cluster.start("gateway-2", "--port", str(SECOND))
        asyncio.run(ready())
        yield cluster
    finally:
        cluster.close()


async def listed(http: httpx.AsyncClient, **query: str) -> list[dict[str, Any]]:
    answer = await http.get(LIST, params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["requests"]
    return found


async def seen(cluster: Cluster, http: httpx.AsyncClient, identity: str) -> dict[str, Any]:
    """Wait until a request is listed, by its caller's id, and give it."""
    found: list[dict[str, Any]] = []

    async def there() -> bool:
        found[:] = [each for each in await listed(http) if identity in each["caller_ids"]]
        return bool(found)

    await cluster.poll(there, f"{identity} is in flight")
    return found[0]


@contextlib.asynccontextmanager
async def under_way(
    http: httpx.AsyncClient, identity: str, **fields: Any
) -> AsyncIterator["asyncio.Task[httpx.Response]"]:
    """Ask for an answer that does not end by itself."""
    body = chat("chat", identity, max_tokens=LONG, **fields)
    asking = asyncio.create_task(http.post(CHAT, json=body, headers={"x-request-id": identity}))
    try:
        yield asking
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


@contextlib.asynccontextmanager
async def streaming(
    http: httpx.AsyncClient, identity: str, **headers: str
) -> AsyncIterator[tuple[Heard, "asyncio.Task[Heard]"]]:
    body = chat("chat", identity, max_tokens=LONG, stream=True)
    named = {"x-request-id": identity, **headers}
    async with http.stream("POST", CHAT, json=body, headers=named) as answer:
        heard = Heard()
        hearing = asyncio.create_task(listen(answer, heard))
        try:
            yield heard, hearing
        finally:
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)


async def idle(cluster: Cluster) -> None:
    """Wait until the engine has no request any more."""

    async def so() -> bool:
        return (await cluster.engine_says("chat-0"))["running"] == 0

    await cluster.poll(so, "the engine has nothing to do")


async def cancelled(http: httpx.AsyncClient, identity: str) -> dict[str, Any]:
    answer = await http.delete(f"{LIST}/{identity}")
    assert answer.status_code == 200, answer.text
    was: dict[str, Any] = answer.json()
    return was


async def settled(cluster: Cluster, http: httpx.AsyncClient, identity: str) -> dict[str, Any]:
    """Wait until a request is at a replica or has a place in a queue, and give it."""

    async def so() -> bool:
        found = await seen(cluster, http, identity)
        return found["state"] == "running" or found["position"] is not None

    await cluster.poll(so, f"{identity} is somewhere")
    return await seen(cluster, http, identity)


async def fill(
    cluster: Cluster, stack: contextlib.AsyncExitStack, *clients: httpx.AsyncClient
) -> tuple[list[str], "asyncio.Task[httpx.Response]"]:
    """Ask until a request has to wait; return the ids of all, and the task of the last.

    Each of two routers lets a replica have as many requests as it may.
    """
    for number in range(12):
        http = clients[number % len(clients)]
        asks = await stack.enter_async_context(under_way(http, f"r{number}"))
        if (await settled(cluster, http, f"r{number}"))["state"] == "waiting":
            return [f"r{each}" for each in range(number + 1)], asks
    raise AssertionError("none has to wait")


async def test_those_of_all_gateways_are_listed_with_where_they_are(cluster: Cluster) -> None:
    async with cluster.http() as one, cluster.http(SECOND) as two, contextlib.AsyncExitStack() as s:
        ids, _ = await fill(cluster, s, one, two)
        found = await listed(two)
        assert [each["caller_ids"] for each in found] == [[each] for each in ids]
        assert len({each["gateway"] for each in found}) == 2
        *running, waits = found
        assert {(each["state"], each["replica"], each["router"]) for each in running} == {
            ("running", "chat-0", "")
        }
        assert (waits["state"], waits["position"], waits["replica"]) == ("waiting", 1, "")
        assert waits["router"].startswith("router-")
        [first] = await listed(one, model="chat", limit="1")
        assert first["id"] == found[0]["id"]
        answer = await one.get(LIST, params={"limit": "1"})
        assert answer.json()["more"] == len(ids) - 1
        assert len(answer.json()["gateways"]) == 2
        told = await cluster.nebula("requests", "--json")
        assert [each["id"] for each in json.loads(told.out)["requests"]] == [
            each["id"] for each in found
        ]
        table = (await cluster.nebula("requests", "list", "--model", "chat")).out
        words = [line.split() for line in table.splitlines()[1:]]
        assert [each[5] for each in words] == ["running"] * len(running) + ["waiting"]
        assert words[-1][6:8] == [waits["router"], "1"]
    await idle(cluster)


async def test_one_that_runs_at_another_gateway_ends_with_an_error(cluster: Cluster) -> None:
    async with cluster.http() as one, cluster.http(SECOND) as two, under_way(one, "whole") as asks:
        await seen(cluster, two, "whole")
        was = await cancelled(two, "whole")
        told = error(await asks, 409)
        assert told["code"] == "request_cancelled"
        assert (await asks).headers["x-should-retry"] == "false"
        await idle(cluster)
        again = await two.delete(f"{LIST}/whole")
        assert error(again, 404)["code"] == "request_not_found"
        why = await cluster.nebula("why", "request", was["id"])
        assert "an operator cancelled it: anonymous" in why.out


async def test_a_stream_ends_with_its_own_error_event(cluster: Cluster) -> None:
    async with cluster.http() as http, streaming(http, "events") as (heard, hearing):

        async def some() -> bool:
            return len(heard.chunks) > 3

        await cluster.poll(some, "the stream has begun")
        was = await cancelled(http, heard.request)
        assert was["state"] == "running"
        assert was["stream"]
        assert was["tokens"] > 0
        async with asyncio.timeout(PATIENCE):
            await hearing
        assert heard.error is not None
        assert heard.error["code"] == "request_cancelled"
        assert not heard.whole
    await idle(cluster)


async def test_anthropic_s_form_has_its_own_error(cluster: Cluster) -> None:
    body = {
        "model": "chat",
        "max_tokens": LONG,
        "messages": [{"role": "user", "content": "a"}],
        "stream": True,
    }
    async with (
        cluster.http() as http,
        http.stream("POST", "/v1/messages", json=body, headers={"x-request-id": "ours"}) as answer,
    ):
        parts = answer.aiter_text()
        text = ""
        while "content_block_delta" not in text:
            text += await anext(parts)
        await cancelled(http, "ours")
        text = "".join([part async for part in parts])
    assert "event: error" in text
    assert '"type":"error"' in text
    await idle(cluster)


async def test_one_that_waits_leaves_the_queue(cluster: Cluster) -> None:
    async with cluster.http() as http, contextlib.AsyncExitStack() as stack:
        ids, waits = await fill(cluster, stack, http)
        was = await cancelled(http, ids[-1])
        assert (was["state"], was["tokens"]) == ("waiting", 0)
        assert error(await waits, 409)["code"] == "request_cancelled"

        async def none_waits() -> bool:
            return not (await http.get("/admin/models/chat")).json()["queue"]["waiting"]

        await cluster.poll(none_waits, "the router has forgotten it")
    await idle(cluster)


async def test_a_resumable_one_ends_for_those_that_resume_it_too(cluster: Cluster) -> None:
    resumable = {"x-resumable": "true"}
    async with cluster.http() as one, cluster.http(SECOND) as two:
        async with streaming(one, "kept", **resumable) as (heard, hearing):

            async def begun() -> bool:
                return bool(heard.chunks)

            await cluster.poll(begun, "the stream has begun")
            hearing.cancel()
        found = await seen(cluster, two, "kept")
        assert found["resumable"]
        async with two.stream("GET", f"/v1/streams/{found['id']}") as answer:
            resumed = asyncio.create_task(listen(answer))
            await cancelled(two, "kept")
            async with asyncio.timeout(PATIENCE):
                assert (await resumed).error is not None
    await idle(cluster)


async def test_one_that_has_ended_or_never_was_is_a_404(cluster: Cluster) -> None:
    async with cluster.http() as http:
        await cluster.tell_engine("chat-0", token=0)
        answer = await http.post(CHAT, json=chat("chat", max_tokens=2))
        assert said(answer)
        for identity in (answer.headers["x-request-id"], "never"):
            assert error(await http.delete(f"{LIST}/{identity}"), 404)["param"] == "identity"
        assert error(await http.delete(f"{LIST}/%00"), 400)
        await cluster.tell_engine("chat-0", token=0.05)
    told = await cluster.nebula("requests", "cancel", "never")
    assert told.code == 1
    assert "no gateway has a request 'never' in flight" in told.err


async def test_of_two_that_cancel_at_once_one_is_told_that_it_has(cluster: Cluster) -> None:
    async with cluster.http() as one, cluster.http(SECOND) as two, under_way(one, "both") as asks:
        await seen(cluster, two, "both")
        answers = await asyncio.gather(one.delete(f"{LIST}/both"), two.delete(f"{LIST}/both"), asks)
    assert sorted(each.status_code for each in answers[:2]) == [200, 404]
    assert answers[2].status_code == 409


@pytest.mark.parametrize(
    ("query", "status"),
    [({"model": "none"}, 404), ({"limit": "0"}, 400), ({"limit": "1e3"}, 400), ({"who": "x"}, 400)],
)
async def test_a_bad_filter_is_refused(
    cluster: Cluster, query: dict[str, str], status: int
) -> None:
    async with cluster.http() as http:
        error(await http.get(LIST, params=query), status)


async def test_a_tenant_s_key_sees_and_cancels_only_the_tenant_s(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.variables["NEBULA_OPEN"] = ""
    cluster.up()
    await cluster.take_key()
    await cluster.ready()
    await cluster.load("chat", memory="64MiB", options=SLOW)
    async with cluster.http() as admin:

        async def key(identity: str, *scopes: str, tenant: str = "") -> dict[str, str]:
            rights = {"id": identity, "scopes": scopes, "tenant": tenant}
            made = await admin.post("/admin/keys", json=rights)
            return {"authorization": f"Bearer {made.json()['secret']}"}

        ours = await key("ours", "infer", "operate", tenant="a")
        theirs = await key("theirs", "operate", tenant="b")
        looks = await key("looks", "view")
        body = chat("chat", "one", max_tokens=LONG)
        asks = asyncio.create_task(
            admin.post(CHAT, json=body, headers={**ours, "x-request-id": "one"})
        )
        found = await seen(cluster, admin, "one")
        assert (found["tenant"], found["key"]) == ("a", "ours")
        assert (await admin.get(LIST, headers=theirs)).json()["requests"] == []
        assert len((await admin.get(LIST, headers=looks)).json()["requests"]) == 1
        error(await admin.get(LIST, headers=theirs, params={"tenant": "a"}), 403)
        error(await admin.delete(f"{LIST}/one", headers=theirs), 404)
        error(await admin.delete(f"{LIST}/one", headers=looks), 403)
        told = await cluster.nebula("requests", "cancel", "one", "--json")
        assert told.code == 0, told
        assert json.loads(told.out)["id"] == found["id"]
        error(await asks, 409)
        why = await cluster.nebula("why", "request", "one")
    assert "an operator cancelled it: cli:" in why.out
    assert cluster.violations() == []


async def test_without_nats_it_is_a_503(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.start_all()
    await cluster.ready()
    async with cluster.http() as http:
        cluster.kill("nats")

        async def away() -> bool:
            return (await http.get(LIST)).status_code == 503

        await cluster.poll(away, "the gateway has noticed")
        error(await http.delete(f"{LIST}/r"), 503)
