"""Routers that fall silent, or die: requests go to the living ones, and none waits for long."""

import asyncio
import contextlib
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import nats
import pytest
from nats.aio.client import Client
from nats.aio.subscription import Subscription

from nebula.events import subjects
from nebula.events.heartbeats import RouterHeartbeat
from nebula.store.server import binary
from tests.integration.asking import CHAT, chat, error, said
from tests.integration.cluster import PATIENCE, Cluster
from tests.ports import free_port

pytestmark = pytest.mark.anyio


@pytest.fixture
def own_cluster(own_cluster: Cluster) -> Cluster:
    """A cluster of one test's own, whose gateway sends all requests through routers."""
    own_cluster.variables["NEBULA_LEASES"] = "0"
    return own_cluster


async def routers_heard(client: Client, wanted: int) -> list[str]:
    """Wait until so many routers say that they can be addressed; give their names."""
    statuses = await client.subscribe(subjects.ROUTER_STATUS)
    names: list[str] = []
    while len(names) < wanted:
        status = msgspec.json.decode((await statuses.next_msg(PATIENCE)).data, type=RouterHeartbeat)
        if status.addressed and status.router not in names:
            names.append(status.router)
    await statuses.unsubscribe()
    return names


class Routed:
    """Which router was asked for what: the router that each request was sent to, "" for any."""

    def __init__(self, sent: Subscription) -> None:
        self._sent = sent

    async def now(self) -> Counter[str]:
        """Return how many requests each router was sent since this was last asked."""
        counts: Counter[str] = Counter()
        with contextlib.suppress(nats.errors.TimeoutError):
            while True:
                message = await self._sent.next_msg(0.2)
                tokens = message.subject.split(".")
                counts[tokens[4] if len(tokens) > 4 else ""] += 1
        return counts


@contextlib.asynccontextmanager
async def two_routers(cluster: Cluster) -> AsyncIterator[tuple[Routed, str, str]]:
    """Run a cluster with two routers; return the asked routers, the first and the second."""
    cluster.start_all()
    client = await nats.connect(cluster.url())
    try:
        (first,) = await routers_heard(client, 1)
        cluster.start("router-2")
        (second,) = set(await routers_heard(client, 2)) - {first}
        await cluster.ready()
        await cluster.load("chat")
        routed = Routed(await client.subscribe(subjects.ALL_REQUESTS))

        async def both_asked() -> bool:
            await asks(cluster, 2)
            return set(await routed.now()) == {first, second}

        await cluster.poll(both_asked, "the gateway has heard both routers")
        yield routed, first, second
    finally:
        await client.close()


async def asks(cluster: Cluster, number: int, *, pause: float = 0.0) -> None:
    """Ask one after the other; every request has to be answered."""
    async with cluster.http() as http:
        for _ in range(number):
            assert said(await http.post(CHAT, json=chat("chat", max_tokens=1))) == "hello"
            await asyncio.sleep(pause)


async def test_requests_are_shared_out_evenly(own_cluster: Cluster) -> None:
    async with two_routers(own_cluster) as (routed, first, second):
        await asks(own_cluster, 20)
        assert await routed.now() == {first: 10, second: 10}


async def test_a_router_that_stands_still_holds_up_one_request_and_gets_no_more_until_it_is_back(
    own_cluster: Cluster,
) -> None:
    async with two_routers(own_cluster) as (routed, first, second):
        pid = own_cluster.pid("router-2")
        os.kill(pid, signal.SIGSTOP)
        try:
            await asks(own_cluster, 2)
            assert (await routed.now())[second] == 1
            await asks(own_cluster, 30, pause=0.1)
            assert set(await routed.now()) == {first}
        finally:
            os.kill(pid, signal.SIGCONT)

        async def back() -> bool:
            await asks(own_cluster, 4)
            return (await routed.now())[second] > 0

        await own_cluster.poll(back, "the router is asked again")


async def test_a_router_that_is_killed_costs_no_request_and_is_not_asked_any_more(
    own_cluster: Cluster,
) -> None:
    async with two_routers(own_cluster) as (routed, first, second):
        own_cluster.kill("router-2")
        await asks(own_cluster, 20)
        assert (await routed.now())[second] <= 1
        await asks(own_cluster, 4)
        assert await routed.now() == {first: 4}


async def test_a_router_that_is_stopped_says_so_and_nothing_has_to_be_sent_again(
    own_cluster: Cluster,
) -> None:
    async with two_routers(own_cluster) as (routed, first, _):
        stopping = asyncio.create_task(asyncio.to_thread(own_cluster.stop, "router-2"))
        while not stopping.done():
            await asks(own_cluster, 5)
        assert await stopping == 0
        await routed.now()
        await asks(own_cluster, 4)
        assert await routed.now() == {first: 4}
        assert "attempt 2" not in own_cluster.output("gateway")


async def test_a_lone_router_that_stands_still_is_waited_for_and_named_when_it_was_in_vain(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    for name in ("nats", "router", "node"):
        cluster.start(name)
    cluster.start("gateway", "--load-timeout", "17")
    await cluster.ready()
    await cluster.load("chat")
    os.kill(cluster.pid("router"), signal.SIGSTOP)
    try:
        async with cluster.http() as http:
            answer = await http.post(CHAT, json=chat("chat", max_tokens=1))
        told = error(answer, 503)["message"]
        assert re.search(
            r"router-\w+, which it was sent to, has not been heard from for 1\d s", told
        )
        assert "may have been begun" in told
        client = await nats.connect(cluster.url())
        sent = await client.subscribe(subjects.ALL_REQUESTS)
        await client.flush()
        waits = asyncio.create_task(asks(cluster, 1))
        await sent.next_msg(PATIENCE)
        await client.close()
    finally:
        os.kill(cluster.pid("router"), signal.SIGCONT)
    await waits


class Servers(Cluster):
    """Three NATS servers, as three machines would have them."""

    def serve(self) -> list[str]:
        """Start the servers; give their addresses."""
        clients = [free_port() for _ in range(3)]
        routes = [free_port() for _ in range(3)]
        addresses = ", ".join(f"nats://127.0.0.1:{port}" for port in routes)
        for number, (client, route) in enumerate(zip(clients, routes, strict=True), start=1):
            config = self.folder / f"nats-{number}.conf"
            config.write_text(
                f'server_name: "n{number}"\nlisten: "127.0.0.1:{client}"\n'
                f'jetstream {{ store_dir: "{self.folder / f"jetstream-{number}"}" }}\n'
                f'cluster {{ name: "c", listen: "127.0.0.1:{route}", routes: [{addresses}] }}\n'
            )
            self._run(f"nats-{number}", [binary(), "-c", str(config)])
        return [f"nats://127.0.0.1:{port}" for port in clients]


async def test_a_server_that_vanishes_silently_with_a_router_takes_no_requests_of_the_others(
    tmp_path: Path,
) -> None:
    cluster = Servers(tmp_path)
    cluster.variables["NEBULA_LEASES"] = "0"
    try:
        here, _, there = cluster.serve()
        cluster.nats_url = here
        replicas = ("--stream-replicas", "3")
        for name in ("router", "node", "gateway"):
            cluster.start(name, *replicas)
        cluster.nats_url = there
        cluster.start("router-2", *replicas)
        cluster.nats_url = here
        client = await nats.connect(here)
        await routers_heard(client, 2)
        await cluster.ready()
        await cluster.load("chat")
        routed = Routed(await client.subscribe(subjects.ALL_REQUESTS))
        await asks(cluster, 4)
        assert len(await routed.now()) == 2

        os.kill(cluster.pid("nats-3"), signal.SIGSTOP)
        await asks(cluster, 2)
        await routed.now()
        await asks(cluster, 40, pause=0.1)
        *silent, living = sorted((await routed.now()).values())
        assert sum(silent) <= 1, "one may be drawn before the silence is noticed"
        assert living >= 39
        await client.close()
    finally:
        cluster.close()


async def test_a_lone_router_that_dies_is_followed_by_its_successor(own_cluster: Cluster) -> None:
    own_cluster.start_all()
    await own_cluster.ready()
    await own_cluster.load("chat")
    await asks(own_cluster, 2)
    own_cluster.kill("router")
    own_cluster.again("router")
    await asks(own_cluster, 2)
