"""The devices of this machine for engines: its NVIDIA GPUs, or else its CPUs and memory."""

import os
import platform
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import psutil
import pynvml

from nebula.actors.node import identity
from nebula.events import memory
from nebula.events.values import Device, DeviceKind

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds to wait for NVML. Without the persistence daemon a driver takes some to wake up."""

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
_MEMORY_MAX = Path("/sys/fs/cgroup/memory.max")


class DriverSilent(Exception):
    """NVIDIA's driver has not answered in time."""


class Look(Generic[T]):
    """A query of the GPUs in a thread of its own, which can be abandoned: drivers may hang."""

    def __init__(self, look: Callable[[], T]) -> None:
        self._look = look
        self._answer: queue.SimpleQueue[T | Exception] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="look at GPUs", daemon=True).start()

    def _run(self) -> None:
        try:
            self._answer.put(self._look())
        except Exception as error:
            self._answer.put(error)

    def found(self, patience: float) -> T:
        """Return the result within this many seconds. Raise DriverSilent."""
        try:
            found = self._answer.get(timeout=patience)
        except queue.Empty:
            raise DriverSilent(
                f"NVIDIA's driver (NVML) has not answered for {patience:g} s; try `nvidia-smi`"
            ) from None
        if isinstance(found, Exception):
            raise found
        return found


def probe(patience: float = PATIENCE) -> tuple[Device, ...]:
    """Return the GPUs that NVML lists, or the machine's CPUs as one device if there are none.

    Raise DriverSilent if that takes more than `patience` seconds.
    """
    return Look(_gpus).found(patience) or (_cpu(),)


def memory_free() -> int:
    """Return the available bytes of main memory."""
    return int(psutil.virtual_memory().available)


def gpus_free() -> tuple[int, ...]:
    """Return the available bytes of each GPU's memory; nothing without GPUs."""
    return _each_gpu(lambda _, handle: int(pynvml.nvmlDeviceGetMemoryInfo(handle).free))


def cores() -> int:
    """Return how many cores may be used here: physical ones, or a container's limit."""
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
    """Return every GPU that NVML lists."""
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
        _uuid(handle),
    )


def _uuid(handle: Any) -> str:
    """Return the driver's unique id of a GPU, or of a part of it; "" if it has none."""
    try:
        found = pynvml.nvmlDeviceGetUUID(handle)
    except pynvml.NVMLError:
        return ""
    return found if isinstance(found, str) else str(found.decode())


def _cpu() -> Device:
    """Return the machine's memory as a device, which other nodes on the machine share.

    A container with a memory limit has its own device, since the limit divides the machine.
    """
    name = f"{platform.machine()}, {os.cpu_count()} cores"
    total, limit, boot = int(psutil.virtual_memory().total), _memory_limit(), identity.boot()
    if limit is not None and limit < total:
        return Device(0, "cpu", name, limit)
    return Device(0, "cpu", name, total, f"memory-{boot}" if boot else "")


def _memory_limit() -> int | None:
    try:
        limit = _MEMORY_MAX.read_text().strip()
    except OSError:
        return None
    return int(limit) if limit.isdigit() else None


def imagined(text: str) -> tuple[Device, ...]:
    """Return devices for a rehearsal: `gpu:80GiB,gpu:80GiB`. Raise ValueError."""
    devices = []
    for index, each in enumerate(text.split(",")):
        kind, colon, size = each.strip().partition(":")
        if not colon or kind not in ("gpu", "cpu"):
            raise ValueError(f"{each!r} is not a device: write gpu:80GiB or cpu:64GiB")
        named: DeviceKind = "gpu" if kind == "gpu" else "cpu"
        devices.append(Device(index, named, "imagined", memory.parse(size)))
    return tuple(devices)
