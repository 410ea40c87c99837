"""The month of two tenants as real processes, with all of them killed at random.

The simulated month (tests/simulation/test_month.py) passes in virtual time; here budgets are so
small that they end within the test. All that is counted is counted by clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import pytest

from nebula.events.usage import UsageRecord
from tests.integration.asking import CHAT, Heard, chat, listen, resume
from tests.integration.cluster import PATIENCE, Cluster
from tests.integration.test_usage import bill, recorded, roll_up
from tests.ports import free_port

pytestmark = pytest.mark.anyio

SEED = int(os.environ.get("SEED", "16"))

KEYS: dict[str, tuple[str, dict[str, int]]] = {
    "red-1": ("red", {"requests_per_minute": 15}),
    "red-2": ("red", {"tokens_per_day": 700}),
    "blue-1": ("blue", {"tokens_per_minute": 200}),
    "blue-2": ("blue", {"tokens_per_month": 800, "in_flight": 1}),
}
"""So little for a minute that it is reached although a minute of the clock ends amid the requests,
and before the longer budgets of the same key are."""

TENANTS = {"red": {"tokens_per_month": 2000}, "blue": {"tokens_per_day": 1500}}
MODEL = {"in_flight": 6}
FREE = ""
"""The client without a key, which has no limits: it tells that the cluster answers."""

BITING = (
    *("requests per minute", "tokens per minute", "tokens per day", "tokens per month"),
    "requests in flight",
)

LOST = 20
"""Answers of its last moment that a killed gateway may not have recorded, as for test_usage."""

PROCESSES = ("nats", "router", "router-2", "node", "gateway", "gateway-2")
DEATHS = (*PROCESSES, "engine", "all")


@dataclass
class Asked:
    """A request, and what its client has of the answer.

    `run`: which run of a gateway has given the end. `minutes`: in which it may have begun.
    """

    key: str
    run: tuple[int, int]
    minutes: tuple[int, int]
    prompt: int = 0
    completion: int = 0
    whole: bool = False


class Gateways:
    """The ports of the gateways, and how often each was begun."""

    def __init__(self, ports: Mapping[str, int]) -> None:
        self.ports = ports
        self.runs: Counter[int] = Counter()
        self.killed: set[tuple[int, int]] = set()

    def run(self, port: int) -> tuple[int, int]:
        """Return the present run of a gateway."""
        return port, self.runs[port]

    def died(self, name: str) -> None:
        """Note that a gateway was killed."""
        port = self.ports[name]
        self.killed.add(self.run(port))
        self.runs[port] += 1


class Client:
    """Asks with one key at any gateway, one request after the other, and counts what it gets."""

    def __init__(self, gateways: Gateways, key: str, secret: str, chance: random.Random) -> None:
        self.gateways = gateways
        self.key = key
        self.chance = chance
        self.headers = {"authorization": f"Bearer {secret}"} if secret else {}
        self.asked: dict[str, Asked] = {}
        self.refusals: Counter[str] = Counter()
        self.whole = 0

    async def work(self, enough: asyncio.Event) -> None:
        """Ask until it is enough."""
        while not enough.is_set():
            port = self.chance.choice(tuple(self.gateways.ports.values()))
            try:
                async with self._http(port) as http:
                    pause = await self._ask(http, port)
            except httpx.HTTPError:  # what it asks is killed now
                pause = 0.1
            await asyncio.sleep(pause)

    def _http(self, port: int) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            headers=self.headers,
            timeout=PATIENCE,
            trust_env=False,
        )

    def _body(self) -> dict[str, Any]:
        # Each word is a token of more than four bytes, so that a request never takes more than it
        # has reserved, and no budget may be exceeded at all.
        said = " ".join(["abcdefgh"] * self.chance.randrange(2, 12))
        return chat("chat", said, max_tokens=self.chance.randrange(3, 25))

    async def _ask(self, http: httpx.AsyncClient, port: int) -> float:
        """Ask once; return after how many seconds to ask again."""
        body = self._body()
        began, run = minute(), self.gateways.run(port)  # the answer may be read after its death
        if self.chance.random() < 0.4:
            answer = await http.post(CHAT, json=body)
            if answer.status_code == 200:
                asked = self._begun(answer, run, began)
                usage = answer.json()["usage"]
                asked.prompt, asked.completion = usage["prompt_tokens"], usage["completion_tokens"]
                self._ended(asked)
                return 0.0
            return self._refused(answer)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        resumable = self.chance.random() < 0.4
        headers = {"X-Resumable": "true"} if resumable else {}
        heard = Heard()
        try:
            async with http.stream("POST", CHAT, json=body, headers=headers) as answer:
                if answer.status_code != 200:
                    await answer.aread()
                    return self._refused(answer)
                asked = self._begun(answer, run, began)
                await listen(answer, heard)
        except httpx.HTTPError:
            if heard.request:
                self._heard(asked, heard)
                if resumable:
                    await self._come_back(asked, heard.request)
            raise
        self._heard(asked, heard)
        return 0.0

    async def _come_back(self, asked: Asked, request: str) -> None:
        """Get an answer from its beginning at any gateway that has it."""
        for port in self.gateways.ports.values():
            heard = Heard()
            asked.run = self.gateways.run(port)
            try:
                async with self._http(port) as http:
                    await resume(http, request, heard=heard)
            except (httpx.HTTPError, AssertionError):
                continue
            self._heard(asked, heard)
            return

    def _begun(self, answer: httpx.Response, run: tuple[int, int], began: int) -> Asked:
        asked = Asked(self.key, run, (began, minute()))
        self.asked[answer.headers["x-request-id"]] = asked
        return asked

    def _heard(self, asked: Asked, heard: Heard) -> None:
        asked.completion = max(asked.completion, len(heard.text.split()))
        if heard.whole:
            usage = heard.usage[-1]
            asked.prompt, asked.completion = usage["prompt_tokens"], usage["completion_tokens"]
            self._ended(asked)

    def _ended(self, asked: Asked) -> None:
        asked.whole = True
        self.whole += 1

    def _refused(self, answer: httpx.Response) -> float:
        """Count a refusal; return a part of the time after which a client should come again."""
        assert answer.status_code in (429, 503), answer.text
        if answer.status_code == 503:
            return 0.1
        assert int(answer.headers["retry-after"]) > 0
        message = answer.json()["error"]["message"]
        self.refusals.update(each for each in BITING if each in message)
        return 0.3


def minute() -> int:
    """Return the minute of the clock."""
    return int(time.time()) // 60


class World:
    """All processes, and what becomes of them."""

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self.cluster = cluster
        self.chance = chance
        self.gateways = Gateways({"gateway": cluster.port, "gateway-2": free_port()})

    async def begin(self) -> None:
        """Start two of each, and a model with two engines."""
        cluster = self.cluster
        own: dict[str, tuple[str, ...]] = {
            "node": ("--restart-limit", "50"),
            "gateway-2": ("--port", str(self.gateways.ports["gateway-2"])),
        }
        for name in PROCESSES:
            cluster.start(name, *own.get(name, ()))
        for port in self.gateways.ports.values():
            await cluster.ready(port)
        for tenant, limits in TENANTS.items():
            await self._limit("tenant", tenant, limits)
        await self._limit("model", "chat", MODEL)
        await cluster.load("chat", replicas=2, options={"simulate-token": 0.02})

    async def secret(self, key: str) -> str:
        """Issue a key; return it once all gateways know it."""
        tenant, limits = KEYS[key]
        body = {"id": key, "scopes": ["infer"], "tenant": tenant, "limits": limits}
        async with self.cluster.http() as http:
            answer = await http.post("/admin/keys", json=body)
        assert answer.status_code == 201, answer.text
        secret: str = answer.json()["secret"]
        for port in self.gateways.ports.values():

            async def known(port: int = port) -> bool:
                async with self.cluster.http(port) as http:
                    headers = {"authorization": f"Bearer {secret}"}
                    return (await http.get("/v1/models", headers=headers)).status_code == 200

            await self.cluster.poll(known, f"{port} knows {key}")
        return secret

    async def _limit(self, kind: str, name: str, limits: dict[str, int]) -> None:
        """Set the limits of a tenant or a model."""
        async with self.cluster.http() as http:
            answer = await http.put(f"/admin/limits/{kind}/{name}", json=limits)
        assert answer.status_code == 202, answer.text

    def strike(self, victim: str) -> None:
        """Kill something with SIGKILL, and start it again; a node restarts an engine itself."""
        if victim == "engine":
            engines = sorted(self.cluster.engine_processes(), key=lambda each: each.pid)
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                self.chance.choice(engines).kill()
            return
        names = PROCESSES if victim == "all" else (victim,)
        if victim == "all":
            self.cluster.kill_everything()
        else:
            self.cluster.kill(victim)
        for name in names:
            if name in self.gateways.ports:
                self.gateways.died(name)
            self.cluster.again(name)


def used(asked: Mapping[str, Asked], records: Iterable[UsageRecord]) -> dict[str, tuple[str, int]]:
    """Return the key and the tokens of each request, as clients and records know of them."""
    found = {name: (each.key, each.prompt + each.completion) for name, each in asked.items()}
    for record in records:
        tokens = record.prompt + record.completion
        key, known = found.get(record.id, (record.key.removeprefix("key:"), 0))
        found[record.id] = key, max(tokens, known)
    return found


def budgets_are_kept(asked: Mapping[str, Asked], records: Iterable[UsageRecord]) -> None:
    """Raise AssertionError if more was used than a limit allows."""
    of_key: Counter[str] = Counter()
    of_tenant: Counter[str] = Counter()
    of_minute: Counter[tuple[str, int]] = Counter()
    begun: Counter[tuple[str, int]] = Counter()
    for name, (key, tokens) in used(asked, records).items():
        if key not in KEYS:
            continue
        of_key[key] += tokens
        of_tenant[KEYS[key][0]] += tokens
        first, last = asked[name].minutes if name in asked else (0, 1)
        if first == last:  # otherwise its minute isn't known here
            of_minute[key, first] += tokens
            begun[key, first] += 1
    assert of_key["red-2"] <= 700
    assert of_key["blue-2"] <= 800
    assert of_tenant["red"] <= 2000
    assert of_tenant["blue"] <= 1500
    assert all(tokens <= 200 for (key, _), tokens in of_minute.items() if key == "blue-1")
    assert all(count <= 15 for (key, _), count in begun.items() if key == "red-1")


async def the_bill_is_right(
    cluster: Cluster, gateways: Gateways, asked: Mapping[str, Asked]
) -> list[UsageRecord]:
    """Raise AssertionError unless each answer is billed once, as its client counts it.

    Return the records.
    """
    whole = {name: each for name, each in asked.items() if each.whole}
    kept = {name for name, each in whole.items() if each.run not in gateways.killed}

    async def complete() -> bool:
        return kept <= {each.id for each in await recorded(cluster)}

    await cluster.poll(complete, "a record of each answer", PATIENCE)
    records = await recorded(cluster)
    of = {each.id: each for each in records}
    assert len(of) == len(records), "none is recorded twice"
    lost = Counter(each.run for name, each in whole.items() if name not in of)
    assert all(number <= LOST for number in lost.values())
    for name, each in whole.items():
        if name in of:
            assert (of[name].prompt, of[name].completion) == (each.prompt, each.completion)
            assert of[name].key.removeprefix("key:") == each.key or not each.key
            assert of[name].tenant == KEYS.get(each.key, ("", {}))[0]
    for by in ("key", "tenant"):
        sums: Counter[str] = Counter()
        for record in records:
            sums[getattr(record, by)] += record.prompt + record.completion
        shown = {line[by]: line["total_tokens"] for line in await bill(cluster, by)}
        assert shown == dict(sums)
    await roll_up(cluster)
    told = await cluster.nebula("usage", "--recompute", "--json")
    checked = json.loads(told.out)
    assert (told.code, checked["gone"], checked["differences"]) == (0, 0, [])
    assert checked["checked"] >= 1
    total = sum(each["total_tokens"] for each in await bill(cluster, "key"))
    assert total == sum(each.prompt + each.completion for each in records)
    return records


async def test_two_tenants_keep_their_budgets_and_their_bill_is_right_whatever_is_killed(
    own_cluster: Cluster,
) -> None:
    chance = random.Random(SEED)
    world = World(own_cluster, chance)
    await world.begin()
    secrets = {key: await world.secret(key) for key in KEYS} | {FREE: ""}
    clients = [
        Client(world.gateways, key, secrets[key], random.Random(SEED + number))
        for number, key in enumerate((FREE, *KEYS, *KEYS))
    ]
    enough = asyncio.Event()

    async def more() -> None:
        """Wait for further answers, which come to one client whatever budgets are spent."""
        before = clients[0].whole

        async def so() -> bool:
            return clients[0].whole > before + 3

        await own_cluster.poll(so, "further answers", 2 * PATIENCE)

    async def bites() -> bool:
        return set(BITING) <= {each for client in clients for each in client.refusals}

    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.work(enough))
        await more()
        for victim in chance.sample(DEATHS, len(DEATHS)):
            world.strike(victim)
            await more()
        await own_cluster.poll(bites, "each kind of limit is reached", 2 * PATIENCE)
        enough.set()
    asked = {name: each for client in clients for name, each in client.asked.items()}
    records = await the_bill_is_right(own_cluster, world.gateways, asked)
    budgets_are_kept(asked, records)
