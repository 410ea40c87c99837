"""A real disk of a few MiB in memory, which a test can fill up: mounted here, or in a namespace."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

HOLDER = 'mount -t tmpfs -o "$1" tmpfs "$2" && echo mounted && exec sleep 1000'


class SmallDisk:
    """`path`: where this process finds it, `within`: what must come before a command to find it."""

    def __init__(self, path: Path, within: tuple[str, ...] = ()) -> None:
        self.path = path
        self.within = within

    def fill(self, leave: int = 0) -> None:
        """Take all its room but `leave` bytes."""
        with (self.path / "fill").open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        if leave:
            with (self.path / "fill").open("r+b") as file:
                file.truncate(max(0, (self.path / "fill").stat().st_size - leave))

    def make_room(self) -> None:
        """Take away what filled it."""
        (self.path / "fill").unlink()


@contextlib.contextmanager
def small_disk(path: Path, options: str = "size=48m") -> Iterator[SmallDisk]:
    """Mount one: as root, or as anybody in a namespace of our own. It fails where neither goes."""
    path.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        try:
            yield SmallDisk(path)
        finally:
            subprocess.run(["umount", "-l", str(path)], check=True)
        return
    line = ["unshare", "-rUm", "sh", "-c", HOLDER, "sh", options, str(path)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "mounted\n", "no disk can be mounted here"
            enter = ("nsenter", "-U", "-m", "--preserve-credentials", "-t", str(holder.pid))
            seen = Path(f"/proc/{holder.pid}/root{path}")
            assert os.statvfs(seen).f_blocks, "it is mounted in the namespace only"
            yield SmallDisk(seen, enter)
        finally:
            holder.kill()
