"""What is done to a cluster of `nebula up` beside killing: full disks, stalls, pauses, clocks."""

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx
import psutil

from benchmarks.cluster import Cluster
from benchmarks.data_plane.processes import Failed
from nebula.store import streams
from nebula.store.connection import Connection

from .waves import Disturbed

STORE = 192 * 1024 * 1024  # bytes of the disk that the log lies on, where it is to become full
_CHUNK = b"\0" * (1024 * 1024)


class Standing:
    """A cluster of two `nebula up`, and what can be done to it. `clock`: see `stand_in_clock`."""

    def __init__(self, cluster: Cluster, clock: Path | None = None) -> None:
        self._cluster = cluster
        self._clock = clock
        self.gateways: Sequence[str] = cluster.gateways
        self.nats = cluster.nats
        self.logs = cluster.logs
        self.settle = cluster.settle

    def disturb(self, what: str, number: int) -> Disturbed:
        """Kill or disturb one part of the cluster. Raise Failed."""
        match what:
            case "disk":
                return self._fill()
            case "stall":
                return self._stall(number)
            case "pause":
                return self._pause()
            case "clock":
                return self._step(number)
            case "stream":
                return asyncio.run(self._delete(number))
        name = self._cluster.kill(what, number)
        gone = {int(name.rpartition("-")[2])} if what == "gateway" else set()
        return Disturbed(name, frozenset(gone))

    def _fill(self) -> Disturbed:
        """Fill the disk of the log to the last byte; its end makes room again."""
        filler = self._cluster.home / "nats" / "filler"
        with filler.open("wb", buffering=0) as output, contextlib.suppress(OSError):
            while output.write(_CHUNK):
                pass
        with filler.open("ab", buffering=0) as output, contextlib.suppress(OSError):
            while output.write(b"\0"):
                pass
        return Disturbed("disk of the log full", undo=filler.unlink)

    def _stall(self, number: int) -> Disturbed:
        """Make one engine stand still while its port stays open, until its node ends it."""
        name, url = sorted(self._cluster.engine_urls().items())[number]
        httpx.post(f"{url}/simulate", json={"stall": True}, trust_env=False, timeout=5)
        return Disturbed(f"{name} stands still")

    def _pause(self) -> Disturbed:
        """Stop every process of the cluster for a while, as a laptop's lid does."""
        processes = [*self._cluster.parts().values(), *self._cluster.engines().values()]
        for process in processes:
            process.suspend()

        def go_on() -> None:
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

        gateways = frozenset(range(len(self.gateways)))
        return Disturbed("everything paused", gateways, go_on)

    def _step(self, seconds: int) -> Disturbed:
        """Step the wall clock of all processes that have the stand-in."""
        if self._clock is None:
            raise Failed("this cluster has no stand-in for the clock")
        _set(self._clock, seconds)
        return Disturbed(f"clock stepped to {seconds:+d} s")

    async def _delete(self, number: int) -> Disturbed:
        """Delete one of the streams in memory, as `nats stream rm` does."""
        name = (streams.INFERENCE, streams.CLAIMS, streams.STATUS)[number]
        connection = await Connection(self._cluster.nats, "benchmark").open(patience=10)
        try:
            await connection.client.jetstream().delete_stream(name)
        finally:
            await connection.close()
        return Disturbed(f"stream {name} deleted")


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a disk of `STORE` bytes there; needs root. Raise Failed."""
    folder.mkdir(parents=True)
    line = ["mount", "-t", "tmpfs", "-o", f"size={STORE}", "tmpfs", str(folder)]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"a small disk can't be mounted: {done.stderr.strip()} (it needs root)")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def stand_in_clock(folder: Path, copy: Path) -> tuple[Path, Mapping[str, str]]:
    """Return the file that steps the wall clock, and the environment of whatever is to heed it.

    Each Python process of the Nebula in `copy` imports a stand-in for the clock: what `time.time`
    and the boot time of `/proc/stat` say is moved by the seconds in the file, as a real step moves
    them; the monotonic clock stays as it is. nats-server is not stepped.
    """
    file, module = folder / "clock", folder / "stand-in"
    _set(file, 0)
    module.mkdir()
    shutil.copy(Path(__file__).with_name("stepped_clock.py"), module / "sitecustomize.py")
    return file, {"NEBULA_BENCH_CLOCK": str(file), "PYTHONPATH": f"{copy}:{module}"}


def _set(file: Path, seconds: int) -> None:
    written = file.with_suffix(".new")
    written.write_text(f"{seconds}\n")
    written.replace(file)
