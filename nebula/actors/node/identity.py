"""Which process a pid means: its birth, counted from the machine's boot, and the mark of its node.

No wall clock is asked. Linux tells when a process began in clock ticks since boot (field 22 of
/proc/PID/stat, proc(5)), and names each boot (/proc/sys/kernel/random/boot_id, random(4)): both
stay what they are when somebody steps the clock. Elsewhere the process's creation time is taken,
as its kernel tells it.
"""

import functools
from pathlib import Path

import psutil

_PROC = Path("/proc")
_STATE, _STARTED = 0, 19
"""Fields 3 and 22 of /proc/PID/stat, counted from behind the name, which may hold anything."""


def birth(pid: int) -> str:
    """Return what no other process of this machine has: boot and start; "" where it is gone.

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


def marked(pid: int, node: str, folder: str) -> bool | None:
    """Return whether a process was started by this node; None where it can't be told.

    It can't where the process is not ours to read, or has written its title over its environment,
    as vLLM's children do.
    """
    try:
        block = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return None
    variables = set(block.split(b"\0"))
    if not any(variable.startswith((b"PATH=", b"NEBULA_")) for variable in variables):
        return None
    return {b"NEBULA_NODE=" + node.encode(), b"NEBULA_NODE_FOLDER=" + folder.encode()} <= variables


@functools.cache
def boot() -> str:
    """Return the name of this machine's boot; "" where its kernel has none."""
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
