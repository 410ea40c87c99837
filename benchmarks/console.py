"""How quick the console is over a large log: `python -m benchmarks.console [EVENTS]`.

A simulated log with 1,000 nodes and 10,000 models is written as an exported file and shown as
`nebula console --log` does. Printed are the seconds until it is served, for each page the time
until it is drawn (median and worst of some moments), and the frames per second while the slider is
moved.
"""

import asyncio
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from playwright.async_api import Page, async_playwright

from nebula.events import record
from nebula.events.intents import ModelLoadRequested
from nebula.events.memory import GIB
from nebula.events.record import Entry
from nebula.events.values import Assignment, Device
from nebula.events.vocabulary import (
    EngineFailed,
    EngineReady,
    EngineStarted,
    Event,
    ModelAssigned,
    NodeRegistered,
)
from nebula.store import archive

NODES, MODELS = 1_000, 10_000
TRIES = 7
PAGES = ("", "/models", "/models/m00042", "/nodes", "/nodes/n0042", "/events")


def happenings(count: int) -> Iterator[tuple[str, Event]]:
    """Yield the events of a cluster that starts its models, and then restarts some of them."""
    chance = Random(7)
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
    for _ in range(count):
        replica = f"m{chance.randrange(MODELS):05}-0"
        yield replica, EngineFailed("CUDA error: an illegal memory access", 1, retry_in=1.0)
        yield replica, EngineStarted(8, 2.0, 8001, "/log", 1)
        if chance.random() < 0.999:
            yield replica, EngineReady()


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


async def measure(base: str, last: int) -> None:
    """Print the figures of each page."""
    chance = Random(3)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = await browser.new_page()
        page.set_default_timeout(60_000)
        for path in PAGES:
            moments = [last, *(chance.randrange(last // 2, last) for _ in range(TRIES - 1))]
            took = [await drawn(page, base, path, at) for at in moments]
            middle = statistics.median(took)
            print(f"{path or '/':<16} {middle:7.0f} ms, at worst {max(took):7.0f} ms", flush=True)
        await page.goto(f"{base}/models")
        await page.wait_for_selector("tbody tr")
        print(f"slider on /models {await frames(page, last):5.0f} frames/s")
        await browser.close()


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
            await measure(re.findall(r"http://\S+", line)[0], count)
        finally:
            process.terminate()
            await process.wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
