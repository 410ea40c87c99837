"""The shell around allowances, in virtual time."""

import asyncio
import random
from types import SimpleNamespace
from typing import Any, cast

import pytest

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
