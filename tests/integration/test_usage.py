"""What was used: told by the records, by the log, and by what clients count in their answers."""

import asyncio
import json
import os
import signal
import time
from typing import Any

import httpx
import msgspec
import pytest

from nebula.actors.gateway.usage_roll_up import UsageRollUp
from nebula.events.usage import UsageRecord
from nebula.store import usage_log
from nebula.store.usage import UsageStore
from tests.integration.asking import CHAT, COMPLETIONS, chat
from tests.integration.cluster import Cluster
from tests.integration.test_batches import jsonl, line, official, over, submitted
from tests.ports import free_port

pytestmark = pytest.mark.anyio

PATIENCE = 120.0
LINES = 200


async def recorded(cluster: Cluster) -> list[UsageRecord]:
    """Return all records that there are."""
    async with cluster.joined() as projection:
        store = UsageStore(projection.log.connection)
        kept = await store.kept()
        if kept is None:
            return []
        return [each async for said in store.read(0, kept.last) for each in said.records]


async def roll_up(cluster: Cluster) -> None:
    """Have what is recorded summed as if its hour were over."""
    async with cluster.joined() as projection:
        store = UsageStore(projection.log.connection)
        summing = UsageRollUp(projection.log, projection, store)
        while await summing.step(time.time() + 7200):
            pass


async def bill(cluster: Cluster, by: str) -> list[dict[str, Any]]:
    told = await cluster.nebula("usage", "--by", by, "--json")
    assert told.code == 0, told
    found: list[dict[str, Any]] = json.loads(told.out)
    return found


async def until_recorded(cluster: Cluster, count: int) -> list[UsageRecord]:
    found: list[UsageRecord] = []

    async def so() -> bool:
        found[:] = await recorded(cluster)
        return len(found) >= count

    await cluster.poll(so, f"{count} records", PATIENCE)
    return found


async def test_each_kind_of_answer_is_recorded_as_its_client_counts_it(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.start_all()
    await cluster.ready()
    await cluster.load("chat")
    counted: dict[str, tuple[int, int]] = {}

    async with cluster.http() as http:

        async def whole(path: str, body: dict[str, Any]) -> None:
            answer = await http.post(path, json=body)
            assert answer.status_code == 200, answer.text
            usage = answer.json()["usage"]
            prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
            made = usage.get("completion_tokens", usage.get("output_tokens"))
            counted[answer.headers["x-request-id"]] = (prompt, made)

        async def streamed(path: str, body: dict[str, Any], made: int, prompt: int) -> str:
            answer = await http.post(path, json={**body, "stream": True})
            assert answer.status_code == 200, answer.text
            counted[answer.headers["x-request-id"]] = (prompt, made)
            return answer.text

        await whole(CHAT, chat("chat", "one two", max_tokens=5))
        await whole(COMPLETIONS, {"model": "chat", "prompt": "one two three", "max_tokens": 4})
        await whole("/v1/messages", chat("chat", "one two", max_tokens=3))
        prompt = next(iter(counted.values()))[0]
        asked = chat("chat", "one two", max_tokens=6)
        assert "usage" not in await streamed(CHAT, asked, 6, prompt)
        assert "usage" not in await streamed(CHAT, {**asked, "stop": ["§"]}, 6, prompt)
        wanted = {"stream_options": {"include_usage": True}}
        assert '"usage":{' in await streamed(CHAT, asked | wanted, 6, prompt)
        assert '"usage":{' in await streamed(CHAT, asked | wanted | {"stop": ["§"]}, 6, prompt)
        await streamed("/v1/messages", asked, 6, prompt)
        refused = await http.post(CHAT, json=chat("chat", max_tokens=-1))
        assert refused.status_code == 400
    found = await until_recorded(cluster, len(counted))
    assert {each.id: (each.prompt, each.completion) for each in found} == counted
    assert {(each.counted in ("engine", "tokens"), each.cut) for each in found} == {(True, False)}
    before = await bill(cluster, "path,model")
    await roll_up(cluster)
    assert await bill(cluster, "path,model") == before
    assert sum(each["requests"] for each in before) == len(counted)
    told = await cluster.nebula("usage", "--recompute")
    assert (told.code, told.out) == (
        0,
        "1 sums of the log agree with their records, to the token\n",
    )
    assert (await cluster.nebula("usage", "--csv")).out.startswith(
        "key,model,requests,prompt_tokens"
    )
    today = int(time.time()) // 86400 * 86400 - 86400
    async with cluster.http() as http:
        path = "/v1/organization/usage/completions"
        wrong = ["", "start_time=x"]
        wrong += [f"start_time=1&{each}" for each in ("bucket_width=1m", "group_by=day", "limit=0")]
        for query in wrong:
            assert (await http.get(f"{path}?{query}")).status_code == 400
        wished: dict[str, Any] = {"start_time": today, "group_by": ["model"], "limit": 1}
        page = (await http.get(path, params=wished)).json()
        assert (page["object"], page["has_more"]) == ("page", True)
        rest = (await http.get(path, params=wished | {"page": page["next_page"]})).json()
        (result,) = [
            each for bucket in (*page["data"], *rest["data"]) for each in bucket["results"]
        ]
        assert (result["model"], result["num_model_requests"]) == ("chat", len(counted))
        assert result["output_tokens"] == sum(made for _, made in counted.values())
        assert result["input_tokens"] == sum(prompt for prompt, _ in counted.values())
        vectors = (await http.get(path.replace("completions", "embeddings"), params=wished)).json()
        assert [bucket["results"] for bucket in vectors["data"]] == [[]]


class Client:
    """Sends requests to a gateway, one after the other, and counts the tokens of its answers.

    `whole`: tokens of each answer that came to its end, by the request's id. `cut`: words of the
    others, as far as they came.
    """

    def __init__(self, port: int, *, stream: bool) -> None:
        self.port = port
        self.stream = stream
        self.whole: dict[str, int] = {}
        self.cut: dict[str, int] = {}

    async def run(self, enough: asyncio.Event) -> None:
        number = 0
        while not enough.is_set():
            number += 1
            body = chat("chat", f"word {number}", max_tokens=5 + number % 7, stream=self.stream)
            try:
                async with httpx.AsyncClient(timeout=60) as http:
                    await self._ask(http, body)
            except httpx.HTTPError:
                await asyncio.sleep(0.1)

    async def _ask(self, http: httpx.AsyncClient, body: dict[str, Any]) -> None:
        url = f"http://127.0.0.1:{self.port}{CHAT}"
        async with http.stream("POST", url, json=body) as answer:
            if answer.status_code != 200:
                await asyncio.sleep(0.1)
                return
            identity = answer.headers["x-request-id"]
            if not self.stream:
                told = msgspec.json.decode(await answer.aread())
                self.whole[identity] = told["usage"]["completion_tokens"]
                return
            words = ""
            self.cut[identity] = 0
            async for said in answer.aiter_lines():
                if said == "data: [DONE]":
                    self.whole[identity] = self.cut.pop(identity)
                    return
                if said.startswith("data: {"):
                    for choice in msgspec.json.decode(said[6:]).get("choices", ()):
                        words += choice["delta"].get("content") or ""
                    self.cut[identity] = len(words.split())


async def test_the_bill_is_right_to_the_token_whatever_is_killed(own_cluster: Cluster) -> None:
    cluster, port = own_cluster, free_port()
    cluster.start_all()
    await cluster.ready()
    cluster.start("gateway-2", "--port", str(port))
    await cluster.ready(port)
    await cluster.load("chat", replicas=2)
    for replica in ("chat-0", "chat-1"):
        await cluster.tell_engine(replica, token=0.02)
    enough = asyncio.Event()
    steady = [Client(cluster.port, stream=bool(n % 2)) for n in range(4)]
    killed = [Client(port, stream=bool(n % 2)) for n in range(2)]
    lines = [line(f"l{n}", chat("chat", f"word {n}", max_tokens=10)) for n in range(LINES)]
    async with asyncio.TaskGroup() as group:
        for client in (*steady, *killed):
            group.create_task(client.run(enough))
        async with official(cluster) as official_client:
            batch = await submitted(official_client, jsonl(lines))

        async def more() -> None:
            """Wait for further answers at the gateway that lives on."""
            before = [len(client.whole) for client in steady]

            async def so() -> bool:
                return all(
                    len(client.whole) > 3 + known
                    for client, known in zip(steady, before, strict=True)
                )

            await cluster.poll(so, "further answers", PATIENCE)

        await more()
        os.kill((await cluster.engine("chat-0")).pid, signal.SIGKILL)
        await more()
        cluster.kill("gateway-2")
        cluster.again("gateway-2")
        await more()
        cluster.kill("router")
        cluster.again("router")
        await more()
        await roll_up(cluster)
        cluster.kill("nats")
        cluster.again("nats")
        await more()
        enough.set()
    async with official(cluster) as official_client:
        assert (await over(cluster, official_client, batch.id, PATIENCE)).status == "completed"
    expected = {key: count for client in steady for key, count in client.whole.items()}
    at_killed = {key: count for client in killed for key, count in client.whole.items()}
    cut = {key for client in (*steady, *killed) for key in client.cut}

    async def complete() -> bool:
        return expected.keys() <= {each.id for each in await recorded(cluster)}

    await cluster.poll(complete, "a record of each answer", PATIENCE)
    found = await recorded(cluster)
    assert len({each.id for each in found}) == len(found), "none is recorded twice"
    of_lines = [each for each in found if each.batch == batch.id]
    assert (len(of_lines), sum(each.completion for each in of_lines)) == (LINES, 10 * LINES)
    others = {each.id: each for each in found if not each.batch}
    assert {key: others[key].completion for key in expected} == expected
    known = at_killed.keys() & others.keys()
    assert {key: others[key].completion for key in known} == {key: at_killed[key] for key in known}
    assert len(at_killed) - len(known) <= 2 * 20, "what ended in the last moment of the killed one"
    for each in (others[key] for key in cut & others.keys()):
        assert each.completion <= 11
    strangers = others.keys() - expected.keys() - at_killed.keys() - cut
    assert all(not each.cut for each in (others[key] for key in strangers))
    await roll_up(cluster)

    async def right() -> bool:  # answers that were cut may be recorded a moment later
        total = sum(each.prompt + each.completion for each in await recorded(cluster))
        return bool(sum(each["total_tokens"] for each in await bill(cluster, "model")) == total)

    await cluster.poll(right, "the bill of all records", PATIENCE)
    told = await cluster.nebula("usage", "--recompute", "--json")
    checked = json.loads(told.out)
    assert (told.code, checked["gone"], checked["differences"]) == (0, 0, [])
    assert checked["checked"] >= 2


async def test_two_gateways_never_sum_the_same_records(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.start_all()
    await cluster.ready()
    await cluster.load("chat")
    async with cluster.http() as http:
        for _ in range(3):
            assert (await http.post(CHAT, json=chat("chat", max_tokens=2))).status_code == 200
    await until_recorded(cluster, 3)
    ended = await asyncio.gather(*(roll_up(cluster) for _ in range(5)), return_exceptions=True)
    assert any(each is None for each in ended)
    (line,) = await bill(cluster, "model")
    assert (line["requests"], line["completion_tokens"]) == (3, 6)
    async with cluster.joined() as projection:
        events = [each async for each in usage_log.rolled_up(projection.log.connection)]
    assert len(events) == 1
