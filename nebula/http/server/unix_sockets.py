"""A gateway's Unix socket: a file by which those programs reach it that its mode permits."""

import contextlib
import errno
import fcntl
import os
import socket
import stat
from pathlib import Path

from nebula.http.server.listening import BACKLOG, TURNS_TAKE, CantListen

SCHEME = "unix:"
"""What the address of a Unix socket begins with."""

MODE = 0o600
"""Only the user of the gateway may connect by default: it is as good as a login on the nodes."""

LONGEST = 107
"""Bytes of a socket's path at most (unix(7), Linux)."""


class UnixSocket:
    """The place of a socket that a gateway listens on; `mode`: its file's permissions."""

    def __init__(self, path: Path, mode: int = MODE) -> None:
        self.path = path.absolute()
        self._mode = mode
        self._made: tuple[int, int] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"{SCHEME}{self.path}"

    @property
    def described(self) -> str:
        """Where it is, for a line of the log."""
        return self.url

    def listen(self, turns_take: int = TURNS_TAKE) -> list[socket.socket]:
        """Listen; replace a socket that a dead process has left. Raise CantListen.

        `turns_take`: the number of sockets that it returns.

        A lock on the folder keeps two gateways from replacing each other's socket.
        """
        if len(os.fsencode(self.path)) > LONGEST:
            raise self._cant(errno.ENAMETOOLONG, f"its path has more than {LONGEST} bytes")
        try:
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise self._cant(error.errno, f"{self.path.parent}: {error.strerror}") from error
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            self._make_room()
            return self._bind(turns_take)
        except CantListen:
            raise
        except OSError as error:
            raise self._cant(error.errno, str(error.strerror)) from error
        finally:
            os.close(folder)

    def close(self) -> None:
        """Remove the file, unless it is another gateway's by now."""
        with contextlib.suppress(OSError):
            if self._made == _identity(self.path.lstat()):
                self.path.unlink()

    def _make_room(self) -> None:
        """Remove a socket that no process listens on. Raise CantListen for anything else."""
        try:
            there = self.path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(there.st_mode):
            raise self._cant(errno.EEXIST, "there is a file of another kind")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as asking:
            found = asking.connect_ex(str(self.path))
        if found != errno.ECONNREFUSED:
            used = found in (0, errno.EAGAIN)
            raise self._cant(
                errno.EADDRINUSE, "another process listens on it" if used else os.strerror(found)
            )
        self.path.unlink()

    def _bind(self, turns_take: int) -> list[socket.socket]:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            made.bind(str(self.path))
            self._made = _identity(self.path.lstat())
            self.path.chmod(self._mode)
            made.listen(BACKLOG)
        except OSError:
            made.close()
            self.close()
            raise
        finally:
            os.umask(before)
        return [made, *(made.dup() for _ in range(turns_take - 1))]

    def _cant(self, number: int | None, reason: str) -> CantListen:
        return CantListen(number, f"can't listen on {self.url}: {reason}")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
