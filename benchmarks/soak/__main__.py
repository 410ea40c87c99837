"""What becomes of memory, latencies and answers under hours of steady, mixed load.

`python -m benchmarks.soak` from the repository's root. Everything is started here: two gateways,
two routers, a node with two simulated chat engines and one for embeddings, and a nats-server. The
load comes from a process of its own: it finds the capacity and then holds a part of it. Each
process's memory (RSS) is looked at each minute.
"""

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psutil

from benchmarks.cluster import Cluster, Wanted, start
from benchmarks.data_plane.processes import Failed, last_words, running
from benchmarks.data_plane.ways import REPOSITORY, SIMULATED, freeze
from benchmarks.session import context, folder_option, headline, keep, session

from .kinds import CHAT_MODEL, EMBEDDING_MODEL
from .load import Plan, Result

TOKEN = 0.01  # seconds between two tokens
MIB = 2**20
GROWTH = 1.03  # from the middle to the end, above which it is said that a process grows
LEAST = 2.0  # MiB; less than that does not count as growth
BOUNDED = {
    "nats-server": "until it has the last 5 minutes of the data plane, or 256 MiB of it",
    "router": "until it has 65,536 beginnings of prompts, some 40 MiB",
    "gateway": "until it has 65,536 beginnings of prompts, some 40 MiB",
    "engine": "until it has 65,536 beginnings of prompts that it has told of",
}
"""What must grow for a while, and up to where."""

Samples = dict[str, list[tuple[float, int, float]]]
"""Of each process: seconds since the load began, pid, and MiB of memory."""


def models() -> list[Wanted]:
    """Return the models that are asked."""
    chat = {
        "source": CHAT_MODEL,
        "memory": "256MiB",
        "replicas": 2,
        "options": {"simulate-token": TOKEN, "simulate-first-token": TOKEN},
    }
    embedding = {"source": EMBEDDING_MODEL, "task": "embedding", "memory": "256MiB"}
    return [Wanted(CHAT_MODEL, chat), Wanted(EMBEDDING_MODEL, embedding)]


def hold(cluster: Cluster, plan: Plan, folder: Path, every: float) -> tuple[Result, Samples]:
    """Let the load run, and look at all processes meanwhile. Raise Failed."""
    path = folder / "plan.json"
    path.write_bytes(msgspec.json.encode(plan))
    result = Path(plan.result)
    log = folder / "load.log"
    samples: Samples = {}
    line = [sys.executable, "-m", "benchmarks.soak.load", str(path)]
    with running(line, log, {"PYTHONPATH": str(REPOSITORY)}) as process:
        while not result.exists():
            if process.poll() is not None:
                raise Failed(f"the load ended with code {process.returncode}: {last_words(log)}")
            time.sleep(0.2)
        begun = _read(result)
        print(
            f"capacity {begun.capacity:.1f} clients/s; {begun.rate:.1f}/s from now on",
            file=sys.stderr,
            flush=True,
        )
        parts = {**cluster.parts(), **_engines(cluster), "client": psutil.Process(process.pid)}
        due = time.monotonic()
        while process.poll() is None:
            if time.monotonic() >= due:
                due += every
                parts.update(_replaced(parts, cluster))
                _sample(parts, time.time() - begun.begun, samples)
            time.sleep(0.2)
        if process.returncode != 0:
            raise Failed(f"the load ended with code {process.returncode}: {last_words(log, 20)}")
    return _read(result), samples


def _read(path: Path) -> Result:
    return msgspec.json.decode(path.read_bytes(), type=Result)


def _engines(cluster: Cluster) -> dict[str, psutil.Process]:
    return {f"engine {name}": process for name, process in cluster.engines().items()}


def _replaced(parts: dict[str, psutil.Process], cluster: Cluster) -> dict[str, psutil.Process]:
    """Find those that stand where a process has ended; nothing should have."""
    gone = {name for name, process in parts.items() if not process.is_running()}
    if not gone:
        return {}
    there = {**cluster.parts(), **_engines(cluster)}
    return {name: there[name] for name in gone & there.keys()}


def _sample(parts: dict[str, psutil.Process], at: float, samples: Samples) -> None:
    for name, process in parts.items():
        with contextlib.suppress(psutil.Error):
            memory = process.memory_info().rss / MIB
            samples.setdefault(name, []).append((at, process.pid, memory))


def memory(samples: Samples, seconds: float) -> str:
    """Print each process's memory at the start, middle and end, and which one grows."""
    heads = ["process", "start, MiB", "middle", "end", "most", ""]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for name in sorted(samples):
        found = [(at, value) for at, _, value in samples[name] if at <= seconds]
        first, middle, last = (_around(found, seconds * part) for part in (0.0, 0.5, 1.0))
        cells = [name, f"{first:.1f}", f"{middle:.1f}", f"{last:.1f}"]
        cells.append(f"{max(value for _, value in found):.1f}")
        notes = []
        if len({pid for _, pid, _ in samples[name]}) > 1:
            notes.append("STARTED AGAIN")
        if last > middle * GROWTH and last - middle > LEAST:
            notes.append(f"GROWS: {(last - middle) / (seconds / 2) * 3600:.1f} MiB/h")
            notes += [f"({why})" for part, why in BOUNDED.items() if name.startswith(part)]
        lines.append(_line([*cells, " ".join(notes)]))
    return "\n".join(lines)


def _around(found: Sequence[tuple[float, float]], moment: float) -> float:
    """Return the median of the three samples nearest to a moment."""
    near = sorted(found, key=lambda sample: abs(sample[0] - moment))[:3]
    return statistics.median(value for _, value in near)


def outcomes(result: Result) -> str:
    """Write how many clients of each kind there were, and what was wrong with how many."""
    heads = ["clients", "in all", "right", "wrong"]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for kind, counts in sorted(result.outcomes.items()):
        right = counts.get("", 0)
        wrong = sum(counts.values()) - right
        lines.append(_line([kind, str(right + wrong), str(right), str(wrong or "")]))
    for kind, counts in sorted(result.outcomes.items()):
        for reason, count in counts.items():
            if reason:
                lines.append(f"\n- {count} x {kind}: {reason}")
    return "\n".join(lines)


def latencies(result: Result) -> str:
    """Write the latencies of each kind in the first third and in the last."""
    heads = ["waited for", "first third: p50, ms", "p99, ms", "last third: p50, ms", "p99, ms"]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for name, thirds in sorted(result.latencies.items()):
        cells = [f"{value * 1000:.1f}" for third in (thirds[0], thirds[-1]) for value in third[1:]]
        lines.append(_line([name, *cells]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="at the load [30]")
    parser.add_argument("--load", type=float, default=0.7, help="part of the capacity [0.7]")
    parser.add_argument("--rate", type=float, help="clients/s, whatever the capacity is")
    parser.add_argument("--json", type=Path, help="write all samples and figures here")
    folder_option(parser)
    return parser.parse_args()


def main() -> int:
    """Start, load, end and print; give the exit code. Raise Failed."""
    options = parse()
    facts = context()
    seconds = options.minutes * 60
    with session("soak", options.folder) as folder:
        copy = freeze((), folder / "sources")[REPOSITORY]
        with start(folder / "cluster", copy, models(), engine=SIMULATED) as cluster:
            plan = Plan(
                cluster.gateways, seconds, options.load, str(folder / "result.json"), options.rate
            )
            result, samples = hold(cluster, plan, folder, min(60.0, seconds / 12))
    print("\n" + headline(facts))
    print(
        f"{options.minutes:g} minutes at {result.rate:.1f} clients/s, {options.load:.0%} of "
        f"{result.capacity:.1f}; {result.sent} sent, {result.skipped} left out: too many under way"
    )
    for text in (outcomes(result), latencies(result), memory(samples, seconds)):
        print(f"\n{text}")
    keep(options.json, facts, result=msgspec.to_builtins(result), samples=samples)
    wrong = sum(sum(counts.values()) - counts.get("", 0) for counts in result.outcomes.values())
    return 1 if wrong or result.skipped else 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except Failed as error:
        raise SystemExit(str(error)) from error
