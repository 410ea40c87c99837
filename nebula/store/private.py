"""Folders and files that only their owner may read: logs contain secrets.

Modes are set one by one, not by the umask of the process, because a node's downloads go into a
cache that other users of the machine may share.
"""

import contextlib
import logging
import os
import stat
import tempfile
from pathlib import Path
from typing import IO, Any

log = logging.getLogger(__name__)

UMASK = 0o077
"""The umask for child processes whose files others should not read."""

_FOLDER = 0o700
_FILE = 0o600
_OWN = frozenset(("nats", "logs", "nodes", "cluster", "admin.key", "secrets"))
"""What Nebula puts into its folder: a folder with anything else in it is left unchanged."""


def folder(path: Path) -> Path:
    """Make a folder and its missing parents. Raise OSError."""
    if not path.is_dir():
        folder(path.parent)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=_FOLDER)
    return path


def opened(path: Path, mode: str) -> IO[Any]:
    """Open a file for writing; only the owner may read a new one. Raise OSError."""
    return open(path, mode, opener=_open)


def _open(path: str, flags: int) -> int:
    return os.open(path, flags, _FILE)


def write(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, in a folder that is made if it is missing.

    A reader finds the previous content or this one, also after a crash. Raise OSError.
    """
    folder(path.parent)
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    beside = Path(name)
    try:
        with os.fdopen(number, "wb") as output:
            output.write(content)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def tighten(home: Path, *below: Path) -> None:
    """Remove the rights of other users on existing folders of Nebula.

    `home`: Nebula's folder, which is changed without its content; each folder `below` is changed
    with all its content. Changes and failures are logged, and failures do not stop the start. Links
    are not followed.
    """
    places = [home] if _is_ours(home) else []
    places += {each for path in below for each in path.parents if home in each.parents}
    changed = sum(_tighten(path) for path in places)
    for path in below:
        for top, folders, files in os.walk(path):
            changed += sum(_tighten(Path(top, name)) for name in ("", *folders, *files))
    if changed:
        log.warning(
            "%s: %d files and folders were open to other users, and no longer are", home, changed
        )


def _is_ours(home: Path) -> bool:
    try:
        return home.name == ".nebula" or _OWN.issuperset(each.name for each in home.iterdir())
    except OSError:
        return False


def _tighten(path: Path) -> bool:
    try:
        mode = path.lstat().st_mode
        if not mode & UMASK or not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            return False
        path.chmod(stat.S_IMODE(mode) & ~UMASK)
    except FileNotFoundError:
        return False
    except OSError as error:
        log.warning("%s stays open to other users: %s", path, error.strerror)
        return False
    return True
