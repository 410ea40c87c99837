"""Limits of keys, tenants and models at two gateways: what is refused, and what is told of it."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import httpx
import msgspec
import openai
import pytest

from tests.integration.cluster import Cluster
from tests.ports import free_port

pytestmark = pytest.mark.anyio

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}


class Two(Cluster):
    """A cluster with two gateways; the second may be killed."""

    second: int = 0


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    cluster = Two(tmp_path_factory.mktemp("cluster"))
    try:
        asyncio.run(begun(cluster))
        yield cluster
    finally:
        cluster.close()


async def begun(cluster: Two) -> None:
    cluster.start_all()
    await cluster.ready()
    await cluster.load("chat", memory="64MiB")
    await cluster.load("other", memory="64MiB")
    cluster.second = await another(cluster, "gateway-2")


async def another(cluster: Cluster, name: str) -> int:
    port = free_port()
    cluster.start(name, "--port", str(port))
    await cluster.ready(port)
    return port


async def key(cluster: Cluster, **rights: Any) -> str:
    """Issue a key that all gateways know; return its text."""
    async with cluster.http() as http:
        answer = await http.post("/admin/keys", json={"scopes": ["infer"], **rights})
    assert answer.status_code == 201, answer.text
    text: str = answer.json()["secret"]
    for port in (cluster.port, *([cluster.second] if isinstance(cluster, Two) else [])):
        await known(port, text)
    return text


async def known(port: int, text: str) -> None:
    """Wait until a gateway knows a key."""
    async with asyncio.timeout(60), client(port, text) as http:
        for _ in count():
            if (await http.get("/v1/models")).status_code != 401:
                return
            await asyncio.sleep(0.05)


def client(port: int, text: str) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {text}"}
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60, trust_env=False
    )


async def test_two_gateways_let_through_as_many_requests_as_a_minute_allows(two: Two) -> None:
    text = await key(two, limits={"requests_per_minute": 25})
    async with client(two.port, text) as one, client(two.second, text) as other:
        answers = await asyncio.gather(
            *(each.post("/v1/chat/completions", json=CHAT) for each in (one, other) * 40)
        )
    refused = [answer for answer in answers if answer.status_code == 429]
    told = Counter(answer.status_code for answer in answers)
    minutes = {answer.headers["x-ratelimit-limit-requests"] for answer in answers}
    assert minutes == {"25"}
    assert told[200] + told[429] == 80
    assert told[200] in (25, 50)  # a minute may have ended meanwhile
    assert {answer.headers["x-ratelimit-remaining-requests"] for answer in refused} == {"0"}
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
    error = refused[0].json()["error"]
    assert error["code"] == "rate_limit_exceeded"
    assert "25 requests per minute" in error["message"]


async def test_a_budget_is_settled_with_what_engines_say(two: Two) -> None:
    text = await key(two, limits={"tokens_per_day": 5000})
    body = {**CHAT, "max_tokens": 1000}
    used = 0
    async with client(two.port, text) as http:
        for stream in (False, True, False):
            asked = {**body, "stream": stream, "stream_options": {"include_usage": True}}
            if not stream:
                del asked["stream_options"]
            answer = await http.post("/v1/chat/completions", json=asked)
            assert answer.status_code == 200, answer.text
            if not stream:
                used += answer.json()["usage"]["total_tokens"]
            else:
                used += used
        left = (await http.post("/v1/chat/completions", json=CHAT)).headers
    assert int(left["x-ratelimit-remaining-tokens"]) >= 5000 - 2 * used - 200
    assert int(left["x-ratelimit-remaining-tokens"]) < 5000 - used // 2


async def test_concurrent_requests_never_exceed_a_budget_of_tokens(two: Two) -> None:
    text = await key(two, limits={"tokens_per_day": 300})
    used = 0
    async with client(two.port, text) as one, client(two.second, text) as other:
        for _ in range(4):
            answers = await asyncio.gather(
                *(each.post("/v1/chat/completions", json=CHAT) for each in (one, other) * 10)
            )
            used += sum(
                answer.json()["usage"]["total_tokens"]
                for answer in answers
                if answer.status_code == 200
            )
            assert used <= 300
        refused = await one.post("/v1/chat/completions", json={**CHAT, "max_tokens": 250})
    assert used > 200
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "insufficient_quota"


async def test_what_a_key_has_used_of_its_limits_is_listed_until_it_is_revoked(two: Two) -> None:
    text = await key(two, id="listed", limits={"tokens_per_day": 5000, "max_tokens": 100})
    async with client(two.port, text) as http:
        used = (await http.post("/v1/chat/completions", json=CHAT)).json()["usage"]["total_tokens"]

    async def listed_as_used() -> bool:
        told = json.loads((await two.nebula("limits", "list", "--json")).out)
        assert told["key.listed"]["max_tokens"] == 100
        return bool(told["key.listed"]["used"]["tokens_per_day"] == used)

    await two.poll(listed_as_used, "what the key has used is listed")
    async with two.http() as http:
        (found,) = (
            each for each in (await http.get("/admin/limits")).json() if each["id"] == "listed"
        )
        assert (found["kind"], found["used"]["tokens_per_day"]) == ("key", used)
        assert (await http.delete("/admin/keys/listed")).status_code in (200, 202)
    assert "key.listed" not in (await two.nebula("limits", "list", "--json")).out


async def test_requests_in_flight_are_limited_and_end(two: Two) -> None:
    text = await key(two, limits={"in_flight": 2})
    await two.tell_engine("chat-0", token=0.2)
    try:
        async with client(two.port, text) as one, client(two.second, text) as other:
            answers = await asyncio.gather(
                *(each.post("/v1/chat/completions", json=CHAT) for each in (one, other, one, other))
            )
            assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429]
            async with asyncio.timeout(60):
                for _ in count():
                    last = await other.post("/v1/chat/completions", json=CHAT)
                    if last.status_code == 200:
                        break
                    await asyncio.sleep(0.1)
    finally:
        await two.tell_engine("chat-0", token=0.0)


async def test_a_key_has_only_so_many_requests_that_wait(two: Two) -> None:
    text = await key(two, limits={"waiting": 0})
    other = await key(two)
    await two.load("narrow", memory="64MiB", max_in_flight=1, options={"simulate-token": 0.1})
    body = {**CHAT, "model": "narrow", "max_tokens": 20}
    async with client(two.port, other) as free, client(two.second, text) as bound:
        streamed = {**body, "stream": True}
        async with free.stream("POST", "/v1/chat/completions", json=streamed) as first:
            said = first.aiter_lines()
            await anext(said)
            refused = await bound.post("/v1/chat/completions", json=body)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert "may have 0 waiting requests" in refused.json()["error"]["message"]
            assert [line async for line in said][-2] == "data: [DONE]"

        async def free_again() -> bool:
            return (await bound.post("/v1/chat/completions", json=body)).status_code == 200

        await two.poll(free_again, "the router has heard that the replica is free")


async def test_a_longer_answer_than_allowed_is_refused_and_one_without_length_is_cut(
    two: Two,
) -> None:
    text = await key(two, limits={"max_tokens": 5})
    async with client(two.port, text) as http:
        long = await http.post("/v1/chat/completions", json=CHAT)
        assert long.status_code == 400
        assert long.json()["error"]["param"] == "max_tokens"
        short = {name: value for name, value in CHAT.items() if name != "max_tokens"}
        answer = await http.post("/v1/chat/completions", json=short)
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] <= 5


async def test_anthropics_clients_get_their_own_fields(two: Two) -> None:
    text = await key(two, limits={"requests_per_minute": 1, "tokens_per_minute": 100_000})
    async with client(two.port, text) as http:
        answers = [await http.post("/v1/messages", json=CHAT) for _ in range(3)]
    refused = answers[-1]
    assert refused.status_code == 429
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert refused.headers["anthropic-ratelimit-requests-limit"] == "1"
    assert refused.headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert refused.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
    assert refused.headers["anthropic-ratelimit-tokens-limit"] == "100000"


async def test_openais_client_waits_and_tries_again(two: Two) -> None:
    text = await key(two, limits={"in_flight": 1})
    base = f"http://127.0.0.1:{two.port}/v1"
    async with openai.AsyncOpenAI(base_url=base, api_key=text, max_retries=20) as asking:
        answers = await asyncio.gather(
            *(asking.chat.completions.create(**CHAT) for _ in range(3))  # type: ignore[call-overload]
        )
    assert len(answers) == 3


async def test_a_tenant_s_keys_and_a_model_s_requests_share_a_limit(two: Two) -> None:
    texts = [await key(two, tenant="lab") for _ in range(2)]
    told = await two.nebula("limits", "set", "tenant", "lab", "--limit", "tokens-per-day=100")
    assert told.code == 0, told.err
    async with two.http() as http:
        answer = await http.put("/admin/limits/model/other", json={"requests_per_minute": 1})
        assert answer.status_code == 202, answer.text
        listed = (await http.get("/admin/limits")).json()
    assert [(each["kind"], each["id"]) for each in listed if each["kind"] != "key"] == [
        ("model", "other"),
        ("tenant", "lab"),
    ]
    used, refused = 0, ""
    async with client(two.port, texts[0]) as one, client(two.second, texts[1]) as other:
        for each in (one, other) * 15:
            answer = await each.post("/v1/chat/completions", json=CHAT)
            if answer.status_code == 200:
                used += answer.json()["usage"]["total_tokens"]
            else:
                refused = answer.json()["error"]["message"]
        assert used <= 100
        assert "tenant 'lab'" in refused

    async def listed_as_used() -> bool:
        async with two.http() as http:
            (lab,) = (
                each for each in (await http.get("/admin/limits")).json() if each["id"] == "lab"
            )
        return bool(lab["used"]["tokens_per_day"] == used)

    await two.poll(listed_as_used, "what the tenant has used is listed")
    shown = await two.nebula("limits", "list")
    assert f"tokens per day 100 ({used} used)" in " ".join(shown.out.split())
    async with two.http() as http:
        answers = [
            await http.post("/v1/chat/completions", json={**CHAT, "model": "other"})
            for _ in range(3)
        ]
    assert answers[-1].status_code == 429
    assert "model 'other'" in answers[-1].json()["error"]["message"]


async def test_a_gateway_that_stops_leaves_the_rest_of_a_budget_to_the_other(two: Two) -> None:
    text = await key(two, limits={"tokens_per_day": 1000, "in_flight": 1})
    third = await another(two, "gateway-3")
    await known(third, text)
    used = 0
    async with client(third, text) as http:
        for _ in range(3):
            answer = await http.post("/v1/chat/completions", json=CHAT)
            assert answer.status_code == 200, answer.text
            used += answer.json()["usage"]["total_tokens"]
    assert await asyncio.to_thread(two.stop, "gateway-3") == 0
    prompt = -(-len(msgspec.json.encode(CHAT["messages"])) // 4)
    all_the_rest = {**CHAT, "max_tokens": 1000 - used - prompt}
    async with client(two.port, text) as http:
        answer = await http.post("/v1/chat/completions", json=all_the_rest)
    assert answer.status_code == 200, answer.text


async def test_lines_of_a_batch_wait_for_room_and_for_the_budget(two: Two) -> None:
    text = await key(two, limits={"in_flight": 1, "tokens_per_day": 200})
    lines = (
        {"custom_id": f"{n}", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}
        for n in range(20)
    )
    file = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    base = f"http://127.0.0.1:{two.port}/v1"
    async with openai.AsyncOpenAI(base_url=base, api_key=text) as asking:
        given = await asking.files.create(file=("lines.jsonl", file), purpose="batch")
        batch = await asking.batches.create(
            input_file_id=given.id, endpoint="/v1/chat/completions", completion_window="24h"
        )

        async def spent() -> bool:
            async with client(two.port, text) as http:
                answer = await http.post("/v1/chat/completions", json={**CHAT, "max_tokens": 150})
            told: dict[str, Any] = answer.json()
            return bool(told.get("error", {}).get("code") == "insufficient_quota")

        await two.poll(spent, "the batch has spent the budget")
        found = await asking.batches.retrieve(batch.id)
        assert found.status == "in_progress"
        assert found.request_counts is not None
        assert found.request_counts.failed == 0
        told = await two.nebula("batch", "status", batch.id)
        assert told.code == 0, told
        assert "of 200 tokens per day: " in told.out
        assert "wait\n" in told.out
        await asking.batches.cancel(batch.id)


async def test_after_a_gateway_is_killed_no_more_is_spent_than_the_budget(two: Two) -> None:
    text = await key(two, limits={"tokens_per_day": 400})
    port = await another(two, "gateway-3")
    await known(port, text)
    used = 0

    async def spend(http: httpx.AsyncClient) -> int:
        try:
            answer = await http.post("/v1/chat/completions", json=CHAT)
        except httpx.HTTPError:
            return 0
        done = answer.status_code == 200
        return int(answer.json()["usage"]["total_tokens"]) if done else 0

    async with client(two.port, text) as one, client(port, text) as other:
        used += sum(await asyncio.gather(*(spend(each) for each in (one, other) * 3)))
        two.kill("gateway-3")
        used += sum([await spend(one) for _ in range(60)])
    assert used <= 400
