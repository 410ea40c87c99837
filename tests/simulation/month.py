"""A month of two tenants in virtual time, with all that may die killed at random.

Gateways' own code keeps the limits, records what was used and sums it, on streams in memory. What
the gateways should have done is told from outside: by a calendar and by what engines reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast
from unittest import mock

from nebula.actors.gateway.allowance import settle
from nebula.actors.gateway.limiting import Exceeded, Limited, Limiting
from nebula.actors.gateway.usage_recording import UsageRecorder
from nebula.actors.gateway.usage_roll_up import UsageRollUp
from nebula.events.ledger import AT_A_TIME, Meter
from nebula.events.usage import UsageRecord
from nebula.store import inference_log
from nebula.store.connection import Unavailable
from nebula.store.ledger import LedgerStore
from nebula.store.log import Conflict
from tests.simulation import jetstream
from tests.simulation.jetstream import Link, Server
from tests.simulation.virtual_loop import run

BEGIN = datetime(2026, 11, 16, tzinfo=UTC).timestamp()
DAYS = 30
TIMES = (9 * 3600 + 0.3, 23 * 3600 + 59 * 60 + 30.1)
"""When work begins on each day: the last passes midnight."""

BUSY = 50.0
"""Seconds of work at each of these times."""

GATEWAYS = 3
LOSS = 0.02
PATH = "/v1/chat/completions"

TENANTS: dict[str, Limited] = {
    "red": Limited(("tenant", "red"), {Meter.MONTH: 120_000, Meter.DAY: 9_000}),
    "blue": Limited(("tenant", "blue"), {Meter.MONTH: 60_000, Meter.IN_FLIGHT: 6}),
}
KEYS: dict[str, tuple[str, Limited]] = {
    "red-1": ("red", Limited(("key", "red-1"), {Meter.REQUESTS: 12, Meter.TOKENS: 3_000})),
    "red-2": ("red", Limited(("key", "red-2"), {Meter.DAY: 4_000, Meter.IN_FLIGHT: 3})),
    "blue-1": ("blue", Limited(("key", "blue-1"), {Meter.REQUESTS: 20})),
    "blue-2": ("blue", Limited(("key", "blue-2"), {Meter.DAY: 2_000, Meter.TOKENS: 1_500})),
}
MODEL = Limited(("model", "chat"), {Meter.TOKENS: 6_000, Meter.IN_FLIGHT: 8})

Window = tuple[tuple[str, str], str, str]
"""A subject, a meter, and the minute, day or month of UTC."""


def calendar(meter: str, wall: float) -> str:
    """Return the minute, day or month of UTC that a time is in."""
    if meter in AT_A_TIME:
        return ""
    form = {Meter.MONTH: "%Y-%m", Meter.DAY: "%Y-%m-%d"}.get(Meter(meter), "%Y-%m-%dT%H:%M")
    return datetime.fromtimestamp(wall, UTC).strftime(form)


@dataclass
class Asked:
    """A request, and what an engine reports of it in the end. `most`: what it reserves."""

    id: str
    key: str
    most: int
    prompt: int
    completion: int
    resumable: bool

    @property
    def tokens(self) -> int:
        """All that it uses."""
        return self.prompt + self.completion


class Gateway:
    """One run of a gateway: its own code, on a connection of its own."""

    def __init__(self, name: str, link: Link) -> None:
        connection = cast("Any", link)
        self.name = name
        self.link = link
        self.limiting = Limiting(connection, LedgerStore(connection))
        self.recorder = UsageRecorder(connection, name, 1, cast("Any", None))
        self.summing = UsageRollUp(connection, cast("Any", None), self.recorder.store)
        self.recording = asyncio.create_task(self.recorder.run())
        self.reporting: asyncio.Task[None] | None = None
        self.requests: set[asyncio.Task[None]] = set()
        self.running = 0

    def wake(self) -> None:
        """Report what is used, from time to time."""
        if self.reporting is None:
            self.reporting = asyncio.create_task(self.limiting.run())

    async def rest(self) -> None:
        """Report nothing, while nothing is asked for."""
        if self.reporting is not None:
            self.reporting.cancel()
            await asyncio.gather(self.reporting, return_exceptions=True)
            self.reporting = None

    async def kill(self) -> None:
        """End all of it at once: nothing more reaches the server."""
        self.link.alive = False
        tasks = [*self.requests, self.recording, *self.limiting._tasks]
        tasks += [] if self.reporting is None else [self.reporting]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Figures:
    """What a month came to."""

    requests: int = 0
    refused: int = 0
    vain: int = 0
    unavailable: int = 0
    answered: dict[str, Asked] = field(default_factory=dict)
    ended: dict[str, tuple[float, Gateway]] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    excused: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    over: int = 0
    stated: int = 0


class Month:
    """The world: gateways, a router, engines and a NATS server, and their clients."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.server = Server(BEGIN)
        self.loss = LOSS
        self.gateways: list[Gateway] = []
        self.names = 0
        self.router = asyncio.Event()
        self.router.set()
        self.engines_died = 0
        self.used: Counter[Window] = Counter()
        self.beyond: Counter[Window] = Counter()
        self.in_flight: Counter[tuple[tuple[str, str], str]] = Counter()
        self.limits: dict[tuple[str, str], Mapping[str, int]] = {}
        self.figures = Figures()
        self.killed: dict[str, float] = {}
        self.returns: set[asyncio.Task[None]] = set()

    def now(self) -> float:
        """Return the virtual time."""
        return asyncio.get_running_loop().time()

    def begin_gateway(self) -> Gateway:
        """Start one more gateway."""
        self.names += 1
        gateway = Gateway(f"g{self.names}", Link(self.server, self.chance, self.loss))
        self.gateways.append(gateway)
        gateway.wake()
        return gateway

    # The month

    async def pass_by(self) -> None:
        """Let all of its days pass."""
        for _ in range(GATEWAYS):
            self.begin_gateway()
        for day in range(DAYS):
            for at in TIMES:
                await self._idle_until(day * 86_400 + at)
                await self._sum_up()
                await self._work()
        await self._calm_down()

    async def _idle_until(self, when: float) -> None:
        for gateway in self.gateways:
            await gateway.rest()
        await asyncio.sleep(when - self.now())
        for gateway in self.gateways:
            gateway.wake()

    async def _work(self) -> None:
        faults = asyncio.create_task(self._go_wrong())
        end = self.now() + BUSY
        tasks: list[asyncio.Task[None]] = []
        while self.now() < end:
            await asyncio.sleep(self.chance.expovariate(0.7))
            alive = [each for each in self.gateways if each.link.alive]
            if alive:
                gateway = self.chance.choice(alive)
                task = asyncio.create_task(self._ask(gateway, self._request()))
                gateway.requests.add(task)
                task.add_done_callback(gateway.requests.discard)
                tasks.append(task)
        faults.cancel()
        await asyncio.gather(faults, return_exceptions=True)
        self.server.up = True
        self.router.set()
        for done in await asyncio.gather(*tasks, *self.returns, return_exceptions=True):
            if isinstance(done, Exception):
                raise done
        await asyncio.sleep(10)

    def _request(self) -> Asked:
        self.figures.requests += 1
        prompt, length = self.chance.randrange(10, 200), self.chance.randrange(1, 400)
        guess = prompt if self.chance.random() < 0.9 else prompt // 2
        return Asked(
            f"r{self.figures.requests}",
            self.chance.choice(tuple(KEYS)),
            guess + length,
            prompt,
            self.chance.randrange(1, length + 1),
            self.chance.random() < 0.3,
        )

    async def _ask(self, gateway: Gateway, asked: Asked) -> None:
        tenant, of_key = KEYS[asked.key]
        limited = [of_key, TENANTS[tenant], MODEL]
        try:
            reservation = gateway.limiting.reserve(limited, asked.most)
            if reservation is None:
                reservation = await gateway.limiting.obtain(limited, asked.most)
        except Exceeded as error:
            self.figures.refused += 1
            self.figures.vain += error.retry_after <= 0
            return
        except Unavailable:
            self.figures.unavailable += 1
            return
        counts = self._count(gateway, limited, asked)
        try:
            await self._answer()
        except asyncio.CancelledError:
            if asked.resumable:
                task = asyncio.create_task(self._resume(asked))
                self.returns.add(task)
                task.add_done_callback(self.returns.discard)
            raise
        finally:
            for at_a_time in counts[1]:
                self.in_flight[at_a_time] -= 1
        settle(reservation, asked.tokens)
        for window, unused in counts[0].items():
            self.used[window] -= unused
        self._ended(gateway, asked)
        if asked.resumable and self.chance.random() < 0.3:
            await self._resume(asked)  # its client has lost the connection, and comes back

    def _count(
        self, gateway: Gateway, limited: list[Limited], asked: Asked
    ) -> tuple[Counter[Window], list[tuple[tuple[str, str], str]]]:
        """Count what a request takes, by the calendar; return what it will not have used."""
        purses = [
            (each.subject, purse)
            for each, allowance in zip(limited, gateway.limiting.allowances(limited), strict=True)
            for purse in allowance._purses.values()
        ]
        unused: Counter[Window] = Counter()
        at_a_time = []
        for each in limited:
            self.limits[each.subject] = each.limits
        for subject, purse in purses:
            amount = purse.amount(asked.most)
            if purse.meter in AT_A_TIME:
                at_a_time.append((subject, purse.meter))
                self.in_flight[subject, purse.meter] += 1
                running = self.in_flight[subject, purse.meter]
                assert running <= purse.limit or self._troubled(), (subject, running)
                continue
            window = (subject, purse.meter, calendar(purse.meter, self.server.wall))
            assert calendar(purse.meter, purse.window) == window[2], window
            actual = 1 if purse.meter == Meter.REQUESTS else asked.tokens
            self.used[window] += max(amount, actual)
            self.beyond[window] += max(0, actual - amount)
            unused[window] += max(0, amount - actual)
            over = self.used[window] - purse.limit
            assert over <= self.beyond[window], (window, self.used[window], self.beyond[window])
        return unused, at_a_time

    def _troubled(self) -> bool:
        """Whether a gateway may have been silent for so long that others took its lease."""
        return any(each.link.troubled > self.now() - 45 for each in self.gateways)

    async def _answer(self) -> None:
        await self.router.wait()
        died = -1
        while died != self.engines_died:
            died = self.engines_died
            await asyncio.sleep(self.chance.choice((0.2, 1.0, 4.0, 15.0)))

    async def _resume(self, asked: Asked) -> None:
        await asyncio.sleep(self.chance.choice((0.0, 0.5, 8.0)))
        await self._answer()
        alive = [each for each in self.gateways if each.link.alive]
        if alive:
            self._ended(self.chance.choice(alive), asked)

    def _ended(self, gateway: Gateway, asked: Asked) -> None:
        tenant = KEYS[asked.key][0]
        record = UsageRecord(
            asked.id,
            int(self.server.wall),
            f"key:{asked.key}",
            "chat",
            PATH,
            tenant=tenant,
            prompt=asked.prompt,
            completion=asked.completion,
        )
        gateway.recorder.add(record, alone=asked.resumable)
        self.figures.answered[asked.id] = asked
        self.figures.ended[asked.id] = (self.now(), gateway)

    # Faults

    async def _go_wrong(self) -> None:
        while True:
            await asyncio.sleep(self.chance.expovariate(1 / 25))
            victim = self.chance.choice(("gateway", "gateway", "router", "engine", "NATS", "all"))
            self.figures.kills[victim] += 1
            if victim in ("engine", "all"):
                self.engines_died += 1
            if victim in ("router", "all"):
                self.router.clear()
            if victim in ("NATS", "all"):
                self.server.up = False
            if victim == "all":
                for gateway in tuple(self.gateways):
                    await self._replace(gateway)
            elif victim == "gateway":
                await self._replace(self.chance.choice(self.gateways))
            await asyncio.sleep(self.chance.choice((0.5, 3.0, 8.0)))
            self.server.up = True
            self.router.set()

    async def _replace(self, gateway: Gateway) -> None:
        self.gateways.remove(gateway)
        self.killed[gateway.name] = self.now()
        await gateway.kill()
        self.begin_gateway()

    async def _sum_up(self) -> None:
        """Have all gateways sum the records of earlier hours at once; one may die meanwhile."""

        async def one(gateway: Gateway) -> None:
            with contextlib.suppress(Conflict, Unavailable):
                while await gateway.summing.step(self.server.wall):
                    pass

        summing = [asyncio.create_task(one(each)) for each in self.gateways]
        if self.chance.random() < 0.2:
            await asyncio.sleep(0.0005)
            await self._replace(self.gateways[0])
        for done in await asyncio.gather(*summing, return_exceptions=True):
            if isinstance(done, Exception):
                raise done

    async def _calm_down(self) -> None:
        for gateway in self.gateways:
            gateway.link.loss = 0.0
        self.loss = 0.0
        await asyncio.sleep(60)
        for _ in range(2):
            await self.gateways[0].summing.step(self.server.wall + 7200)
        for window, limit in ((w, self.limits[w[0]][w[1]]) for w in self.used):
            self.figures.over = max(self.figures.over, self.used[window] - limit)
            self.figures.stated = max(self.figures.stated, self.beyond[window])


async def everything_is_there_again(world: Month) -> None:
    """Take the whole of each limit of a day and a month at once, on the first of the next month."""
    for gateway in world.gateways:
        await gateway.rest()
    await asyncio.sleep(datetime(2027, 1, 1, tzinfo=UTC).timestamp() - world.server.wall)
    gateway = world.gateways[0]
    gateway.wake()
    for subject, limits in world.limits.items():
        async with asyncio.timeout(60):
            while True:
                try:
                    await gateway.limiting.obtain([Limited(subject, limits)], max(limits.values()))
                    break
                except Exceeded:
                    await asyncio.sleep(1)


def simulate(seed: int, after: Any) -> Month:
    """Let the month of a seed pass, then check it with `after`; return its world."""

    async def passing() -> Month:
        world = Month(seed)
        await world.pass_by()
        await after(world)
        await everything_is_there_again(world)
        for gateway in world.gateways:
            await gateway.kill()
        return world

    random.seed(seed)
    with mock.patch.object(inference_log, "read", jetstream.read):
        return run(passing())
