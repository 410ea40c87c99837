"""The Unix sockets on which a node's engines listen, in a folder that only the node's user enters.

A socket is named by its engine's port number, so that the next process of the node finds it.
"""

import contextlib
import hashlib
import os
import stat
from collections.abc import Collection
from pathlib import Path

from nebula.store import private

LONGEST = 107
"""Longest path of a socket that Linux takes, in bytes."""

KEY = ".key"
"""How the files end that hold the keys of engines which listen on TCP ports instead."""

EVENTS = ".kv"
"""How the sockets end on which engines publish what their KV caches hold."""

_ENDS = (".sock", KEY, EVENTS)
_SHORT = Path("/tmp")


def place(folder: Path) -> Path:
    """Return the folder of the sockets of the node with this `folder`."""
    usual = folder / "sockets"
    if len(os.fsencode(socket_of(usual, 65_535))) <= LONGEST:
        return usual
    name = hashlib.blake2b(os.fsencode(folder), digest_size=8).hexdigest()
    return _SHORT / f"nebula-{os.geteuid()}-{name}"


def socket_of(sockets: Path, port: int) -> Path:
    """Return the path of the socket of the engine with a port number."""
    return sockets / f"{port}.sock"


def events_of(sockets: Path, port: int) -> Path:
    """Return the path of the socket on which that engine publishes what its KV cache holds."""
    return sockets / f"{port}{EVENTS}"


def prepare(socket: Path) -> None:
    """Make room for an engine's socket. Raise OSError if others could reach it."""
    private.folder(socket.parent)
    found = socket.parent.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(f"{socket.parent} belongs to another user")
    if stat.S_IMODE(found.st_mode) & 0o077:
        socket.parent.chmod(0o700)
    socket.unlink(missing_ok=True)


def tidy(sockets: Path, kept: Collection[int]) -> None:
    """Remove the sockets and keys of engines that are gone, and the folder once it is empty."""
    there = {socket_of(sockets, port).stem for port in kept}
    with contextlib.suppress(OSError):
        for file in [each for end in _ENDS for each in sockets.glob(f"*{end}")]:
            if file.stem not in there:
                file.unlink()
        sockets.rmdir()
