"""How many cores a process may use, and how many of them the embedded nats-server takes."""

import os
from pathlib import Path

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def usable() -> int:
    """Return how many cores this process may use: those of the machine, or a container's limit."""
    machine = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    return max(1, min(allowed, _quota() or allowed))


def of_server() -> int:
    """Return how many cores the embedded nats-server works on at once: half of them.

    It has few connections, and shares the cores with the processes at their other ends. With one
    thread for each core most messages wake another thread, which costs more than the message.
    """
    return max(1, usable() // 2)


def _quota() -> int | None:
    try:
        quota, period = _CPU_MAX.read_text().split()
    except (OSError, ValueError):
        return None
    return max(1, int(quota) // int(period)) if quota.isdigit() else None
