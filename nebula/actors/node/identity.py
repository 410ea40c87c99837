"""Identifies a process beyond its pid: by its birth since boot, and the mark of its node.

No wall clock is used. Linux gives the start of a process in clock ticks since boot (field 22 of
/proc/PID/stat, proc(5)), and an id of each boot (/proc/sys/kernel/random/boot_id, random(4)):
neither changes when the clock is set. Elsewhere the process's creation time is used.
"""

import contextlib
import functools
from pathlib import Path

import psutil

from nebula.actors.node import engine_mark
from nebula.actors.node.engine_mark import EngineMark

_PROC = Path("/proc")
_STATE, _STARTED = 0, 19
"""Fields 3 and 22 of /proc/PID/stat, counted from after the name, which may contain anything."""


def birth(pid: int) -> str:
    """Return a process's unique birth, boot and start; "" if it is gone.

    A zombie counts as gone.
    """
    booted = boot()
    if not booted:
        return _created(pid)
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    if len(fields) <= _STARTED or fields[_STATE] in "ZXx":
        return ""
    return f"{booted}:{fields[_STARTED]}"


def mark(pid: int) -> EngineMark | None:
    """Return the mark of a process; None if it has none, or none that can be read.

    That is so if the process belongs to another user, or has written its title over its
    environment, as vLLM's children do.
    """
    try:
        return engine_mark.read((_PROC / str(pid) / "environ").read_bytes())
    except OSError:
        return None


def writes_to(pid: int, file: Path) -> bool:
    """Return whether the output or the errors of a process go to a file."""
    for number in (1, 2):
        with contextlib.suppress(OSError):
            if (_PROC / str(pid) / "fd" / str(number)).samefile(file):
                return True
    return False


@functools.cache
def boot() -> str:
    """Return the id of this machine's boot; "" if its kernel has none."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _created(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        gone = process.status() == psutil.STATUS_ZOMBIE
        return "" if gone else f"created:{process.create_time():.2f}"
    except psutil.Error:
        return ""
