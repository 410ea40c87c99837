"""The file that a process's own log lines go to: it is created again if it was deleted.

A file that was deleted while it is open accepts further output, which nothing can read.
"""

import logging
import os
import stat
from pathlib import Path
from typing import TextIO

from nebula.store import private

_STDOUT = 1


class LastingOutput(logging.StreamHandler[TextIO]):
    """Writes to a stream; before each line it checks whether the file behind it still exists.

    A stream that is not a file, or whose path is unknown, is written to as it is.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._file = _file_of(stream)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        if self._file is not None and _is_deleted(self._file[0]) and self._anew(*self._file):
            said = "the log file was deleted: what was in it is lost, and it goes on here"
            notice = logging.LogRecord(__name__, logging.WARNING, __file__, 0, said, None, None)
            super().emit(notice)
        super().emit(record)

    def _anew(self, descriptor: int, path: Path) -> bool:
        """Have the stream, and stdout if it goes to the same file, write to a new file."""
        self.flush()
        same = [descriptor]
        if _same_file(descriptor, _STDOUT):
            same.append(_STDOUT)
        try:
            private.folder(path.parent)
            with private.opened(path, "ab") as made:
                for each in same:
                    os.dup2(made.fileno(), each)
        except OSError:
            return False  # with the next line it is tried again
        return True


def _file_of(stream: TextIO) -> tuple[int, Path] | None:
    """Return a stream's descriptor and the path of the file that it writes to."""
    try:
        descriptor = stream.fileno()
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not status.st_nlink:
            return None
        return descriptor, Path(f"/proc/self/fd/{descriptor}").readlink()
    except (OSError, ValueError):  # a stream of a test, or a system without /proc
        return None


def _is_deleted(descriptor: int) -> bool:
    try:
        return not os.fstat(descriptor).st_nlink
    except OSError:
        return False


def _same_file(one: int, other: int) -> bool:
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:
        return False
