"""What requests that an engine always fails cost all others: four replicas, with and without them.

`python -m benchmarks.bad_requests` from the repository's root; needs nothing that runs. Sixteen
clients ask one short chat after the other of four simulated engines that take two requests each, so
that as many wait in line as are answered. Beside them, in some of the measurements, a client asks
once a second for what engines answer with HTTP 500 (or 503, or 429), as vLLM does for some values
of its parameters. What counts is what the others get. Both are measured in turns, round after
round, and ratios are of the same round.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx

from benchmarks.client import Answer, ask
from benchmarks.cluster import Cluster, Wanted, start
from benchmarks.data_plane.figures import percentile
from benchmarks.data_plane.processes import Failed
from benchmarks.data_plane.streams import run
from benchmarks.data_plane.ways import MODEL, REPOSITORY, freeze
from benchmarks.session import context, folder_option, headline, keep, session

PATH = "/v1/chat/completions"
CLIENTS = 16
REPLICAS = 4
SECONDS_EACH = 0.15
"""What an engine takes for an answer."""

ENGINE = (
    *(sys.executable, "-m", "nebula.engines.simulated"),
    *("--simulate-orders", "--simulate-first-token", str(SECONDS_EACH)),
)
NONE = "none"


class Round(NamedTuple):
    """A measurement: good answers per second, their latencies (s), and each engine's share.

    `tries`: how often engines saw each bad request.
    """

    nebula: str
    bad: str
    rate: float
    median: float
    late: float
    shares: list[float]
    tries: float


def body(text: str) -> bytes:
    """Write a request for one token."""
    said = [{"role": "user", "content": text}]
    return json.dumps({"model": MODEL, "messages": said, "max_tokens": 1}).encode()


async def load(url: str, bad: str, every: float, seconds: float) -> tuple[list[Answer], int]:
    """Ask for so long; return the answers to good requests, and the number of bad ones.

    Raise Failed where a good request gets anything but its answer, or a bad one does not get its
    own status.
    """
    end = time.perf_counter() + seconds
    good: list[Answer] = []
    asked = 0

    async def client(number: int) -> None:
        while time.perf_counter() < end:
            answer = await ask(url + PATH, body(f"client {number} {len(good)}"), silence=60)
            if answer.status != 200 or not answer.whole:
                raise Failed(f"a good request failed: {answer.status} {bytes(answer.body)!r}")
            good.append(answer)

    async def other() -> None:
        nonlocal asked
        while (due := time.perf_counter() + every) < end:
            answer = await ask(url + PATH, body(f"bad {asked} !status={bad}"), silence=60)
            if answer.status != int(bad):
                raise Failed(f"a bad request got {answer.status} {bytes(answer.body)!r}")
            asked += 1
            await asyncio.sleep(due - time.perf_counter())

    async with asyncio.TaskGroup() as tasks:
        for number in range(CLIENTS):
            tasks.create_task(client(number))
        if bad != NONE:
            tasks.create_task(other())
    return good, asked


def measure(cluster: Cluster, nebula: str, bad: str, every: float, seconds: float) -> Round:
    """Measure one way. Raise Failed."""
    engines = cluster.engine_urls()
    keys = {name: cluster.key_of(url) for name, url in engines.items()}
    before = {name: counted(url, keys[name]) for name, url in engines.items()}
    began = time.perf_counter()
    good, asked = run(load(cluster.gateways[0], bad, every, seconds))
    took = time.perf_counter() - began
    finished, refused = (
        [
            counted(url, keys[name])[kind] - before[name][kind]
            for name, url in sorted(engines.items())
        ]
        for kind in ("finished", "refused")
    )
    waits = [answer.news - answer.asked for answer in good]
    return Round(
        nebula,
        bad,
        len(good) / took,
        percentile(waits, 0.5),
        percentile(waits, 0.99),
        [each / max(1, sum(finished)) for each in finished],
        sum(refused) / asked if asked else 0.0,
    )


def counted(engine: str, key: Mapping[str, str]) -> dict[str, int]:
    """Ask a simulated engine what it has counted."""
    told = httpx.get(f"{engine}/simulate", headers=key, trust_env=False, timeout=60)
    counts: dict[str, int] = told.json()
    return counts


def table(rounds: Sequence[Round]) -> str:
    """Write medians over the rounds, and the ratios' spread."""
    heads = ["Nebula", "bad requests", "good answers/s", "ratio to none", "p50, s", "p99, s"]
    heads += ["least share", "tries of a bad one"]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for nebula, bad in dict.fromkeys((item.nebula, item.bad) for item in rounds):
        some = [item for item in rounds if (item.nebula, item.bad) == (nebula, bad)]
        none = [item for item in rounds if (item.nebula, item.bad) == (nebula, NONE)]
        ratios = [item.rate / base.rate for item, base in zip(some, none, strict=True)]
        ratio = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        cells = [
            nebula,
            bad,
            f"{statistics.median(item.rate for item in some):.1f}",
            "" if bad == NONE else ratio,
            f"{statistics.median(item.median for item in some):.2f}",
            f"{statistics.median(item.late for item in some):.2f}",
            f"{min(min(item.shares) for item in some):.0%}",
            "" if bad == NONE else f"{statistics.mean(item.tries for item in some):.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.bad_requests", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement [15]")
    parser.add_argument("--every", type=float, default=1.0, help="seconds from one bad to the next")
    parser.add_argument(
        "--bad", type=lambda text: text.split(","), default=["500", "503"], help="their statuses"
    )
    parser.add_argument("--before", type=Path, help="another checkout, to be measured too")
    parser.add_argument("--json", type=Path, help="write all rounds here")
    folder_option(parser)
    return parser.parse_args()


def main() -> None:
    """Start, ask, end and print. Raise Failed."""
    options = parse()
    facts = context()
    ways = {"this": REPOSITORY}
    if options.before is not None:
        ways = {"before": options.before.resolve(), **ways}
    model = {
        "source": MODEL,
        "memory": "64MiB",
        "replicas": REPLICAS,
        "max_in_flight": 2,
    }
    rounds: list[Round] = []
    with session("bad-requests", options.folder) as folder:
        copies = freeze([f"nebula@{source}" for source in ways.values()], folder / "sources")
        for name, source in ways.items():
            engines = copies[source] / "nebula" / "engines"
            if source != REPOSITORY:  # only its own engine obeys what a prompt orders
                shutil.rmtree(engines)
                shutil.copytree(copies[REPOSITORY] / "nebula" / "engines", engines)
            wanted = Wanted(MODEL, model)
            with start(
                folder / name, copies[source], [wanted], engine=ENGINE, routers=1
            ) as cluster:
                for _ in range(options.rounds):
                    for bad in (NONE, *options.bad):
                        done = measure(cluster, name, bad, options.every, options.seconds)
                        print(done, file=sys.stderr, flush=True)
                        rounds.append(done)
    print("\n" + headline(facts))
    print(
        f"{REPLICAS} replicas with 2 requests each, {SECONDS_EACH} s an answer, {CLIENTS} clients, "
        f"a bad request every {options.every:g} s, {options.seconds:g} s, {options.rounds} rounds\n"
    )
    print(table(rounds))
    keep(options.json, facts, rounds=[item._asdict() for item in rounds])


if __name__ == "__main__":
    try:
        main()
    except* Failed as errors:
        raise SystemExit(str(errors.exceptions[0])) from errors
