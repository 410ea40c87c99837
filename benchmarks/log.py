"""What a log of a million events costs: folding it, starting from a snapshot of it, holding it.

Needs nothing that runs. Makes a log of a cluster that loads, scales, fails, heals and unloads for
years, stores it as a file and in a nats-server as `nebula up` starts it, then measures all ways to
get at its state in turns, round after round. Prints tables of medians with their spread, and a
ratio. What is measured only once says so: a gateway that folds all of it takes its time.
"""

import argparse
import asyncio
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from benchmarks.log_history import history
from nebula.actors.projection import Projection
from nebula.events import record, snapshot
from nebula.events.folding import fold
from nebula.events.record import Entry
from nebula.events.state import EMPTY, State
from nebula.history.replay import Replay
from nebula.store import batch
from nebula.store.archive import Reader, write
from nebula.store.connection import Connection
from nebula.store.log import Log
from nebula.store.server import EmbeddedServer
from nebula.store.snapshots import Snapshots

WHOLE = {
    "file": "all of it, from the file",
    "JetStream": "all of it, from JetStream, its server's part left out",
}
"""The ways that are also told in CPU time, and in which words."""


def from_file(path: Path) -> State:
    """Fold an exported file, chain and all."""
    with path.open("rb") as file:
        return fold(EMPTY, Reader(file, path.name).records())


def parts(path: Path, length: int) -> dict[str, float]:
    """Return the microseconds of CPU that an event of a file takes, by what is done with it."""

    began = time.process_time()
    with path.open("rb") as file:
        deque(Reader(file, path.name)._checked(), maxlen=0)
    read = time.process_time()
    with path.open("rb") as file:
        found = list(Reader(file, path.name).records())
    decoded = time.process_time()
    fold(EMPTY, found)
    folded = time.process_time()
    seconds = {
        "reading its line from the file, chain and all": read - began,
        "decoding it": decoded - read - (read - began),
        "folding it": folded - decoded,
    }
    return {part: each / length * 1e6 for part, each in seconds.items()}


def checked(path: Path) -> State:
    """Replay an exported file: every decision made again and compared."""
    replay = Replay()
    with path.open("rb") as file:
        for each in Reader(file, path.name).records():
            replay.take(each)
    if replay.end() or replay.differences:
        raise SystemExit(f"a decision came out otherwise: {replay.differences[:1]}")
    return replay.state


async def projected(url: str, *, restore: bool) -> State:
    """Do what every actor does first: connect, and fold what the log holds."""
    connection = await Connection(url, "benchmark").open(patience=10)
    try:
        projection = Projection(Log(connection))
        if restore:
            await projection.restore()
        following = asyncio.create_task(projection.run())
        await projection.caught_up()
        following.cancel()
        await asyncio.wait([following])
        return projection.state
    finally:
        await connection.close()


def gateway(url: str, port: int) -> float:
    """Return the seconds from the start of a gateway's process until it has read the log.

    It is not ready then: it has no router.
    """
    began = time.perf_counter()
    command = [sys.executable, "-m", "nebula.cli.main", "gateway", "--nats", url]
    process = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5):
                    return time.perf_counter() - began
            except urllib.error.HTTPError as answer:
                if b"no router" in answer.read():
                    return time.perf_counter() - began
                time.sleep(0.01)
            except OSError:
                if process.poll() is not None:
                    raise SystemExit("the gateway ended") from None
                time.sleep(0.01)
    finally:
        process.terminate()
        process.wait()


async def fill(url: str, entries: list[Entry]) -> None:
    """Store a log as routers and nodes would, a thousand entries at a time."""
    connection = await Connection(url, "benchmark").open(patience=10)
    await Log(connection).open(patience=10)
    coming = iter(entries)
    while chunk := list(islice(coming, 1000)):
        messages = [(each.subject, each.body, record.parse_headers(each.headers)) for each in chunk]
        guard = {"Nats-Expected-Last-Sequence": str(chunk[0].seq - 1)}
        await batch.publish(connection.client, messages, guard=guard)
    await connection.close()


async def keep(url: str, state: State) -> None:
    """Store a snapshot."""
    connection = await Connection(url, "benchmark").open(patience=10)
    await Snapshots(Log(connection)).put(state)
    await connection.close()


def size_of(state: State) -> tuple[int, int]:
    """Return the bytes of a state in memory and of its snapshot."""
    data = snapshot.dump(state)
    gc.collect()
    tracemalloc.start()
    held = snapshot.load(data)
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size if held else 0, len(data)


def without_times(state: State) -> object:
    """Return what must be equal whichever way a log is read, without the server's own times."""
    return state.seq, {each.id: each.assignments for each in state.models.values()}


def timed(work: Callable[[], State], expected: object) -> tuple[float, float]:
    """Return the seconds that something takes, and those of this process's CPU time.

    It must come to the expected state.
    """
    gc.collect()
    began, spent = time.perf_counter(), time.process_time()
    state = work()
    seconds, spent = time.perf_counter() - began, time.process_time() - spent
    if without_times(state) != expected:
        raise SystemExit("the ways come to different states")
    return seconds, spent


def spread(values: list[float], form: str) -> str:
    """Write a median and its spread."""
    if len(values) == 1:
        return f"{values[0]:{form}} (once)"
    low, high = min(values), max(values)
    return f"{statistics.median(values):{form}} ({low:{form}} to {high:{form}})"


def rounds(folder: Path, entries: list[Entry], count: int, port: int) -> Iterator[str]:
    """Measure, and yield the lines to print: three tables in Markdown, and a ratio."""
    path = folder / "log.jsonl"
    path.write_bytes(b"".join(write(entries, len(entries))))
    length = len(entries)
    state = from_file(path)
    expected = without_times(state)
    held, stored = size_of(state)
    yield f"| {length:,} events | |"
    yield "| --- | --- |"
    yield (
        f"| the cluster at their end | {len(state.models)} models, {len(state.replicas)} replicas, "
        f"{len(state.nodes)} nodes |"
    )
    yield f"| an event in the file | {path.stat().st_size / length:.0f} bytes |"
    yield f"| the state in memory | {held / 2**20:.2f} MiB |"
    yield f"| the state as a snapshot | {stored / 2**20:.2f} MiB |"
    loop = asyncio.new_event_loop()
    server = EmbeddedServer(folder / "nats", port)
    loop.run_until_complete(server.start())
    try:
        began = time.perf_counter()
        loop.run_until_complete(fill(server.url, entries))
        speed = length / (time.perf_counter() - began)
        yield f"| stored in JetStream, a thousand at a time | {speed:,.0f} events/s (once) |"
        entries.clear()
        ways: dict[str, Callable[[], State]] = {
            "file": lambda: from_file(path),
            "file, every decision checked": lambda: checked(path),
            "JetStream": lambda: loop.run_until_complete(projected(server.url, restore=False)),
            "JetStream, from a snapshot": lambda: loop.run_until_complete(
                projected(server.url, restore=True)
            ),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        spent: dict[str, list[float]] = {}
        starts: dict[bool, list[float]] = {False: [], True: []}
        for turn in range(count):
            for part, each in parts(path, length).items():
                spent.setdefault(part, []).append(each)
            for way, work in ways.items():
                if "snapshot" in way and turn == 0:
                    starts[False].append(gateway(server.url, port + 1))
                    folded = loop.run_until_complete(projected(server.url, restore=False))
                    loop.run_until_complete(keep(server.url, folded))
                clock, cpu = timed(work, expected)
                seconds[way].append(clock)
                if way in WHOLE:
                    spent.setdefault(WHOLE[way], []).append(cpu / length * 1e6)
            starts[True].append(gateway(server.url, port + 1))
        yield ""
        yield f"| way, {count} rounds | seconds: median (min to max) | events/s |"
        yield "| --- | --- | --- |"
        for way, took in seconds.items():
            speeds = spread([length / each for each in took], ",.0f")
            yield f"| {way} | {spread(took, '.2f')} | {'' if 'snapshot' in way else speeds} |"
        for restored, took in starts.items():
            word = "a snapshot" if restored else "zero"
            yield f"| a gateway's process until ready, from {word} | {spread(took, '.2f')} | |"
        yield ""
        yield f"| an event, {count} rounds | µs of CPU |"
        yield "| --- | --- |"
        for part, figures in spent.items():
            yield f"| {part} | {spread(figures, '.2f')} |"
        pairs = zip(seconds["JetStream"], seconds["JetStream, from a snapshot"], strict=True)
        yield ""
        ratios = [zero / restored for zero, restored in pairs]
        yield f"JetStream, from zero / from a snapshot: {spread(ratios, '.0f')}"
    finally:
        loop.run_until_complete(server.stop())
        loop.close()


def main() -> None:
    """Make the log and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=14222)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        entries = history(given.events)
        print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}")
        for line in rounds(Path(folder), entries, given.rounds, given.port):
            print(line, flush=True)


if __name__ == "__main__":
    main()
