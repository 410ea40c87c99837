"""The disk under a folder: its name, its room, and whether it takes a file."""

from __future__ import annotations

import errno
import os
import resource
import signal
from pathlib import Path

import pytest

from nebula.store import disk


def test_the_disk_of_a_folder_has_a_mount_above_it_and_room(tmp_path: Path) -> None:
    found = disk.disk_of(tmp_path)
    assert tmp_path.resolve().is_relative_to(found.mount)
    assert 0 < found.free <= found.size
    assert disk.mount_of(Path("/proc/self")) == "/proc"
    with pytest.raises(OSError, match="No such file"):
        disk.disk_of(tmp_path / "missing")


def test_a_folder_that_takes_a_file_keeps_none(tmp_path: Path) -> None:
    assert disk.refusal(tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


def test_why_a_folder_takes_no_file_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "No such file" in disk.refusal(tmp_path / "missing")

    def fails(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    assert disk.refusal(tmp_path) == "answers with input/output errors"
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_may_not_be_so_large_is_told(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        assert disk.refusal(tmp_path) == "can't be written: File too large"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert list(tmp_path.iterdir()) == []
