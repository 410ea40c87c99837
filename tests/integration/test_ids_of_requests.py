"""Every answer names its request, and `nebula why request` finds it by the caller's id too."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import openai
import pytest

from tests.integration.asking import CHAT, chat
from tests.integration.cluster import Cluster
from tests.integration.wire import Wire

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        await cluster.load("chat")

    asyncio.run(load())


async def story(cluster: Cluster, request: str) -> Any:
    said = await cluster.nebula("why", "request", request, "--json")
    assert said.code == 0, said.err
    return json.loads(said.out)


ASKED: dict[str, tuple[str, str, Mapping[str, Any], int]] = {
    "an answer": ("POST", CHAT, {"json": chat("chat")}, 200),
    "a stream": ("POST", CHAT, {"json": chat("chat", stream=True)}, 200),
    "an engine's refusal": ("POST", CHAT, {"json": chat("chat", max_tokens=-1)}, 400),
    "an unknown model": ("POST", CHAT, {"json": chat("nobody")}, 404),
    "a wrong method": ("GET", CHAT, {}, 405),
    "an unknown path": ("GET", "/v1/nothing", {}, 404),
    "a path with an empty segment": ("POST", "/v1//chat/completions", {}, 404),
    "a foreign host": ("GET", "/v1/models", {"headers": {"host": "evil.example"}}, 421),
    "the models": ("GET", "/v1/models", {}, 200),
    "health": ("GET", "/health", {}, 200),
    "an intent that is not valid": ("POST", "/admin/models", {"json": {"replicas": -1}}, 400),
}


@pytest.mark.parametrize("which", ASKED)
async def test_every_answer_hands_the_callers_id_back(cluster: Cluster, which: str) -> None:
    method, path, sent, status = ASKED[which]
    ids = {"x-request-id": f"order-{uuid4()}", "x-client-request-id": f"client/{uuid4()}"}
    headers = {**sent.get("headers", {}), **ids}
    async with cluster.http() as http:
        answer = await http.request(method, path, **{**sent, "headers": headers})
        plain = await http.request(method, path, **sent)
    assert (answer.status_code, plain.status_code) == (status, status), answer.text
    assert ids.items() <= dict(answer.headers).items()
    assert answer.headers["x-nebula-request-id"] not in ids.values()
    assert plain.headers["x-request-id"]
    assert "x-nebula-request-id" not in plain.headers


def test_a_head_that_is_refused_hands_back_what_has_arrived_of_it(cluster: Cluster) -> None:
    sent = b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nX-Request-Id: order-1\r\n\r\n"
    with Wire(cluster.port) as wire:
        answer = wire.send(sent).answer()
    assert answer.status == 400
    assert answer.fields["x-request-id"] == "order-1"


async def test_a_request_is_found_by_its_callers_ids(cluster: Cluster) -> None:
    mine, client = f"order=4711;{uuid4()}", str(uuid4())
    ids = {"X-Request-Id": mine, "X-Client-Request-Id": client}
    async with cluster.http() as http:
        first = await http.post(CHAT, json=chat("chat"), headers=ids)
        second = await http.post(CHAT, json=chat("chat"), headers=ids)
    own = second.headers["x-nebula-request-id"]
    found = await story(cluster, own)
    assert f"its caller calls it {mine} and {client}" in found["steps"][0]["text"]
    for each in (mine, client):
        by_theirs = await story(cluster, each)
        assert by_theirs["others"] == [first.headers["x-nebula-request-id"]]
        assert by_theirs["steps"] == found["steps"]
    said = await cluster.nebula("why", mine)
    assert f"request {own}: answered" in said.out
    assert "Earlier requests with this id: " in said.out


async def test_a_request_for_a_response_is_found_by_the_responses_id(cluster: Cluster) -> None:
    async with cluster.http() as http:
        sent = {"model": "chat", "input": "x", "store": False}
        answer = await http.post("/v1/responses", json=sent)
    found = await story(cluster, answer.json()["id"])
    assert answer.headers["x-request-id"] in found["headline"]


async def test_an_error_after_the_request_was_sent_names_it(cluster: Cluster) -> None:
    await cluster.load("slow", options={"simulate-first-token": 3600})
    async with cluster.http() as http:
        answer = await http.post(
            CHAT, json=chat("slow"), headers={"x-request-timeout": "0.2", "x-request-id": "late"}
        )
    assert answer.status_code == 504
    found = await story(cluster, answer.headers["x-nebula-request-id"])
    assert "X-Request-Timeout" in found["headline"]


async def test_openais_client_reads_the_id_and_the_time(cluster: Cluster) -> None:
    base = f"http://127.0.0.1:{cluster.port}/v1"
    async with openai.AsyncOpenAI(base_url=base, api_key="none", max_retries=0) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="chat",
            messages=[{"role": "user", "content": "Hello"}],
            extra_headers={"X-Client-Request-Id": "mine"},
        )
        assert raw.request_id
        assert raw.parse()._request_id == raw.request_id
        assert raw.headers["x-client-request-id"] == "mine"
        assert int(raw.headers["openai-processing-ms"]) >= 0
        with pytest.raises(openai.NotFoundError) as refused:
            await client.chat.completions.create(model="nobody", messages=[])
        assert refused.value.request_id
