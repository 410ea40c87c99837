"""The load, in a process of its own: `python -m benchmarks.soak.load PLAN` writes what came of it.

First it finds what the cluster can do, with more and more clients that ask one thing after the
other. Then it sends a part of that, whatever becomes of it: clients do not wait for each other.
"""

import array
import asyncio
import random
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import msgspec
from msgspec import Struct

from benchmarks.data_plane.figures import percentile
from benchmarks.data_plane.streams import run

from .kinds import KINDS, Clients

STEP = 8.0  # seconds with one number of clients
FIRST = 32  # clients to begin with; twice as many at each further step
MOST = 1024
GAIN = 1.1  # what twice the clients must bring at least, or else the cluster is full
MOST_AT_A_TIME = 4000  # clients, beyond which a further one is not sent: then it can't keep up
THIRDS = 3


class Plan(Struct, frozen=True):
    """What to do: which part of the capacity for how long (s). `result`: the file to write."""

    gateways: list[str]
    seconds: float
    load: float
    result: str
    rate: float | None = None
    seed: int = 1


class Result(Struct):
    """What came of it. Rates are clients/s; `latencies`: of each third p50 and p99 in s.

    `outcomes`: how many of each kind came out right, and what was wrong with how many.
    """

    capacity: float = 0.0
    rate: float = 0.0
    seconds: float = 0.0
    sent: int = 0
    skipped: int = 0
    outcomes: dict[str, dict[str, int]] = {}
    latencies: dict[str, list[tuple[int, float, float]]] = {}
    begun: float = 0.0


class Load:
    """The load of one plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._clients = Clients(plan.gateways, plan.seed)
        self._chance = random.Random(plan.seed)
        self._names = list(KINDS)
        self._shares = [kind.share for kind in KINDS.values()]
        self._outcomes: dict[str, Counter[str]] = defaultdict(Counter)
        self._latencies: dict[str, list[array.array[float]]] = {}

    async def run(self) -> Result:
        """Find the capacity, unless it is given, and hold the load."""
        plan = self._plan
        capacity = await self._capacity() if plan.rate is None else plan.rate / plan.load
        self._outcomes.clear()
        result = Result(capacity, capacity * plan.load, plan.seconds, begun=time.time())
        self.write(result)
        await self._hold(result)
        result.outcomes = {name: dict(counts) for name, counts in self._outcomes.items()}
        result.latencies = {
            name: [_figures(third) for third in thirds] for name, thirds in self._latencies.items()
        }
        self._clients.close()
        return result

    def _kind(self) -> str:
        return self._chance.choices(self._names, self._shares)[0]

    async def _capacity(self) -> float:
        best = 0.0
        clients = FIRST
        while clients <= MOST:
            rate = await self._closed(clients)
            print(f"{clients} clients: {rate:.1f}/s", file=sys.stderr, flush=True)
            full = rate < best * GAIN
            best = max(best, rate)
            if full:
                break
            clients *= 2
        return best

    async def _closed(self, clients: int) -> float:
        """Return how many are done in a second, once as many as there are have been."""
        loop = asyncio.get_running_loop()
        end = loop.time() + STEP
        done = [0.0] * 2

        async def keep() -> None:
            while loop.time() < end:
                await self._clients.be(self._kind())
                done[loop.time() > end - STEP / 2] += loop.time() < end

        await asyncio.gather(*(keep() for _ in range(clients)))
        return done[1] / (STEP / 2)

    async def _hold(self, result: Result) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        under_way: set[asyncio.Task[None]] = set()
        due = began
        while (now := loop.time()) < began + result.seconds:
            if now < due:
                await asyncio.sleep(due - now)
            due += self._chance.expovariate(result.rate)
            if len(under_way) >= MOST_AT_A_TIME:
                result.skipped += 1
                continue
            third = min(THIRDS - 1, int((now - began) / result.seconds * THIRDS))
            task = asyncio.create_task(self._one(self._kind(), third))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            result.sent += 1
        if under_way:
            await asyncio.wait(under_way)

    async def _one(self, kind: str, third: int) -> None:
        done = await self._clients.be(kind)
        self._outcomes[kind][done.wrong] += 1
        for what, seconds in done.latencies.items():
            name = f"{kind}: {what}"
            if name not in self._latencies:
                self._latencies[name] = [array.array("f") for _ in range(THIRDS)]
            self._latencies[name][third].append(seconds)

    def write(self, result: Result) -> None:
        """Write what came of it until now where it is looked for."""
        path = Path(self._plan.result)
        path.with_suffix(".new").write_bytes(msgspec.json.encode(result))
        path.with_suffix(".new").rename(path)


def _figures(latencies: "array.array[float]") -> tuple[int, float, float]:
    if not latencies:
        return 0, 0.0, 0.0
    return len(latencies), percentile(latencies, 0.5), percentile(latencies, 0.99)


def main() -> None:
    """Do what the plan says."""
    plan = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan)
    load = Load(plan)
    result = run(load.run())
    load.write(result)


if __name__ == "__main__":
    main()
