"""Gateways with leases: requests go straight to replicas, and none is lost when an actor dies."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator

import nats
import pytest
from nats.aio.msg import Msg

from nebula.events import envelope, subjects
from tests.integration.asking import CHAT, chat, said
from tests.integration.cluster import PATIENCE, Cluster
from tests.integration.test_metrics import scrape, value

pytestmark = pytest.mark.anyio


class Sent:
    """What was sent to replicas: the ids of the requests that a gateway sent itself, and others."""

    def __init__(self) -> None:
        self.directly: list[str] = []
        self.by_routers: list[str] = []
        self._newest = ""
        self._came = asyncio.Event()

    async def another(self) -> str:
        """Wait until a gateway sends one more itself; return the replica that it is for."""
        self._came.clear()
        await asyncio.wait_for(self._came.wait(), PATIENCE)
        return self._newest

    async def hear(self, message: Msg) -> None:
        """Take a request on its way to a replica."""
        headers = message.headers or {}
        routed = envelope.read_routed(headers)
        assert routed is not None
        assert headers[envelope.PLAN] == "1"
        to = self.directly if routed.gateway else self.by_routers
        to.append(headers[envelope.REQUEST])
        if routed.gateway:
            self._newest = message.subject.rpartition(".")[2]
            self._came.set()


async def asks(cluster: Cluster, number: int, model: str = "chat") -> None:
    """Ask so many times at once; every request has to be answered."""
    async with cluster.http() as http:
        asked = [http.post(CHAT, json=chat(model, max_tokens=1)) for _ in range(number)]
        assert [said(each) for each in await asyncio.gather(*asked)] == ["hello"] * number


async def go_directly(cluster: Cluster, sent: Sent) -> None:
    """Ask until the gateway sends requests itself."""

    async def directly() -> bool:
        before = len(sent.directly)
        await asks(cluster, 2)
        return len(sent.directly) > before

    await cluster.poll(directly, "a gateway sends requests itself")


@contextlib.asynccontextmanager
async def leasing(cluster: Cluster, replicas: int = 1) -> AsyncIterator[Sent]:
    """Start a cluster whose gateway asks for leases, with a model; yield what replicas are sent."""
    cluster.start_all()
    await cluster.ready()
    await cluster.load("chat", replicas=replicas)
    client = await nats.connect(cluster.url())
    sent = Sent()
    try:
        await client.subscribe(subjects.replica_requests("chat", "*"), cb=sent.hear)
        yield sent
    finally:
        await client.close()


async def test_requests_go_directly_and_their_story_says_so(own_cluster: Cluster) -> None:
    async with leasing(own_cluster) as sent:
        await go_directly(own_cluster, sent)
        assert sent.by_routers, "the first request went through a router"
        orders: dict[str, str] = {}

        async def directly() -> bool:
            """Ask under an id of the caller's own; return whether no router had the request."""
            before, own = len(sent.directly), f"order-{len(orders)}"
            orders[own] = ""
            async with own_cluster.http() as http:
                wish = chat("chat", max_tokens=1)
                assert said(await http.post(CHAT, json=wish, headers={"x-request-id": own}))
            orders[own] = sent.directly[-1]
            return len(sent.directly) > before

        await own_cluster.poll(directly, "a request with an id of its caller's goes directly")
        for identity in orders.popitem():
            told = await own_cluster.nebula("why", "request", identity)
            assert f"request {sent.directly[-1]}: answered: HTTP 200" in told.out
            assert "asked for model chat" in told.out
            assert "sent it to chat-0 itself, under a lease of router-" in told.out


async def test_direct_requests_are_counted_and_have_waited_for_no_time(
    own_cluster: Cluster,
) -> None:
    async with leasing(own_cluster) as sent:
        await go_directly(own_cluster, sent)

        async with own_cluster.http() as http:

            async def all_told() -> bool:
                found = await scrape(http, "/metrics/cluster")
                waits = value(found, "nebula_queue_wait_seconds", model="chat")
                return waits == len(sent.directly) + len(sent.by_routers)

            await own_cluster.poll(all_told, "a router has been told of the direct requests")
            found = await scrape(http)
        for way, ids in (("direct", sent.directly), ("router", sent.by_routers)):
            assert value(found, "nebula_requests_sent_total", model="chat", way=way) == len(ids)


async def test_a_router_that_is_killed_takes_no_request_with_it_and_another_one_lends(
    own_cluster: Cluster,
) -> None:
    async with leasing(own_cluster) as sent:
        await go_directly(own_cluster, sent)
        own_cluster.kill("router")
        own_cluster.start("router-2")
        await asks(own_cluster, 4)
        await go_directly(own_cluster, sent)
        # No router is needed while a lease lasts, and none is lost when it has ended.
        assert len(set(sent.directly)) == len(sent.directly)


async def test_a_replica_that_is_killed_amid_direct_requests_loses_none_of_them(
    own_cluster: Cluster,
) -> None:
    async with leasing(own_cluster, replicas=2) as sent:
        await go_directly(own_cluster, sent)
        engines = {each: await own_cluster.engine(each) for each in ("chat-0", "chat-1")}
        dead = asyncio.Event()
        statuses: list[int] = []
        async with own_cluster.http() as http:

            async def keep_asking() -> None:
                """Ask again and again: a lease may end before a request goes directly."""
                while not dead.is_set():
                    answer = await http.post(CHAT, json=chat("chat", max_tokens=40))
                    statuses.append(answer.status_code)

            async with asyncio.TaskGroup() as asking:
                for _ in range(8):
                    asking.create_task(keep_asking())
                os.kill(engines[await sent.another()].pid, signal.SIGKILL)
                dead.set()
        assert set(statuses) == {200}
        assert len(statuses) >= 8
