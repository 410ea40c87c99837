"""Requests queue for a replica: which goes when, which is refused, and that none is lost.

An engine that is stalled has its fill, so that what comes after it lines up; then it goes on. The
order in which requests leave the line is read where a router sends them: on NATS.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import nats
import pytest
from nats.aio.client import Client
from nats.aio.subscription import Subscription

from nebula.events import piece_envelope, subjects
from nebula.events.heartbeats import ReplicaHeartbeat, RouterHeartbeat
from tests.integration.asking import CHAT, chat, error, said
from tests.integration.cluster import PATIENCE, Cluster

pytestmark = pytest.mark.anyio

ONE_AT_A_TIME: dict[str, Any] = {"max_in_flight": 1, "memory": "64MiB"}


class Ear:
    """Hears on NATS what routers do with the requests for one model."""

    def __init__(self, client: Client, queued: Subscription, sent: Subscription) -> None:
        self.client = client
        self._queued = queued
        self._sent = sent

    async def queued(self) -> str:
        """Wait until a router says that a request stands in its line; give that router."""
        while True:
            message = await self._queued.next_msg(PATIENCE)
            piece = piece_envelope.read(message.headers, message.data)
            if piece is not None and piece.queued:
                return piece.queued

    async def sent(self, number: int = 1) -> list[tuple[str, str]]:
        """Wait for so many requests that are sent to replicas: each its replica and its text."""
        found = []
        for _ in range(number):
            message = await self._sent.next_msg(PATIENCE)
            text = json.loads(message.data)["messages"][0]["content"]
            found.append((message.subject.rpartition(".")[2], text))
        return found


async def next_status(statuses: Subscription) -> RouterHeartbeat:
    return msgspec.json.decode((await statuses.next_msg(PATIENCE)).data, type=RouterHeartbeat)


async def next_beat(beats: Subscription) -> ReplicaHeartbeat:
    return msgspec.json.decode((await beats.next_msg(PATIENCE)).data, type=ReplicaHeartbeat)


@contextlib.asynccontextmanager
async def ear(cluster: Cluster, model: str) -> AsyncIterator[Ear]:
    client = await nats.connect(cluster.url())
    try:
        queued = await client.subscribe(subjects.responses("*", "*"))
        sent = await client.subscribe(subjects.replica_requests(model, "*"))
        await client.flush()
        yield Ear(client, queued, sent)
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def busy(
    cluster: Cluster, http: httpx.AsyncClient, hearing: Ear, model: str
) -> AsyncIterator[None]:
    """Have the model's only replica work on one request, until the block is left."""
    await cluster.tell_engine(f"{model}-0", stall=True)
    first = asyncio.create_task(http.post(CHAT, json=chat(model, "first", max_tokens=1)))
    assert await hearing.sent() == [(f"{model}-0", "first")]
    yield
    await cluster.tell_engine(f"{model}-0", stall=False)
    assert said(await first) == "first"


async def lines_up(
    hearing: Ear, http: httpx.AsyncClient, model: str, text: str, **how: Any
) -> "asyncio.Task[httpx.Response]":
    """Ask for an answer and wait until the request stands in line."""
    headers = {"Authorization": f"Bearer {how.pop('key', 'somebody')}"}
    body = chat(model, text, max_tokens=1, **how)
    asking = asyncio.create_task(http.post(CHAT, json=body, headers=headers))
    await hearing.queued()
    return asking


async def test_requests_of_one_user_go_in_the_order_in_which_they_came(cluster: Cluster) -> None:
    await cluster.ready()
    await cluster.load("order", **ONE_AT_A_TIME)
    texts = [f"word{number}" for number in range(8)]
    async with cluster.http() as http, ear(cluster, "order") as hearing:
        async with busy(cluster, http, hearing, "order"):
            tasks = [await lines_up(hearing, http, "order", text) for text in texts]
        answers = await asyncio.gather(*tasks)
        assert [said(answer) for answer in answers] == texts
        assert [text for _, text in await hearing.sent(8)] == texts


async def test_a_user_with_many_requests_holds_another_up_by_one(cluster: Cluster) -> None:
    await cluster.ready()
    await cluster.load("fair", **ONE_AT_A_TIME)
    async with cluster.http() as http, ear(cluster, "fair") as hearing:
        async with busy(cluster, http, hearing, "fair"):
            tasks = [
                await lines_up(hearing, http, "fair", f"many{n}", key="many") for n in range(6)
            ]
            tasks += [await lines_up(hearing, http, "fair", f"few{n}", key="few") for n in range(2)]
        await asyncio.gather(*tasks)
        order = [text for _, text in await hearing.sent(8)]
    assert order == ["many0", "few0", "many1", "few1", "many2", "many3", "many4", "many5"]


async def test_users_of_one_key_hold_each_other_up_by_one(cluster: Cluster) -> None:
    await cluster.ready()
    await cluster.load("house", **ONE_AT_A_TIME)
    async with cluster.http() as http, ear(cluster, "house") as hearing:
        async with busy(cluster, http, hearing, "house"):
            tasks = [
                await lines_up(hearing, http, "house", text, key="house", **told)
                for text, told in (
                    ("many0", {"user": "many"}),
                    ("many1", {"user": "many"}),
                    ("few0", {"user": "few"}),
                    ("many2", {"user": "many"}),
                    ("new0", {"safety_identifier": "new"}),
                )
            ]
            # A key that names many users has one turn all the same.
            tasks.append(await lines_up(hearing, http, "house", "other0", key="other"))
        await asyncio.gather(*tasks)
        order = [text for _, text in await hearing.sent(6)]
    assert order == ["many0", "other0", "few0", "new0", "many1", "many2"]


async def test_the_lower_priority_number_goes_first(cluster: Cluster) -> None:
    await cluster.ready()
    await cluster.load("rank", **ONE_AT_A_TIME)
    async with cluster.http() as http, ear(cluster, "rank") as hearing:
        async with busy(cluster, http, hearing, "rank"):
            tasks = [
                await lines_up(hearing, http, "rank", f"p{priority}", priority=priority)
                for priority in (5, 0, -3, 1)
            ]
        await asyncio.gather(*tasks)
        assert [text for _, text in await hearing.sent(4)] == ["p-3", "p0", "p1", "p5"]


async def test_more_than_may_wait_are_told_to_come_again(cluster: Cluster) -> None:
    await cluster.ready()
    await cluster.load("small", max_waiting=2, **ONE_AT_A_TIME)
    async with cluster.http() as http, ear(cluster, "small") as hearing:
        async with busy(cluster, http, hearing, "small"):
            tasks = [await lines_up(hearing, http, "small", "waits") for _ in range(2)]
            for stream in (False, True):
                answer = await http.post(CHAT, json=chat("small", stream=stream))
                told = error(answer, 429)
                assert told["message"] == "model 'small' is busy: 2 requests wait already"
                assert (told["type"], told["code"]) == ("rate_limit_error", "queue_full")
                assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert [said(answer) for answer in await asyncio.gather(*tasks)] == ["waits"] * 2
        assert said(await http.post(CHAT, json=chat("small", max_tokens=1))) == "hello"


async def test_a_client_that_leaves_leaves_the_line_too(cluster: Cluster) -> None:
    await cluster.ready()
    await cluster.load("left", max_waiting=1, **ONE_AT_A_TIME)
    async with cluster.http() as http, ear(cluster, "left") as hearing:
        async with busy(cluster, http, hearing, "left"):
            gone = await lines_up(hearing, http, "left", "gone")
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)

            async def there_is_room() -> bool:
                waits = asyncio.create_task(http.post(CHAT, json=chat("left", max_tokens=1)))
                done, _ = await asyncio.wait((waits,), timeout=0.5)
                tasks.append(waits)
                return not done

            tasks: list[asyncio.Task[httpx.Response]] = []
            await cluster.poll(there_is_room, "there is room in the line again")
        assert said(await tasks[-1]) == "hello"
        assert [text for _, text in await hearing.sent()] == ["hello"]


async def test_while_a_model_loads_requests_wait_and_are_then_answered(cluster: Cluster) -> None:
    await cluster.ready()
    await cluster.load("coming", options={"simulate-start": 2}, memory="64MiB", stands="")
    async with cluster.http() as http:
        answers = await asyncio.gather(
            *(http.post(CHAT, json=chat("coming", f"w{n}", max_tokens=1)) for n in range(20))
        )
    assert [said(answer) for answer in answers] == [f"w{n}" for n in range(20)]


async def test_the_depth_of_the_line_is_heard_on_nats(cluster: Cluster) -> None:
    await cluster.ready()
    await cluster.load("deep", **ONE_AT_A_TIME)

    async def until(statuses: Subscription, waiting: int) -> RouterHeartbeat:
        async with asyncio.timeout(PATIENCE):
            while True:
                status = await next_status(statuses)
                queue = status.queues.get("deep")
                if (queue.waiting if queue is not None else 0) == waiting:
                    return status

    async with cluster.http() as http, ear(cluster, "deep") as hearing:
        async with busy(cluster, http, hearing, "deep"):
            statuses = await hearing.client.subscribe(subjects.ROUTER_STATUS)
            tasks = [await lines_up(hearing, http, "deep", "waits") for _ in range(3)]
            status = await until(statuses, 3)
            assert status.router.startswith("router-")
            assert 0 < status.queues["deep"].oldest < PATIENCE
        await asyncio.gather(*tasks)
        assert "deep" not in (await until(statuses, 0)).queues


async def test_prompts_that_begin_alike_meet_on_the_same_replica(cluster: Cluster) -> None:
    await cluster.ready()
    await cluster.load("groups", replicas=2, memory="64MiB")
    async with cluster.http() as http, ear(cluster, "groups") as hearing:
        where: dict[int, set[str]] = {group: set() for group in range(8)}
        for turn in range(4):
            for group, replicas in where.items():
                body = chat("groups", f"group{group} " * 60 + f"turn {turn}", max_tokens=1)
                assert said(await http.post(CHAT, json=body)) == f"group{group}"
                [(replica, _)] = await hearing.sent()
                replicas.add(replica)
    assert all(len(replicas) == 1 for replicas in where.values()), where
    assert set.union(*where.values()) == {"groups-0", "groups-1"}, "the groups are shared out"


async def test_one_prompt_for_all_does_not_keep_a_replica_idle(cluster: Cluster) -> None:
    await cluster.ready()
    slow = {"simulate-first-token": 0.5}
    await cluster.load("crowd", replicas=2, memory="64MiB", options=slow)
    async with cluster.http() as http:
        body = chat("crowd", "the same " * 60, max_tokens=1)
        await http.post(CHAT, json=body)
        answers = await asyncio.gather(*(http.post(CHAT, json=body) for _ in range(40)))
        assert [said(answer) for answer in answers] == ["the"] * 40
    finished = [(await cluster.engine_says(f"crowd-{n}"))["finished"] for n in range(2)]
    assert sum(finished) == 41
    assert min(finished) >= 10


async def test_a_replica_that_stands_still_is_avoided_and_used_again_when_it_goes_on(
    cluster: Cluster,
) -> None:
    await cluster.ready()
    await cluster.load("still", replicas=2, memory="64MiB")
    await cluster.tell_engine("still-0", stall=True)

    async def ask(http: httpx.AsyncClient, number: int) -> list[asyncio.Task[httpx.Response]]:
        return [
            asyncio.create_task(http.post(CHAT, json=chat("still", f"w{n}", max_tokens=1)))
            for n in range(number)
        ]

    async with cluster.http() as http, ear(cluster, "still") as hearing:
        http.timeout = httpx.Timeout(60)
        held = await ask(http, 10)
        assert {replica for replica, _ in await hearing.sent(10)} == {"still-0", "still-1"}
        beats = await hearing.client.subscribe(subjects.replica_status("still", "still-0"))
        stalled = 0.0
        while stalled < 15:
            beat = await next_beat(beats)
            stalled = beat.stalled

        answers = await asyncio.gather(*await ask(http, 20))
        assert [said(answer) for answer in answers] == [f"w{n}" for n in range(20)]
        assert {replica for replica, _ in await hearing.sent(20)} == {"still-1"}

        await cluster.tell_engine("still-0", stall=False)
        assert [said(answer) for answer in await asyncio.gather(*held)] == [
            f"w{n}" for n in range(10)
        ]
        while beat.stalled or beat.running:
            beat = await next_beat(beats)
        await asyncio.gather(*await ask(http, 20))
        assert {replica for replica, _ in await hearing.sent(20)} == {"still-0", "still-1"}


# Routers that go


async def in_line(
    cluster: Cluster, http: httpx.AsyncClient, hearing: Ear, model: str
) -> tuple[list["asyncio.Task[httpx.Response]"], list[str]]:
    """Ask for one answer that stalls in the engine and for ten that wait; give all, and texts."""
    await cluster.tell_engine(f"{model}-0", stall=True)
    tasks = [asyncio.create_task(http.post(CHAT, json=chat(model, "first", max_tokens=1)))]
    await hearing.sent()

    async def it_runs() -> bool:
        return (await cluster.engine_says(f"{model}-0"))["running"] >= 1

    await cluster.poll(it_runs, "the first one runs")
    texts = [f"w{number}" for number in range(10)]
    for text in texts:
        body = chat(model, text, max_tokens=1)
        tasks.append(asyncio.create_task(http.post(CHAT, json=body)))
    return tasks, ["first", *texts]


async def test_requests_in_line_and_in_flight_outlive_their_router(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.up()
    await cluster.ready()
    await cluster.load("chat", **ONE_AT_A_TIME)
    async with cluster.http() as http, ear(cluster, "chat") as hearing:
        tasks, texts = await in_line(cluster, http, hearing, "chat")
        for _ in range(10):
            await hearing.queued()
        cluster.kill("router")
        await cluster.tell_engine("chat-0", stall=False)
        answers = await asyncio.gather(*tasks)
        assert [said(answer) for answer in answers] == texts
    assert (await cluster.engine_says("chat-0"))["finished"] == 11, "none was answered twice"


async def test_two_routers_share_requests_and_either_takes_over_the_other_s(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    cluster.start_all()
    cluster.start("router-2")
    await cluster.ready()
    await cluster.load("chat", **ONE_AT_A_TIME)
    async with cluster.http() as http, ear(cluster, "chat") as hearing:
        statuses = await hearing.client.subscribe(subjects.ROUTER_STATUS)
        routers: set[str] = set()
        while len(routers) < 2:
            status = await next_status(statuses)
            routers.add(status.router)

        await cluster.tell_engine("chat-0", stall=True)
        texts = [f"w{number}" for number in range(30)]
        tasks = [
            asyncio.create_task(http.post(CHAT, json=chat("chat", text, max_tokens=1)))
            for text in texts
        ]
        holding = {await hearing.queued() for _ in range(20)}
        assert holding == routers

        cluster.kill("router-2")
        await cluster.tell_engine("chat-0", stall=False)
        answers = await asyncio.gather(*tasks)
        assert [said(answer) for answer in answers] == texts
    assert (await cluster.engine_says("chat-0"))["finished"] == 30


async def test_a_router_that_is_stopped_hands_its_line_over(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.start_all()
    await cluster.ready()
    await cluster.load("chat", **ONE_AT_A_TIME)
    async with cluster.http() as http, ear(cluster, "chat") as hearing:
        tasks, texts = await in_line(cluster, http, hearing, "chat")
        old = {await hearing.queued() for _ in range(10)}
        statuses = await hearing.client.subscribe(subjects.ROUTER_STATUS)
        cluster.start("router-2")
        status = await next_status(statuses)
        while status.router in old:
            status = await next_status(statuses)
        assert await asyncio.to_thread(cluster.stop, "router") == 0
        await cluster.tell_engine("chat-0", stall=False)
        answers = await asyncio.gather(*tasks)
        assert [said(answer) for answer in answers] == texts
    assert (await cluster.engine_says("chat-0"))["finished"] == 11
    assert "attempt 2" not in cluster.output("gateway"), "nothing had to be sent again"
