"""The disk under a folder: how much room it has, and whether it takes a file."""

import errno
import os
import re
from pathlib import Path

from msgspec import Struct

PROBE = 256 * 1024
"""Bytes that are reserved on a disk to test it: the order of large events.

They are a reserve too: a disk with less room counts as full before the server's own writes fail.
"""

WRITTEN = 512
"""Bytes of them that are written and synced."""

_OCTAL = re.compile(r"\\([0-7]{3})")
_NAME = ".nebula-can-write"


class Disk(Struct, frozen=True):
    """A disk: its mount point, its bytes and, if limited, its inodes."""

    mount: str
    size: int = 0
    free: int = 0
    files: int = 0
    files_free: int = 0


def disk_of(folder: Path) -> Disk:
    """Return the disk that a folder is on. Raise OSError."""
    found = os.statvfs(folder)
    return Disk(
        mount_of(folder),
        found.f_blocks * found.f_frsize,
        found.f_bavail * found.f_frsize,
        found.f_files,
        found.f_favail,
    )


def mount_of(folder: Path) -> str:
    """Return the mount point of a folder's disk; the folder itself if unknown.

    The table's form: https://docs.kernel.org/filesystems/proc.html (3.5, mountinfo).
    """
    try:
        device = folder.stat().st_dev
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return str(folder)
    wanted = f"{os.major(device)}:{os.minor(device)}"
    resolved = folder.resolve()
    above: list[tuple[bool, int, str]] = []
    for line in lines:
        fields = line.split(" ")
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
        if resolved.is_relative_to(point):
            # Some file systems (overlayfs, btrfs) report a different device for files than in the
            # table.
            above.append((fields[2] == wanted, len(point), point))
    return max(above)[2] if above else str(folder)


def refusal(folder: Path) -> str:
    """Write a file to a folder's disk and remove it; return why that failed, else "".

    It may block for as long as the disk does.
    """
    probe = folder / _NAME
    try:
        handle = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            # Space is reserved but little is written, because this runs for years.
            os.posix_fallocate(handle, 0, PROBE)
            os.write(handle, bytes(WRITTEN))
            os.fsync(handle)
        finally:
            os.close(handle)
            probe.unlink(missing_ok=True)
    except OSError as error:
        return in_words(error)
    return ""


def in_words(error: OSError) -> str:
    """Return what an error of a disk means, for an operator."""
    match error.errno:
        case errno.ENOSPC:
            return "is full"
        case errno.EDQUOT:
            return "has no room left within this user's quota"
        case errno.EROFS:
            return "is read-only"
        case errno.EIO:
            return "answers with input/output errors"
        case _:
            return f"can't be written: {error.strerror or error}"
