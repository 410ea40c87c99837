"""What stands around every measurement: the machine it was on, its folder, and what ends it."""

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from types import FrameType

from benchmarks.data_plane.ways import REPOSITORY, commit
from nebula.store import server


def folder_option(parser: argparse.ArgumentParser) -> None:
    """Add the option `--folder`."""
    parser.add_argument(
        "--folder", type=_new, help="keep all logs in this new folder [a temporary one]"
    )


def _new(text: str) -> Path:
    folder = Path(text).resolve()
    if folder.exists():
        raise argparse.ArgumentTypeError(f"{folder} is there already")
    return folder


@contextlib.contextmanager
def session(name: str, kept: Path | None) -> Iterator[Path]:
    """Yield the folder of a run; a signal ends the run, and all that it started on the way out."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    if kept is not None:
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix=f"nebula-{name}-") as folder:
        yield Path(folder)


def _stop(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def headline(facts: Mapping[str, str]) -> str:
    """Write what `context` says in one line."""
    return "; ".join(f"{key} {value}" for key, value in facts.items())


def keep(file: Path | None, facts: Mapping[str, str], **told: object) -> None:
    """Write all figures of a run as JSON, where a file was named for them."""
    if file is not None:
        file.write_text(json.dumps({"context": facts, **told}, indent=1) + "\n")


def context() -> dict[str, str]:
    """Return a line with the machine and the versions that are measured."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line for line in lines if line.startswith("model name")).partition(": ")[2]
    told = subprocess.run([server.binary(), "--version"], capture_output=True, text=True)
    return {
        "CPU": f"{cpu}, {os.cpu_count()} cores",
        "load before": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "Python": platform.python_version(),
        "nats-server": told.stdout.strip().rpartition(" ")[2].removeprefix("v"),
        "uvicorn": version("uvicorn"),
        "Nebula": commit(REPOSITORY),
    }
