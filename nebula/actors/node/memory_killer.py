"""Counts the processes that the kernel's memory killer has ended on this machine."""

from pathlib import Path

_COUNTS = Path("/proc/vmstat")


def killings() -> int | None:
    """Return how many processes it has ended since boot, in any container; None if unknown.

    Linux counts them as `oom_kill` in /proc/vmstat, since 4.13.
    """
    try:
        lines = _COUNTS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, number = line.partition(" ")
        if name == "oom_kill" and number.isdigit():
            return int(number)
    return None
