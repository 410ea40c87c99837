"""How tests ask an engine itself, past the gateway."""

from pathlib import Path

import psutil

from nebula.actors.node.engine_sockets import place, socket_of


def socket_of_engine(pid: int, port: int) -> str:
    """Return the Unix socket on which a node's engine listens."""
    folder = Path(psutil.Process(pid).environ()["NEBULA_NODE_FOLDER"])
    return str(socket_of(place(folder), port))
