"""How quick the console is over a large log: `python -m benchmarks.console [EVENTS]`.

A simulated log with 1,000 nodes, with 10,000 models, aliases, keys and batches each, and with what
the keys used in a week, is written as an exported file and shown as `nebula console --log` does.
Printed are the seconds until it is served, for each page the time until it is drawn (median and
worst of some moments) and for how long the server computed, and the frames per second while the
slider is moved.
"""

import asyncio
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import psutil
from playwright.async_api import Page

from nebula.events import record
from nebula.events.intents import AliasRequested, BatchRequested, ModelLoadRequested
from nebula.events.key_events import KeyIssued
from nebula.events.memory import GIB
from nebula.events.record import Entry
from nebula.events.usage import UsageRolledUp, UsageSum
from nebula.events.usage_limits import UsageLimits
from nebula.events.values import Assignment, Device, Target
from nebula.events.version import VERSION
from nebula.events.vocabulary import (
    BatchFinished,
    BatchStarted,
    ClusterFounded,
    EngineFailed,
    EngineReady,
    EngineStarted,
    Event,
    ModelAssigned,
    NodeRegistered,
)
from nebula.store import archive
from tests.integration.browser import chromium

NODES, MODELS, KEYS, BATCHES = 1_000, 10_000, 10_000, 10_000
HOURS = 168
TRIES = 7
PAGES = (
    *("", "/models", "/models/m00042", "/nodes", "/nodes/n0042", "/events"),
    *("/aliases", "/aliases/a00042", "/usage", "/keys", "/keys/k00042"),
    *("/batches", "/batches/batch_00042"),
)


def happenings(count: int) -> Iterator[tuple[str, Event]]:
    """Yield the events of a cluster that starts its models, and then restarts some of them."""
    chance = Random(7)
    yield "bench", ClusterFounded("bench", VERSION)
    devices = tuple(Device(index, "gpu", "H200", 140 * GIB) for index in range(8))
    for number in range(NODES):
        yield f"n{number:04}", NodeRegistered(devices, f"host-{number}", {"zone": f"z{number % 3}"})
    for number in range(MODELS):
        name = f"m{number:05}"
        node = f"n{number % NODES:04}"
        yield name, ModelLoadRequested("org/model", memory="60GiB")
        place = Assignment(f"{name}-0", node, (number // NODES % 8,), 60 * GIB, 1)
        yield name, ModelAssigned(1, (place,))
        yield f"{name}-0", EngineStarted(7, 1.0, 8001, "/log", 1)
        yield f"{name}-0", EngineReady()
    yield from accounts()
    for _ in range(count):
        replica = f"m{chance.randrange(MODELS):05}-0"
        yield replica, EngineFailed("CUDA error: an illegal memory access", 1, retry_in=1.0)
        yield replica, EngineStarted(8, 2.0, 8001, "/log", 1)
        if chance.random() < 0.999:
            yield replica, EngineReady()


def accounts() -> Iterator[tuple[str, Event]]:
    """Yield the events by which models have aliases, and keys, batches and usage are there."""
    for number in range(MODELS):
        targets = (Target(f"m{number:05}", 9), Target(f"m{(number + 1) % MODELS:05}", 1))
        yield f"a{number:05}", AliasRequested(targets, name=f"a{number:05}")
    for number in range(KEYS):
        limits = UsageLimits(tokens_per_month=50_000_000, in_flight=64)
        digest, tenant = f"{number:064x}", f"team-{number % 100}"
        yield f"k{number:05}", KeyIssued(digest, ("infer",), tenant=tenant, limits=limits)
    for number in range(BATCHES):
        batch, owner = f"batch_{number:05}", f"{number:064x}"
        yield batch, BatchRequested(f"file-{number}", "/v1/chat/completions", owner=owner)
        yield batch, BatchStarted(1000)
        if number % 100:
            yield batch, BatchFinished("completed", 995, 5, f"file-a{number}", f"file-b{number}")
    now = int(time.time()) // 3600 * 3600
    for hour in range(HOURS):
        sums = tuple(
            UsageSum(
                *(now - 3600 * (HOURS - hour), f"k{number:05}", f"m{number:05}"),
                "/v1/chat/completions",
                tenant=f"team-{number % 100}",
                requests=number % 50 + 1,
                prompt=number * 100,
                completion=number * 10,
            )
            for number in range(hour, KEYS, HOURS // 7)
        )
        yield f"{hour:020}", UsageRolledUp(hour, hour + 1, sums)


def write(path: Path, count: int) -> None:
    """Write a log of a number of events."""
    writer = archive.Writer(count)
    begin = time.time_ns() - (count + 1) * 50_000_000
    with path.open("wb") as file:
        file.write(writer.head)
        for number, (identity, event) in enumerate(happenings(count), 1):
            block = "".join(
                f"{key}: {value}\r\n" for key, value in record.headers_for(event).items()
            )
            headers = f"NATS/1.0\r\n{block}\r\n".encode() if block else b""
            subject = record.subject_of(identity, event)
            entry = Entry(
                number, begin + number * 50_000_000, subject, headers, record.encode(event)
            )
            file.write(writer.line(entry))
            if number == count:
                return


async def drawn(page: Page, base: str, path: str, at: int) -> float:
    """Return the milliseconds until a page shows a moment."""
    began = time.perf_counter()
    await page.goto(f"{base}{path}?at={at}")
    await page.wait_for_selector("main[aria-busy=false] h1")
    await page.locator("output b", has_text=re.compile(f"^{at}$")).wait_for()
    return (time.perf_counter() - began) * 1000


async def frames(page: Page, last: int) -> float:
    """Return the frames per second while the slider is moved for three seconds."""
    return float(
        await page.evaluate(
            """async (last) => {
              const range = document.querySelector("input[type=range]");
              let frames = 0;
              const began = performance.now();
              while (performance.now() - began < 3000) {
                await new Promise(requestAnimationFrame);
                range.value = 1 + Math.floor(Math.random() * last);
                range.dispatchEvent(new Event("input", { bubbles: true }));
                frames++;
              }
              return frames / 3;
            }""",
            last,
        )
    )


def computed(server: psutil.Process) -> float:
    """Return the milliseconds for which the server has had a core."""
    times = server.cpu_times()
    return float(times.user + times.system) * 1000


async def measure(base: str, last: int, server: psutil.Process) -> None:
    """Print the figures of each page."""
    chance = Random(3)
    async with chromium() as browser:
        page = await browser.new_page()
        page.set_default_timeout(60_000)
        for path in PAGES:
            moments = [last, *(chance.randrange(last // 2, last) for _ in range(TRIES - 1))]
            took, cost = [], []
            for at in moments:
                before = computed(server)
                took.append(await drawn(page, base, path, at))
                cost.append(computed(server) - before)
            middle, spent = statistics.median(took), statistics.median(cost)
            print(
                f"{path or '/':<19} {middle:7.0f} ms, at worst {max(took):7.0f} ms, "
                f"computed in {spent:5.0f} ms",
                flush=True,
            )
        await page.goto(f"{base}/models")
        await page.wait_for_selector("tbody tr")
        print(f"slider on /models {await frames(page, last):5.0f} frames/s")


async def main(count: int) -> None:
    """Write a log, serve it, and look at it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.jsonl"
        write(path, count)
        print(f"{count} events, {path.stat().st_size / 2**20:.0f} MiB", flush=True)
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "nebula.cli.main", "console", "--no-browser"),
            *("--log", str(path)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        print(f"served after {time.perf_counter() - began:.1f} s", flush=True)
        try:
            await measure(re.findall(r"http://\S+", line)[0], count, psutil.Process(process.pid))
        finally:
            process.terminate()
            await process.wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
