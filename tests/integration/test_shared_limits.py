"""Limits that several gateways share, on a real nats-server: exact, also when one dies."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from nebula.actors.actor import cancel
from nebula.actors.gateway.allowance import Reservation, settle
from nebula.actors.gateway.limiting import Exceeded, Limited, Limiting
from nebula.events.ledger import Meter
from nebula.store.connection import Connection
from nebula.store.ledger import LedgerStore
from tests.integration.cluster import PATIENCE, Cluster

pytestmark = pytest.mark.anyio

KEY = ("key", "k")


class Gateways:
    """Some gateways' sides of limits, each with a connection of its own."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.each: list[Limiting] = []
        self._connections: list[Connection] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, number: int) -> None:
        for _ in range(number):
            connection = await Connection(self._cluster.nats_url, "test").open(patience=PATIENCE)
            limiting = Limiting(connection, LedgerStore(connection))
            self._connections.append(connection)
            self.each.append(limiting)
            self._tasks.append(asyncio.create_task(limiting.run()))

    async def kill(self, at: int) -> None:
        await cancel([self._tasks[at]])
        await self._connections[at].close()

    async def close(self) -> None:
        await cancel(self._tasks)
        for connection in self._connections:
            await connection.close()

    async def take(self, at: int, limited: Limited, tokens: int) -> Reservation | None:
        """Return what a request reserves at a gateway; None if it is refused."""
        limiting, limits = self.each[at], [limited]
        reservation = limiting.reserve(limits, tokens)
        if reservation is not None:
            return reservation
        try:
            return await limiting.obtain(limits, tokens)
        except Exceeded:
            return None

    async def take_in_time(self, at: int, limited: Limited, tokens: int) -> Reservation:
        """Return what a request reserves at a gateway that tries again as clients do."""
        async with asyncio.timeout(PATIENCE):
            while True:
                reserved = await self.take(at, limited, tokens)
                if reserved is not None:
                    return reserved
                await asyncio.sleep(0.1)


@pytest.fixture
async def gateways(own_cluster: Cluster) -> AsyncIterator[Gateways]:
    own_cluster.start("nats")
    gateways = Gateways(own_cluster)
    yield gateways
    await gateways.close()


async def test_three_gateways_take_exactly_as_many_requests_as_a_day_allows(
    gateways: Gateways,
) -> None:
    await gateways.start(3)
    limited = Limited(KEY, {Meter.DAY: 100})

    async def ask(number: int) -> int:
        reserved = await gateways.take(number % 3, limited, 1)
        if reserved is None:
            return 0
        await asyncio.sleep(0.01)
        settle(reserved, 1)
        return 1

    taken = [sum(await asyncio.gather(*map(ask, range(60)))) for _ in range(4)]
    assert sum(taken) == 100
    assert taken[0] == 60


async def test_what_a_request_did_not_use_is_there_for_the_others(gateways: Gateways) -> None:
    await gateways.start(2)
    limited = Limited(KEY, {Meter.DAY: 100})
    first = await gateways.take(0, limited, 100)
    assert first is not None
    assert await gateways.take(1, limited, 10) is None
    settle(first, 30)
    second = await gateways.take_in_time(1, limited, 70)
    settle(second, 70)
    assert await gateways.take(0, limited, 1) is None


async def test_requests_in_flight_are_counted_across_gateways(gateways: Gateways) -> None:
    await gateways.start(2)
    limited = Limited(KEY, {Meter.IN_FLIGHT: 3})
    running = [await gateways.take(number % 2, limited, 0) for number in range(3)]
    assert all(running)
    assert await gateways.take(0, limited, 0) is None
    assert await gateways.take(1, limited, 0) is None
    assert running[0] is not None
    settle(running[0], 0)
    await gateways.take_in_time(1, limited, 0)
    assert await gateways.take(0, limited, 0) is None


async def test_what_a_killed_gateway_held_is_spent_and_its_requests_make_room(
    gateways: Gateways,
) -> None:
    await gateways.start(2)
    limited = Limited(KEY, {Meter.DAY: 100, Meter.IN_FLIGHT: 2})
    assert await gateways.take(0, limited, 40) is not None
    assert await gateways.take(0, limited, 40) is not None
    await gateways.kill(0)
    taken = 0
    settle(await gateways.take_in_time(1, limited, 10), 10)
    while (reserved := await gateways.take(1, limited, 10)) is not None:
        settle(reserved, 10)
        taken += 1
    assert taken <= 1


async def test_what_a_gateway_that_ends_has_not_used_is_there_at_once(gateways: Gateways) -> None:
    await gateways.start(2)
    limited = Limited(KEY, {Meter.DAY: 100, Meter.IN_FLIGHT: 1})
    first = await gateways.take(0, limited, 60)
    assert first is not None
    settle(first, 10)
    await gateways.each[0].give_back()
    await gateways.kill(0)
    rest = await gateways.take(1, limited, 90)
    assert rest is not None
    assert await gateways.take(1, limited, 1) is None


async def test_a_budget_outlives_a_restart_of_nats(
    gateways: Gateways, own_cluster: Cluster
) -> None:
    await gateways.start(2)
    limited = Limited(KEY, {Meter.MONTH: 50})
    spent = await gateways.take(0, limited, 50)
    assert spent is not None
    settle(spent, 50)
    await gateways.each[0].give_back()
    own_cluster.kill("nats")
    own_cluster.again("nats")
    await gateways.start(1)
    assert await gateways.take(2, limited, 1) is None


async def test_a_lowered_limit_holds_for_what_gateways_have_already(gateways: Gateways) -> None:
    await gateways.start(2)
    wide, narrow = Limited(KEY, {Meter.IN_FLIGHT: 20}), Limited(KEY, {Meter.IN_FLIGHT: 3})
    for reservation in [await gateways.take_in_time(at, wide, 0) for at in (0, 1) * 5]:
        settle(reservation, 1)
    taken = [await gateways.take(at, narrow, 0) for at in (0, 1) * 5]
    assert 0 < sum(each is not None for each in taken) <= 3
