"""Where the CPU time of each process goes: the functions that take most of it themselves.

py-spy looks at Python's processes, and perf at all others, while the work is measured once more. A
profile of Python names its own functions; what libraries in C take counts for their caller.
"""

import concurrent.futures
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from . import competitors
from .figures import Work
from .processes import Failed, family, role
from .ways import Serving

PY_SPY = competitors.Competitor("py-spy", "py-spy", "py-spy", lambda *_: [])
FUNCTIONS = 12
LEAST = 0.02
"""Part of a way's CPU time that a process must take to be shown."""

_RATE, _PERF_RATE = 400, 4000  # samples a second: perf takes none while a process waits
_RUNS, _LOOP = "Runner.run (runners)", "the event loop itself"
_OTHER_THREAD = "Thread._bootstrap ("


class Profile(NamedTuple):
    """One process at one work: its CPU time for each request, and each function's part of it."""

    work: Work
    way: str
    role: str
    microseconds: float
    parts: list[tuple[str, float]]


def profiled(
    work: Work, name: str, way: Serving, seconds: float, folder: Path, venvs: Path
) -> list[Profile]:
    """Do the work once more, with a look at every process of a way. Raise Failed."""
    spy = competitors.install(PY_SPY, venvs) / "bin" / "py-spy"
    members = [each for root in way.roots for each in family(root)]
    whole = max(2.0, seconds)
    with concurrent.futures.ThreadPoolExecutor(len(members)) as pool:
        looks = [(each, pool.submit(_look, each, spy, whole, folder)) for each in members]
        done = work.measure(way, whole, folder)
        seen: dict[str, Counter[str]] = {}
        for each, look in looks:
            seen.setdefault(role(each.cmdline()), Counter()).update(look.result())
    all_cpu = sum(done.cpu.values())
    found = []
    for part, cpu in sorted(done.cpu.items(), key=lambda item: -item[1]):
        microseconds = seen.get(part, Counter())
        if cpu >= LEAST * all_cpu and microseconds:
            parts = shares(microseconds, cpu * 1e6)
            found.append(Profile(work, name, part, cpu / done.requests * 1e6, parts))
    return found


def shares(microseconds: Counter[str], cpu: float) -> list[tuple[str, float]]:
    """Return the parts that functions have of a process's CPU time, most first.

    `microseconds`: what each was seen to take. An event loop is seen while it waits, too: it took
    what is left of the CPU time. A process that is kept waiting for a core is seen for longer than
    it runs: then all parts shrink alike.
    """
    taken = Counter({name: each for name, each in microseconds.items() if name != _LOOP})
    if _LOOP in microseconds:
        taken[_LOOP] = max(0, round(cpu) - taken.total())
    whole = max(1, taken.total())
    return [(name, each / whole) for name, each in taken.most_common(FUNCTIONS) if each]


def _look(process: psutil.Process, spy: Path, seconds: float, folder: Path) -> Counter[str]:
    # smg and vllm-router are Rust that Python loads, and have titles such as `smg::router`.
    if Path(process.exe()).name.startswith("python") and "::" not in role(process.cmdline()):
        return _python(process.pid, spy, seconds, folder)
    return _native(process.pid, seconds, folder)


def _python(pid: int, spy: Path, seconds: float, folder: Path) -> Counter[str]:
    output = folder / f"{pid}.stacks"
    line = [str(spy), "record", "--pid", str(pid), "--duration", str(round(seconds))]
    line += ["--rate", str(_RATE), "--format", "raw", "--function", "--output", str(output)]
    # py-spy would have to stop the process to see its C functions, which costs more than they do.
    _run([*line, "--nonblocking", "--idle"])
    samples = stacks(output.read_text())
    each = seconds * 1e6 / max(1, samples.total())
    return Counter({name: round(count * each) for name, count in samples.items()})


def _native(pid: int, seconds: float, folder: Path) -> Counter[str]:
    perf = shutil.which("perf")
    if perf is None:
        raise Failed("there is no perf: apt-get install linux-perf")
    output = folder / f"{pid}.perf"
    line = [perf, "record", "-e", "cpu-clock", "-F", str(_PERF_RATE), "-p", str(pid)]
    _run([*line, "-o", str(output), "--", "sleep", str(seconds)])
    told = _run([perf, "report", "-i", str(output), "--stdio", "-g", "none", "-F", "sample,symbol"])
    each = 1e6 / _PERF_RATE
    return Counter({name: round(count * each) for name, count in symbols(told).items()})


def _run(line: Sequence[str]) -> str:
    ended = subprocess.run(line, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise Failed(f"{Path(line[0]).name}: {(ended.stderr or ended.stdout).strip()[-300:]}")
    return ended.stdout


def stacks(text: str) -> Counter[str]:
    """Return how often each function was the last one of a stack, of py-spy's lines.

    Of several threads it is the main one: that of the event loop.
    """
    samples: Counter[str] = Counter()
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        function, _, file = stack.rpartition(";")[2].partition(" (")
        if function and not stack.startswith(_OTHER_THREAD):
            named = f"{function} ({Path(file.rstrip(')')).stem})"
            samples[_LOOP if named == _RUNS else named] += int(count)
    return samples


def symbols(text: str) -> Counter[str]:
    """Return the samples of each function of perf's report."""
    samples: Counter[str] = Counter()
    for line in text.splitlines():
        words = line.split(None, 2)
        if len(words) == 3 and words[0].isdigit() and words[1] in ("[.]", "[k]"):
            kernel = " (kernel)" if words[1] == "[k]" else ""
            samples[words[2].strip() + kernel] += int(words[0])
    return samples


def page(profiles: Sequence[Profile], headline: str) -> str:
    """Write the profiles as a page."""
    lines = [
        "# Profiles of the data plane",
        "",
        "`.venv/bin/python -m benchmarks.data_plane --profile` made these: for each work, way and",
        "process the functions that take most CPU time themselves, as microseconds of one request.",
        "What C libraries take, such as a write to a socket, counts for the Python function that",
        "called them. uvloop's own polls, reads and callbacks are `the event loop itself`. A",
        "process that has to wait for a core is seen where it waits: other work (`load before`)",
        "blurs this.",
        "",
        headline,
        "",
    ]
    for each in profiles:
        work = each.work
        lines += [
            f"## `{work.name}`, {work.connections} connections, {each.way}: {each.role}",
            "",
            f"{each.microseconds:.0f} µs of CPU for a request.",
            "",
            "| µs | part | function |",
            "| --- | --- | --- |",
        ]
        for function, part in each.parts:
            shown = function.replace("|", "\\|")
            lines.append(f"| {part * each.microseconds:.1f} | {part:.1%} | `{shown}` |")
        lines.append("")
    return "\n".join(lines)
