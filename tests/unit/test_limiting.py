"""The shell around allowances, in virtual time."""

import asyncio
import random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nebula.actors.gateway.allowance import settle
from nebula.actors.gateway.limiting import PATIENCE, TICK, Exceeded, Limited, Limiting
from nebula.events.ledger import EXPIRES, Account, Meter
from nebula.store.connection import Unavailable
from nebula.store.ledger import LedgerStore
from tests.simulation.jetstream import Link, Server
from tests.simulation.virtual_loop import run


class NoLeader:
    """A stream of accounts that refuses at once, as a server without a leader does."""

    def __init__(self) -> None:
        self.asked = 0

    async def open(self) -> float:
        return 1_790_000_000.0

    async def read(self, _: str, __: str) -> tuple[Account, int]:
        self.asked += 1
        if self.asked > 1000:  # asked without a pause: let time pass all the same
            await asyncio.sleep(PATIENCE)
        raise Unavailable("stream NEBULA_LEDGER has no leader now")


def test_accounts_that_refuse_at_once_are_not_asked_without_a_pause() -> None:
    store = NoLeader()

    async def listen(*_: object) -> None:
        return None

    connection = cast("Any", SimpleNamespace(client=SimpleNamespace(listen=listen)))

    async def ask() -> float:
        limiting = Limiting(connection, cast("Any", store))
        began = asyncio.get_running_loop().time()
        with pytest.raises(Unavailable, match="no leader"):
            await limiting.obtain([Limited(("key", "k"), {Meter.REQUESTS: 5})], 0)
        return asyncio.get_running_loop().time() - began

    assert run(ask()) <= PATIENCE + 2 * TICK
    assert 1 < store.asked <= PATIENCE / TICK + 1


@pytest.mark.parametrize("pause", [0.1, 1.0, 900.0])
def test_what_a_killed_gateway_had_in_flight_is_free_again_for_a_key_that_asks_seldom(
    pause: float,
) -> None:
    one: dict[str, int] = {Meter.IN_FLIGHT: 1}
    limited = [Limited(("key", "k"), one)]

    async def ask() -> float:
        server = Server(1_790_000_000.0)

        def gateway() -> tuple[Link, Limiting]:
            link = Link(server, random.Random(0), 0.0)
            return link, Limiting(cast("Any", link), LedgerStore(cast("Any", link)))

        dead, killed = gateway()
        await killed.obtain(limited, 0)
        dead.alive = False
        _, other = gateway()
        reporting = asyncio.create_task(other.run())
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(1000):
            while True:
                try:
                    await other.obtain(limited, 0)
                    reporting.cancel()
                    return asyncio.get_running_loop().time() - began
                except Exceeded:
                    await asyncio.sleep(pause)

    assert run(ask()) <= EXPIRES + pause + PATIENCE


@pytest.mark.parametrize("gateways", [1, 2, 5])
def test_gateways_whose_requests_come_evenly_seldom_ask_for_more(gateways: int) -> None:
    far: dict[str, int] = {Meter.REQUESTS: 10**9, Meter.TOKENS: 10**9, Meter.IN_FLIGHT: 10**6}
    seconds, between, tokens = 130.0, 0.02, 30

    async def requests(limiting: Limiting, limited: list[Limited]) -> int:
        """Have them come for two minutes, and return how many had to be asked for."""
        asked = 0
        for _ in range(int(seconds / between)):
            reserved = limiting.reserve(limited, tokens)
            if reserved is None:
                asked += 1
                reserved = await limiting.obtain(limited, tokens)
            await asyncio.sleep(between)
            settle(reserved, tokens // 2)
        return asked

    async def ask() -> int:
        server, chance = Server(1_790_000_000.0), random.Random(0)
        links = [cast("Any", Link(server, chance, 0.0)) for _ in range(gateways)]
        each = [Limiting(link, LedgerStore(link)) for link in links]
        reporting = [asyncio.create_task(limiting.run()) for limiting in each]
        limited = [Limited(("key", "k"), far)]
        asked = await asyncio.gather(*(requests(limiting, limited) for limiting in each))
        for task in reporting:
            task.cancel()
        return max(asked)

    assert run(ask()) <= 12  # at the start, and when a new minute begins
