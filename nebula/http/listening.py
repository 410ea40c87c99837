"""The gateway's listening sockets: one address, taken connections from several times a turn.

libuv, which uvloop is made of, takes one connection from each listening socket in a turn of the
event loop. Under load a turn takes a tenth of a second, and those who connect anew would wait for
many seconds while the kernel's queue runs over. Each descriptor of a socket counts as one more.
"""

import socket

TURNS_TAKE = 16
"""Connections that are taken at most in one turn of the event loop."""

_BACKLOG = 2048


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen on an address. Raises OSError."""
    first = socket.create_server((host, port), backlog=_BACKLOG)
    return [first, *(first.dup() for _ in range(TURNS_TAKE - 1))]
