"""What a machine offers: its cores, and the GPUs that NVML shows."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import psutil
import pynvml
import pytest

from nebula.actors.node import devices, identity
from nebula.events.memory import GIB
from nebula.events.values import Device


@pytest.mark.parametrize(
    ("real", "allowed", "limit", "cores"),
    [
        (8, 16, "max 100000", 8),
        (8, 16, None, 8),
        (8, 16, "350000 100000", 3),
        (8, 16, "50000 100000", 1),
        (8, 2, "max 100000", 2),
        (None, 64, "max 100000", 4),
    ],
)
def test_cores_are_real_ones_that_this_process_may_use(
    real: int | None,
    allowed: int,
    limit: str | None,
    cores: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if limit is not None:
        (tmp_path / "cpu.max").write_text(limit + "\n")
    monkeypatch.setattr(devices, "_CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: real)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)), raising=False)
    assert devices.cores() == cores


class Driver:
    """Stands for NVML: two GPUs, on the first of which another program has 30 GiB."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = 0
        for name in ("Init", "Shutdown", "DeviceGetCount", "DeviceGetHandleByIndex"):
            monkeypatch.setattr(pynvml, f"nvml{name}", getattr(self, name))
        monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda _: "NVIDIA H100")
        monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", self.memory)

    def Init(self) -> None:
        self.open += 1

    def absent(self) -> None:
        raise pynvml.NVMLError_LibraryNotFound

    def Shutdown(self) -> None:
        self.open -= 1

    def DeviceGetCount(self) -> int:
        return 2

    def DeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def memory(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(total=80 * GIB, free=(50 if handle == 0 else 80) * GIB)


def test_gpus_are_listed_with_all_their_memory_and_what_of_it_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = Driver(monkeypatch)
    assert devices.probe() == (
        Device(0, "gpu", "NVIDIA H100", 80 * GIB),
        Device(1, "gpu", "NVIDIA H100", 80 * GIB),
    )
    assert devices.gpus_free() == (50 * GIB, 80 * GIB)
    assert driver.open == 0


def test_a_gpu_is_told_from_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    Driver(monkeypatch)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda handle: f"GPU-{handle}".encode())
    assert [device.identity for device in devices.probe()] == ["GPU-0", "GPU-1"]


@pytest.mark.parametrize(
    ("limit", "own"), [(None, False), ("max", False), (str(2**60), False), (str(2**20), True)]
)
def test_a_machine_s_memory_is_all_its_nodes_and_a_container_s_share_its_own(
    limit: str | None, own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit + "\n")
    monkeypatch.setattr(devices, "_MEMORY_MAX", tmp_path / "memory.max")
    monkeypatch.setattr(identity, "boot", lambda: "b1")
    monkeypatch.setattr(pynvml, "nvmlInit", Driver(monkeypatch).absent)
    [cpu] = devices.probe()
    assert cpu.identity == ("" if own else "memory-b1")
    assert (cpu.memory == 2**20) == own


def test_devices_given_by_hand_are_a_node_s_own() -> None:
    assert [device.identity for device in devices.imagined("gpu:80GiB,cpu:8GiB")] == ["", ""]


def test_a_machine_without_a_driver_is_its_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise pynvml.NVMLError_LibraryNotFound

    monkeypatch.setattr(pynvml, "nvmlInit", absent)
    assert [device.kind for device in devices.probe()] == ["cpu"]
    assert devices.gpus_free() == ()


def test_a_driver_that_hangs_is_reported_and_delays_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()
    monkeypatch.setattr(pynvml, "nvmlInit", released.wait)
    with pytest.raises(devices.DriverSilent, match=r"has not answered for 0\.05 s"):
        devices.probe(patience=0.05)
    released.set()


def test_what_goes_wrong_with_a_look_is_raised_where_it_is_asked_for() -> None:
    def fails() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        devices.Look(fails).found(20)
