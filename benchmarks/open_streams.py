"""Ten thousand open streams on one gateway: memory for each, time between tokens, what is full.

`python -m benchmarks.open_streams` from the repository's root; needs nothing that runs. Each way is
started anew for each number of streams, before the same stand-in engine, all of whose streams get
a token in the same step. The streams are opened bit by bit and stay open while they are looked at.
"""

import argparse
import asyncio
import contextlib
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httpx

from benchmarks.data_plane import competitors
from benchmarks.data_plane.figures import percentile
from benchmarks.data_plane.processes import Failed, cpu_seconds, memory, open_files, spent
from benchmarks.data_plane.streams import request, run
from benchmarks.data_plane.ways import REPOSITORY, Serving, Stage, freeze, start
from benchmarks.data_plane.works import chat
from benchmarks.session import context, folder_option, headline, keep, session
from nebula.http.server.capacity import raise_open_files

_KIB = 1024
_OWN_FILES = 200
_EVENT = b"data: {"
_DONE = b"data: [DONE]"


class Held(NamedTuple):
    """What was seen while all streams were open; memory (bytes), CPU time and files are by role."""

    asked: int
    open: int
    failures: Counter[str]
    seconds: float
    tokens: int
    waits: list[float]
    before: Mapping[str, float]
    after: Mapping[str, float]
    cpu: Mapping[str, float]
    files: Mapping[str, float]


class Watch:
    """What all streams share: whether it counts, the tokens it has counted, and failures."""

    def __init__(self, streams: int) -> None:
        self.counting = False
        self.tokens = self.begun = 0
        self.waits: list[float] = []
        self.failures: Counter[str] = Counter()
        self.closing = False
        self.all_begun = asyncio.Event()
        self._streams = streams

    def begin(self) -> None:
        """Count a stream whose first token has come."""
        self.begun += 1
        self._look()

    def fail(self, why: str) -> None:
        """Count a stream that has failed."""
        self.failures[why] += 1
        self._look()

    def _look(self) -> None:
        if self.begun + self.failures.total() >= self._streams:
            self.all_begun.set()


class Stream(asyncio.Protocol):
    """One stream that is read to its end, or until it is closed."""

    def __init__(self, wire: bytes, watch: Watch) -> None:
        self._wire = wire
        self._watch = watch
        self._last = 0.0
        self._rest = b""
        self._begun = self._over = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._wire)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        watch = self._watch
        if not self._last and not data.startswith(b"HTTP/1.1 200"):
            self._failed(data.partition(b"\r\n")[0].decode(errors="replace")[:80])
            self.close()
            return
        text = self._rest + data
        events = text.count(_EVENT) - self._rest.count(_EVENT)
        self._rest = text[-len(_DONE) :]
        if _DONE in text:
            self._failed("it ended before all were looked at")
        if not events:
            self._last = self._last or now
            return
        if b'data: {"error"' in text:
            self._failed("an error event")
        if not self._begun:
            self._begun = True
            watch.begin()
        if watch.counting:
            watch.tokens += events
            watch.waits.append(now - self._last)
            watch.waits.extend([0.0] * (events - 1))
        self._last = now

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._watch.closing:
            self._failed(f"its connection was closed ({exc!r})")

    def _failed(self, why: str) -> None:
        if not self._over:
            self._over = True
            self._watch.fail(why)

    def close(self) -> None:
        """Leave."""
        if self._transport is not None:
            self._transport.close()


async def hold(way: Serving, streams: int, options: argparse.Namespace) -> Held:
    """Open so many streams, look at them for a time, and leave. Raise Failed."""
    opening = streams / options.opening
    # Opening takes several times as long where the machine is slow.
    tokens = int((10 * opening + options.seconds + options.patience) / options.step) + 1
    asked = chat(tokens, stream=True, word="step")
    wire = request(way.url + asked.path, asked.body, way.headers)
    where = urlsplit(way.url)
    watch, loop = Watch(streams), asyncio.get_running_loop()
    before = memory(way.roots)
    held: list[Stream] = []
    try:
        for number in range(streams):
            try:
                _, stream = await loop.create_connection(
                    lambda: Stream(wire, watch), where.hostname or "", where.port or 80
                )
            except OSError as error:
                watch.fail(f"no connection ({error})")
                continue
            held.append(stream)
            if number % 20 == 19:
                await asyncio.sleep(20 / options.opening)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(watch.all_begun.wait(), options.patience)
        if not watch.all_begun.is_set():
            silent = streams - watch.failures.total() - watch.begun
            watch.failures["no token came in time"] = silent
        await asyncio.sleep(2 * options.step)
        cpu, began = cpu_seconds(way.roots), time.perf_counter()
        watch.counting = True
        await asyncio.sleep(options.seconds)
        watch.counting = False
        took = time.perf_counter() - began
        cpu = spent(cpu, cpu_seconds(way.roots))
        after, files = memory(way.roots), open_files(way.roots)
    finally:
        watch.closing = True
        for stream in held:
            stream.close()
    if not watch.waits:
        raise Failed(f"no tokens: {dict(watch.failures)}")
    good = streams - watch.failures.total()
    return Held(
        streams, good, watch.failures, took, watch.tokens, watch.waits, before, after, cpu, files
    )


def table(found: Sequence[tuple[str, Held]], step: float) -> str:
    """Write what was seen of each way."""
    lines = [
        "| way | streams | open | tokens/s, of those due | ms between tokens p50 | p99 | p99.9 "
        "| KiB/stream, all processes | without the engine |",
        f"|{' --- |' * 9}",
    ]
    for name, held in found:
        grown = growth(held)
        others = sum(size for role, size in grown.items() if role != "engine")
        rate = held.tokens / held.seconds
        due = held.open / step
        times = [f"{percentile(held.waits, part) * 1000:,.0f}" for part in (0.5, 0.99, 0.999)]
        cells = [name, f"{held.asked:,}", f"{held.open:,}", f"{rate:,.0f}, {rate / due:.0%}"]
        cells += [*times, f"{sum(grown.values()):.1f}", f"{others:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| way | streams | process | KiB/stream | MiB | CPU, of a core | CPU µs/token "
        "| open files |",
        f"|{' --- |' * 8}",
    ]
    for name, held in found:
        for role, size in sorted(growth(held).items()):
            cpu = held.cpu.get(role, 0.0)
            cells = [name, f"{held.asked:,}", role, f"{size:.1f}"]
            cells += [f"{held.after[role] / _KIB / _KIB:,.0f}", f"{cpu / held.seconds:.0%}"]
            cells += [f"{cpu / held.tokens * 1e6:.1f}", f"{held.files.get(role, 0):,.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
    told = [
        f"- {name}, {held.asked:,} streams: {count:,} failed: {why}"
        for name, held in found
        for why, count in held.failures.items()
    ]
    return "\n".join([*lines, "", *told])


def growth(held: Held) -> dict[str, float]:
    """Return by how many KiB each role grew for each stream."""
    grown: defaultdict[str, float] = defaultdict(float)
    for role, size in held.after.items():
        grown[role] = (size - held.before.get(role, 0)) / _KIB / max(1, held.open)
    return dict(grown)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.open_streams", description=__doc__)
    flag = parser.add_argument
    flag("--ways", default="direct,nebula,smg,vllm-router", help="joined by commas")
    flag("--workers", type=int, default=2, help="of a gateway, in the way nebula-workers")
    flag("--streams", type=_numbers, default=[1000, 10_000], help="joined by commas")
    flag("--step", type=float, default=1.0, help="seconds from one token to the next")
    flag("--opening", type=float, default=200.0, help="streams opened in a second")
    flag("--seconds", type=float, default=20.0, help="for which all are open")
    flag("--patience", type=float, default=60.0, help="seconds until all have a token")
    flag("--venvs", type=Path, default=REPOSITORY / ".bench")
    folder_option(parser)
    flag("--json", type=Path, help="write all figures here")
    return parser.parse_args()


def main() -> None:
    """Start, measure, end and print."""
    options = parse()
    facts = context()
    allowed = raise_open_files() - _OWN_FILES
    if max(options.streams) > allowed:
        raise SystemExit(f"this process may have {allowed:,} streams open: raise ulimit -Hn")
    found: list[tuple[str, Held]] = []
    with session("open-streams", options.folder) as folder:
        names = options.ways.split(",")
        sources = freeze(names, folder / "sources")
        for streams in options.streams:
            for name in names:
                mine = folder / f"{streams}-{name.partition('@')[0]}"
                venvs = options.venvs.resolve()
                stage = Stage(
                    *("chat", mine, venvs, sources), step=options.step, workers=options.workers
                )
                try:
                    with start(name, stage) as way:
                        found.append((name, run(hold(way, streams, options))))
                except (Failed, OSError, httpx.HTTPError) as error:
                    print(f"{name}, {streams} streams: {error}", file=sys.stderr, flush=True)
                    continue
                print(table(found[-1:], options.step), file=sys.stderr, flush=True)
    for name in names:
        if name in competitors.ALL:
            facts[name] = competitors.version(competitors.ALL[name], options.venvs)
    print("\n" + headline(facts))
    print(f"\nA token each {options.step:g} s, looked at for {options.seconds:g} s\n")
    print(table(found, options.step))
    told = [{"way": name, **held._asdict(), "waits": len(held.waits)} for name, held in found]
    keep(options.json, facts, step=options.step, figures=told)


if __name__ == "__main__":
    main()
