"""Processes of a measurement: how they start, what CPU time they took, and that all of them end."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import httpx
import psutil

from nebula.store.server import die_with_parent

ENGINE = "standin.py"
"""File of the engine that stands in for vLLM."""


class Failed(Exception):
    """Something could not be started, installed or measured; the text says why."""


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    line: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in the log's folder, and end it and all that came of it."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=log.parent,
            env={**os.environ, **(environment or {})},
            preexec_fn=die_with_parent,
            # A Ctrl-C is for this program, which ends all others in its own order.
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes], patience: float = 45.0) -> None:
    """Ask it to end; after some time kill whatever is left of it and its descendants."""
    members = family(process.pid)
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def family(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants; none where it has ended."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(roots: Sequence[int]) -> dict[str, float]:
    """Return the CPU seconds that processes and their descendants took so far, by role."""

    def taken(process: psutil.Process) -> float:
        times = process.cpu_times()
        # A child that has ended counts in the parent that waited for it.
        ended: float = times.children_user + times.children_system
        return float(times.user + times.system + ended)

    return _sums(roots, taken)


def memory(roots: Sequence[int]) -> dict[str, float]:
    """Return the memory (RSS, bytes) of processes and their descendants, by role."""
    return _sums(roots, lambda process: float(process.memory_info().rss))


def open_files(roots: Sequence[int]) -> dict[str, float]:
    """Return how many files processes and their descendants have open, by role."""
    return _sums(roots, lambda process: float(process.num_fds()))


def _sums(roots: Sequence[int], measure: Callable[[psutil.Process], float]) -> dict[str, float]:
    sums: defaultdict[str, float] = defaultdict(float)
    for root in roots:
        for member in family(root):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                sums[role(member.cmdline())] += measure(member)
    return dict(sums)


def spent(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return what each role took in between."""
    return {role: after[role] - before.get(role, 0.0) for role in after}


def role(line: list[str]) -> str:
    """Return what a process is, from its command line."""
    if "nebula.cli.main" in line:
        return line[line.index("nebula.cli.main") + 1]
    engines = ("nebula.engines.simulated", "vllm.entrypoints.openai.api_server")
    if any(name in line for name in engines) or any(Path(word).name == ENGINE for word in line[:3]):
        return "engine"
    if len(line) > 2 and line[1] == "-m":
        return line[2]
    if any("multiprocessing" in word for word in line):
        return "worker"
    program = Path(line[0]).name if line else ""
    return Path(line[1]).name if program.startswith("python") and len(line) > 1 else program


def last_words(log: Path, lines: int = 4) -> str:
    """Return the end of a log, for the reason of a failure."""
    text = log.read_text(errors="replace").splitlines()
    return " / ".join(line.strip() for line in text[-lines:]) or "it said nothing"


def await_answer(
    url: str,
    process: subprocess.Popen[bytes],
    log: Path,
    *,
    body: Mapping[str, object] | None = None,
    patience: float = 60.0,
) -> httpx.Response:
    """Ask until the answer is 200, while the process lives. Raise Failed."""
    deadline = time.monotonic() + patience
    last = "no answer"
    with httpx.Client(trust_env=False, timeout=20) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                reason = last_words(log)
                raise Failed(f"it ended with code {process.returncode}: {reason}")
            try:
                answer = client.get(url) if body is None else client.post(url, json=body)
                if answer.status_code == 200:
                    return answer
                last = f"{answer.status_code} {answer.text[:300]}"
            except httpx.HTTPError as error:
                last = repr(error)
            time.sleep(0.1)
    raise Failed(f"{url} did not answer in {patience:.0f} s: {last}; {last_words(log)}")
