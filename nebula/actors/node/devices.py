"""What this machine offers to run engines on: its NVIDIA GPUs, or else its CPUs and memory."""

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pynvml

from nebula.events import memory
from nebula.events.values import Device, DeviceKind

T = TypeVar("T")

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def probe() -> tuple[Device, ...]:
    """List the GPUs that NVML shows; on a machine without any, its CPUs as one device."""
    return _gpus() or (_cpu(),)


def memory_free() -> int:
    """Give the bytes of main memory that could be had right now."""
    return int(psutil.virtual_memory().available)


def gpus_free() -> tuple[int, ...]:
    """Give the bytes of each GPU's memory that could be had right now; nothing without GPUs."""
    return _each_gpu(lambda _, handle: int(pynvml.nvmlDeviceGetMemoryInfo(handle).free))


def cores() -> int:
    """Give how many cores may be used here: real ones, fewer where a container has a limit."""
    real = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else real
    return max(1, min(real, allowed, _quota() or real))


def _quota() -> int | None:
    try:
        quota, period = _CPU_MAX.read_text().split()
    except (OSError, ValueError):
        return None
    return max(1, int(quota) // int(period)) if quota.isdigit() else None


def _gpus() -> tuple[Device, ...]:
    return _each_gpu(_gpu)


def _each_gpu(look: Callable[[int, Any], T]) -> tuple[T, ...]:
    """Look at every GPU through NVML; none where it shows none."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        count = pynvml.nvmlDeviceGetCount()
        return tuple(
            look(index, pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(count)
        )
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


def _gpu(index: int, handle: Any) -> Device:
    name = pynvml.nvmlDeviceGetName(handle)
    return Device(
        index,
        "gpu",
        name if isinstance(name, str) else name.decode(),
        int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
    )


def _cpu() -> Device:
    name = f"{platform.machine()}, {os.cpu_count()} cores"
    return Device(0, "cpu", name, _main_memory())


def _main_memory() -> int:
    """Give the machine's memory in bytes, or a container's limit where that is less."""
    total = int(psutil.virtual_memory().total)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def imagined(text: str) -> tuple[Device, ...]:
    """Read devices for a rehearsal: `gpu:80GiB,gpu:80GiB`. Raises ValueError."""
    devices = []
    for index, each in enumerate(text.split(",")):
        kind, colon, size = each.strip().partition(":")
        if not colon or kind not in ("gpu", "cpu"):
            raise ValueError(f"{each!r} is no device: write gpu:80GiB or cpu:64GiB")
        named: DeviceKind = "gpu" if kind == "gpu" else "cpu"
        devices.append(Device(index, named, "imagined", memory.parse(size)))
    return tuple(devices)
