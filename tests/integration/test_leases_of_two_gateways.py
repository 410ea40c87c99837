"""Two gateways with leases of the same replicas: what both send stays in bounds and in turn."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from nebula.events import bundles, envelope, piece_envelope, subjects
from nebula.events.inference import Piece
from nebula.events.record import parse_headers
from nebula.store.connection import Connection
from tests.integration.asking import CHAT, chat, error, said
from tests.integration.cluster import PATIENCE, Cluster
from tests.ports import free_port

pytestmark = pytest.mark.anyio

TO_CHAT = subjects.replica_requests("chat", "")
RESPONSES = subjects.responses("", "").rstrip(".") + "."
BUNDLES = subjects.bundles("", "", "").rstrip(".") + "."
LIMIT = 8
"""The requests that a replica may have at a time."""

SLOW = {"simulate-token": 0.02}


class Watch:
    """What replicas have of a model's requests, from the messages on their way to and from them.

    `sent`: each request's id, text, and gateway, "" if a router sent it. `most`: the most that the
    replicas had at a time.
    """

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, str]] = []
        self.queued: set[str] = set()
        self.most = 0
        self._running: set[str] = set()
        self._news = asyncio.Event()

    def hear(self, to: bytes, header: bytes, body: bytes) -> None:
        """Take a request to a replica, a piece of an answer, or a bundle of pieces."""
        subject = to.decode()
        if subject.startswith(BUNDLES):
            for identity, told, _size in bundles.pieces(header):
                self._answered(identity, told)
        elif subject.startswith(RESPONSES):
            head = piece_envelope.read_head(header)
            assert head is not None
            self._answered(subject.rpartition(".")[2], head)
        elif subject.startswith(TO_CHAT):
            headers = parse_headers(header)
            routed = envelope.read_routed(headers)
            assert routed is not None
            text = body.decode().partition('"content":"')[2].partition('"')[0]
            self.sent.append((headers[envelope.REQUEST], text, routed.gateway))
            self._running.add(headers[envelope.REQUEST])
            self.most = max(self.most, len(self._running))
        self._news.set()

    def _answered(self, identity: str, head: int | Piece) -> None:
        """Take a piece; one that is a number alone stands amid an answer."""
        if isinstance(head, int):
            return
        if head.end:
            self._running.discard(identity)
        if head.queued:
            self.queued.add(identity)

    @property
    def ways(self) -> Counter[str]:
        """How many requests each gateway sent directly, and routers (under "")."""
        return Counter(gateway for _, _, gateway in self.sent)

    @property
    def direct(self) -> set[str]:
        """The gateways that have sent requests directly."""
        return self.ways.keys() - {""}

    async def until(self, number: int) -> None:
        """Wait until so many requests were sent in all."""
        async with asyncio.timeout(PATIENCE):
            while len(self.sent) < number:
                self._news.clear()
                await self._news.wait()

    async def queues(self, number: int) -> None:
        """Wait until so many requests stood in a line in all."""
        async with asyncio.timeout(PATIENCE):
            while len(self.queued) < number:
                self._news.clear()
                await self._news.wait()


class Two:
    """A cluster with two gateways, and a client of each."""

    def __init__(self, cluster: Cluster, watch: Watch, *clients: httpx.AsyncClient) -> None:
        self.cluster = cluster
        self.watch = watch
        self.clients = clients

    async def asks(self, number: int, **fields: Any) -> None:
        """Ask so many times at once at each gateway; every request has to be answered."""
        body = chat("chat", **{"max_tokens": 1, **fields})
        asked = [http.post(CHAT, json=body) for http in self.clients for _ in range(number)]
        for answer in await asyncio.gather(*asked):
            assert answer.status_code == 200, answer.text

    async def both_lease(self) -> None:
        """Ask until both gateways send requests directly."""

        async def both() -> bool:
            self.watch.sent.clear()
            await self.asks(2)
            return len(self.watch.direct) == 2

        await self.cluster.poll(both, "both gateways send requests directly")

    @contextlib.asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Ask at both gateways all the time; every request has to be answered."""
        stop = asyncio.Event()

        async def goes_on() -> None:
            while not stop.is_set():
                await self.asks(2)

        going = asyncio.create_task(goes_on())
        try:
            yield
        finally:
            stop.set()
            await going


@pytest.fixture
def second() -> int:
    """The port of the second gateway."""
    return free_port()


@contextlib.asynccontextmanager
async def two_gateways(cluster: Cluster, second: int, **how: Any) -> AsyncIterator[Two]:
    """Start a cluster with two gateways and a model; both send requests directly."""
    cluster.start_all()
    cluster.start("gateway-2", "--port", str(second))
    await cluster.ready()
    await cluster.ready(second)
    await cluster.load("chat", max_in_flight=LIMIT, **how)
    connection = await Connection(cluster.url(), "test").open(patience=PATIENCE)
    watch = Watch()
    try:
        # A single subscription hears all in the order in which NATS passed it on.
        await connection.client.listen(subjects.INFERENCE, watch.hear)
        await connection.client.flush()
        async with cluster.http() as first, cluster.http(second) as other:
            two = Two(cluster, watch, first, other)
            await two.both_lease()
            yield two
    finally:
        await connection.close()


async def test_both_together_stay_within_what_a_replica_may_have(
    own_cluster: Cluster, second: int
) -> None:
    async with two_gateways(own_cluster, second, options=SLOW) as two:
        await two.asks(40, max_tokens=3)
        ways = two.watch.ways
        assert two.watch.most <= LIMIT
        assert ways[""], "what found no credit went through the router"


async def test_what_waits_goes_in_its_turn_and_nothing_passes_it_directly(
    own_cluster: Cluster, second: int
) -> None:
    async with two_gateways(own_cluster, second) as two:
        first, other = two.clients
        await two.cluster.tell_engine("chat-0", stall=True)
        two.watch.sent.clear()
        two.watch.queued.clear()

        def ask(http: httpx.AsyncClient, text: str, **how: Any) -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(
                http.post(CHAT, json=chat("chat", text, max_tokens=1, **how))
            )

        running = [ask(first, f"fills{number}") for number in range(LIMIT)]
        await two.watch.until(LIMIT)
        two.watch.queued.clear()
        waiting = []
        for number, (http, text, priority) in enumerate(
            ((other, "last", 9), (first, "second", 5), (other, "first", 1)), start=1
        ):
            waiting.append(ask(http, text, priority=priority))
            await two.watch.queues(number)
        await two.cluster.tell_engine("chat-0", stall=False)
        for answer in await asyncio.gather(*running, *waiting):
            assert said(answer)
        sent = two.watch.sent[LIMIT:]
        assert [(text, way) for _, text, way in sent] == [
            ("first", ""),
            ("second", ""),
            ("last", ""),
        ]
        await two.both_lease()


async def test_plans_may_change_and_nodes_be_drained_under_what_both_send(
    own_cluster: Cluster, second: int
) -> None:
    async with two_gateways(own_cluster, second) as two:
        cluster = two.cluster
        cluster.start("node-2", "--name", "there")
        await cluster.until(lambda state: len(state.nodes) == 2, "both nodes are there")
        async with two.busy():
            await cluster.load("chat", max_in_flight=LIMIT, replicas=2, options=SLOW)
            await cluster.until(
                lambda state: "chat-0" not in state.replicas,
                "a replica with the new options has taken its place",
            )
            assert (await cluster.nebula("drain", "here")).code == 0
            await cluster.until(
                lambda state: all(each.node == "there" for each in state.replicas.values()),
                "nothing is left on the node that is drained",
            )
        await two.both_lease()


async def test_a_request_that_went_directly_is_cancelled_at_either_gateway(
    own_cluster: Cluster, second: int
) -> None:
    async with two_gateways(own_cluster, second) as two:
        first, other = two.clients
        cluster = two.cluster

        async def runs(number: int) -> bool:
            return (await cluster.engine_says("chat-0"))["running"] == number

        async def goes_directly(
            http: httpx.AsyncClient,
        ) -> tuple[str, asyncio.Task[httpx.Response]]:
            """Ask for an answer that does not end; return the request once the engine has it."""
            while True:
                await two.both_lease()
                await cluster.tell_engine("chat-0", stall=True)
                two.watch.sent.clear()
                asking = asyncio.create_task(http.post(CHAT, json=chat("chat", max_tokens=9)))
                await two.watch.until(1)
                await cluster.poll(lambda: runs(1), "the engine has it")
                [(identity, _, gateway)] = two.watch.sent
                if gateway:
                    return identity, asking
                asking.cancel()  # its gateway's lease had ended just then
                await cluster.tell_engine("chat-0", stall=False)

        identity, asking = await goes_directly(first)
        assert (await other.delete(f"/admin/requests/{identity}")).status_code == 200
        assert "cancelled" in error(await asking, 409)["message"]
        await cluster.poll(lambda: runs(0), "the engine has it no more")
        await cluster.tell_engine("chat-0", stall=False)

        _, asking = await goes_directly(other)
        asking.cancel()  # its client leaves
        await cluster.poll(lambda: runs(0), "the engine has it no more")
        await cluster.tell_engine("chat-0", stall=False)
        await two.asks(2)
