"""How many cores engines may use here."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from nebula.actors import devices


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
