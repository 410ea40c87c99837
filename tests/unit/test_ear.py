"""An ear notes which actors are heard, listens elsewhere when one is missed, and moves.

There is no NATS here: what is heard through another server is said by hand, and the clock is set.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence, Set
from typing import Any, cast

import pytest

from nebula.actors import ear
from nebula.actors.ear import ABSENT, Ear
from nebula.events import subjects
from nebula.events.state import EMPTY, State
from nebula.store import elsewhere
from nebula.store.reach import Reach

pytestmark = pytest.mark.anyio

ROUTER = subjects.router_status("router-1")
ENGINE = subjects.replica_status("chat", "chat-0")
NODE = subjects.node_status("n1")


class Nats:
    """Stands where the connection and its client stand."""

    name, server = "gateway", "a:4222"

    def __init__(self) -> None:
        self.client = self
        self.connected = self.in_cluster = True
        self.others: tuple[str, ...] = ("b:4222", "c:4222")
        self.there: dict[str, Sequence[str] | None] = {"b:4222": (), "c:4222": ()}
        self.asked: list[str] = []
        self.moves: list[str] = []
        self._back: list[Callable[[], Awaitable[None]]] = []

    def on_reconnect(self, listener: Callable[[], Awaitable[None]]) -> None:
        self._back.append(listener)

    async def move(self, server: str, _: str) -> None:
        self.moves.append(server)
        for listener in self._back:
            await listener()

    async def listen(
        self, _: object, server: str, __: object, enough: Callable[[Set[bytes]], bool]
    ) -> tuple[frozenset[bytes], bool] | None:
        """What `elsewhere.listen` does: forever at a server that does not answer (None)."""
        self.asked.append(server)
        heard = self.there[server]
        if heard is None:
            await asyncio.Event().wait()
        found = frozenset(each.encode() for each in heard or ())
        enough(found)
        return found, True


class Bench:
    """An ear, and its clock."""

    def __init__(self, nats: Nats, *expected: str, **options: Any) -> None:
        self.nats = nats
        self._loop = asyncio.get_running_loop()
        self._time, self._ahead = self._loop.time, 0.0
        self._loop.time = lambda: self._time() + self._ahead  # type: ignore[method-assign]
        wanted = [each.encode() for each in expected]
        self.ear = Ear(cast("Any", nats), lambda: EMPTY, lambda _: wanted, **options)
        self.hears = self.ear.noting("nebula.status.>")

    async def later(self, seconds: float, *heard: str) -> None:
        """Let time pass, second by second, in which some are heard."""
        for _ in range(int(seconds)):
            self._ahead += 1
            for each in heard:
                self.hears(each.encode(), b"", b"")
            await self.ear._look()

    async def stands_still(self, seconds: float) -> None:
        self._ahead += seconds
        await self.ear._look()

    def end(self) -> None:
        self._loop.time = self._time  # type: ignore[method-assign]


Make = Callable[..., Awaitable[Bench]]


@pytest.fixture
async def make(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    made: list[Bench] = []

    async def make(*expected: str, **options: Any) -> Bench:
        nats = Nats()

        async def reached(_: object) -> Reach:
            return Reach()

        monkeypatch.setattr(elsewhere, "listen", nats.listen)
        monkeypatch.setattr(ear, "reach", reached)
        bench = Bench(nats, *expected, **options)
        nats.on_reconnect(bench.ear._restart)
        made.append(bench)
        await bench.ear._restart()
        return bench

    yield make
    for bench in made:
        bench.end()


async def test_an_actor_that_hears_all_that_live_stays_and_listens_nowhere(make: Make) -> None:
    bench = await make(ENGINE)
    await bench.later(60, ENGINE, ROUTER)
    assert bench.nats.asked == []
    assert bench.ear.told() == ""


async def test_an_actor_that_misses_an_engine_heard_elsewhere_moves_there_once(make: Make) -> None:
    bench = await make(ENGINE)
    bench.nats.there["c:4222"] = (ENGINE, ROUTER)
    await bench.later(4, ROUTER)
    assert bench.nats.moves == []
    await bench.later(2, ROUTER)
    assert bench.nats.moves == ["c:4222"]
    await bench.later(60, ENGINE, ROUTER)
    assert bench.nats.moves == ["c:4222"]


async def test_an_actor_that_is_heard_nowhere_moves_none_and_is_told(make: Make) -> None:
    bench = await make(ENGINE, NODE)
    bench.nats.there = dict.fromkeys(bench.nats.others, (ROUTER, NODE))
    await bench.later(300, ROUTER, NODE)
    assert bench.nats.moves == []
    assert len(bench.nats.asked) <= 2 * 6
    assert bench.ear.told() == "not heard at a:4222: chat-0"


async def test_a_server_that_does_not_answer_delays_no_move(make: Make) -> None:
    bench = await make(ENGINE)
    bench.nats.there = {"b:4222": None, "c:4222": (ENGINE, ROUTER)}
    async with asyncio.timeout(60):
        await bench.later(6, ROUTER)
    assert bench.nats.moves == ["c:4222"]


async def test_an_actor_that_needs_any_router_moves_to_one(make: Make) -> None:
    bench = await make()
    bench.nats.there["b:4222"] = (ROUTER,)
    await bench.later(10)
    assert bench.nats.moves == ["b:4222"]


async def test_an_actor_that_needs_any_router_is_content_with_one(make: Make) -> None:
    bench = await make()
    other = subjects.router_status("router-2")
    bench.nats.there["b:4222"] = (ROUTER, other)
    await bench.later(10, ROUTER, other)
    await bench.later(100, ROUTER)
    assert bench.nats.asked == []


async def test_an_actor_that_needs_each_router_misses_one_for_a_minute(make: Make) -> None:
    bench = await make(each_router=True)
    other = subjects.router_status("router-2")
    await bench.later(10, ROUTER, other)
    await bench.later(30, ROUTER)
    assert bench.ear.told() == "not heard at a:4222: router-2"
    await bench.later(60, ROUTER)
    assert bench.ear.told() == ""


async def test_a_routers_own_heartbeat_counts_nowhere(make: Make) -> None:
    bench = await make(ENGINE, each_router=True, any_router=False, own=ROUTER)
    bench.nats.there = dict.fromkeys(bench.nats.others, (ROUTER,))
    await bench.later(100)
    assert bench.nats.moves == []


async def test_a_process_that_stood_still_itself_counts_none_as_silent(make: Make) -> None:
    bench = await make(ENGINE)
    await bench.later(3, ENGINE, ROUTER)
    await bench.stands_still(ABSENT + 30)
    await bench.later(4, ROUTER)
    assert bench.nats.asked == []


async def test_one_that_is_new_to_the_log_has_its_time_to_be_heard(make: Make) -> None:
    known: list[bytes] = []
    bench = await make()
    states = iter(State(seq=seq) for seq in range(1000))
    bench.ear._state = lambda: next(states)
    bench.ear._expected = lambda _: known
    await bench.later(20, ROUTER)
    known.append(ENGINE.encode())
    await bench.later(5, ROUTER)
    assert bench.nats.asked == []
    await bench.later(2, ROUTER)
    assert bench.nats.asked == ["b:4222", "c:4222"]


@pytest.mark.parametrize("in_cluster", [True, False])
async def test_where_no_other_server_is_known_that_is_said_once_of_a_cluster(
    make: Make, caplog: pytest.LogCaptureFixture, in_cluster: bool
) -> None:
    bench = await make(ENGINE)
    bench.nats.others, bench.nats.in_cluster = (), in_cluster
    with caplog.at_level(logging.WARNING):
        await bench.later(200, ROUTER)
    told = "gateway: not heard at a:4222: chat-0, and no other server is known"
    assert [record.getMessage() for record in caplog.records] == [told] * in_cluster
