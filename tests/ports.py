"""TCP ports for servers of the tests, each handed out to one test process of this machine only."""

import contextlib
import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

FIRST, END = 15_000, 32_000
"""Below the range that Linux gives to connections and to programs that ask for any port."""

_LOCKS = (Path(tempfile.gettempdir()) / f"nebula-test-ports-{os.getuid()}").open("ab")
_TAKEN: set[int] = set()
"""The ports handed out by this process, which could lock their bytes a second time."""


def free_port() -> int:
    """Return a port that stays free until a server of this test process listens on it.

    The port's byte of a file shared by all test processes stays locked until this process ends:
    no other one is handed the port between the look and the use.
    """
    while True:
        port = random.SystemRandom().randrange(FIRST, END)
        if port in _TAKEN:
            continue
        with contextlib.suppress(OSError):
            fcntl.lockf(_LOCKS, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            _TAKEN.add(port)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
                return port
