"""The keys of engines that listen on TCP ports: what asks them without their key is refused.

An engine's key lies beside the sockets of its node, in a file that only the node's user may read,
named by its port number as a socket is, so that the next process of the node finds it.
"""

import secrets
from pathlib import Path

from msgspec import Struct

from nebula.actors.node import engine_sockets
from nebula.store import private


class EngineKey(Struct, frozen=True):
    """The key of one engine, and its file. An engine of an older Nebula has the key ""."""

    file: Path
    text: str

    def write(self) -> None:
        """Write the file. Raise OSError if others could read it."""
        engine_sockets.prepare(self.file)
        with private.opened(self.file, "w") as file:
            file.write(self.text)


def new(sockets: Path, port: int) -> EngineKey:
    """Return a key that nothing has yet, for an engine that is to be started."""
    return EngineKey(_file(sockets, port), secrets.token_urlsafe(32))


def known(sockets: Path, port: int) -> EngineKey:
    """Return the key of a running engine that listens on a port."""
    file = _file(sockets, port)
    try:
        return EngineKey(file, file.read_text())
    except OSError:
        return EngineKey(file, "")


def _file(sockets: Path, port: int) -> Path:
    return engine_sockets.socket_of(sockets, port).with_suffix(engine_sockets.KEY)
