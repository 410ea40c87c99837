"""Bounds of what a gateway accepts at its sockets: connections and bytes of requests."""

import asyncio
import errno
import logging
import os
import resource
import time
from collections.abc import Callable

from nebula.actors.gateway.budget import Budget
from nebula.store.repetitions import Repetitions

log = logging.getLogger(__name__)

KEEP_ALIVE = 120.0
"""Default for the seconds that a connection may wait for its next request.

The client must be the first to give up: proxies keep connections for 60 s, Go's client for 90 s.
"""

OPEN_FILES = 65_536
"""Soft limit of open files to set, as far as the hard limit allows."""

OWN = 40
"""Open files of a gateway apart from its clients' connections: sockets, NATS, its log."""

TURNED_AWAY = 64
"""Connections beyond the bound that may be open while they are told so; fewer with few files."""

_LOOK_EVERY = 1.0


def raise_open_files() -> int:
    """Raise the soft limit of open files as far as allowed, and return the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return OPEN_FILES if soft == resource.RLIM_INFINITY else soft


def connections_within(open_files: int) -> int:
    """Return how many connections a limit of open files allows: three quarters of the rest.

    The other quarter is for connections that are refused, for files, and for outgoing connections.
    """
    return max(4, (open_files - OWN) * 3 // 4)


def _nothing() -> None:
    """Do nothing."""


class Capacity:
    """What the connections of a gateway share: their bounds and present use.

    `bodies`: the budget for the bytes of requests, including bytes that are not read yet. `lines`:
    the `fields` of all answers, as bytes. `left`: is called when a connection has ended.
    """

    def __init__(
        self,
        bodies: Budget,
        *,
        open_files: int = OPEN_FILES,
        keep_alive: float = KEEP_ALIVE,
    ) -> None:
        self.bodies = bodies
        self.open_files = open_files
        self.connections = connections_within(open_files)
        self.keep_alive = keep_alive
        self._turned_away_at_most = min(TURNED_AWAY, max(1, (open_files - OWN) // 8))
        self.left: Callable[[], None] = _nothing
        self.open = 0
        self.turned_away = 0
        self._said = Repetitions()
        self.fields: list[tuple[bytes, bytes]] = []
        self.lines = b""

    def renew_lines(self, fields: list[tuple[bytes, bytes]]) -> bytes:
        """Return the lines of fields that all answers have; uvicorn renews them once a second."""
        self.fields = fields
        self.lines = b"".join(b"%b: %b\r\n" % field for field in fields)
        return self.lines

    def enter(self) -> bool:
        """Count a connection; return False if it is one too many and must be told so."""
        self.open += 1
        if self.open - self.turned_away <= self.connections:
            return True
        self.turned_away += 1
        self._say(
            "connections",
            f"{self.connections} connections are open, as many as the limit of open files "
            f"({self.open_files}) lets this gateway take; more are refused with 503. "
            "A higher limit (ulimit -Hn, LimitNOFILE=) lets it take more",
        )
        return False

    @property
    def crowded(self) -> bool:
        """Whether there are too many refused connections to tell them why."""
        return self.turned_away > self._turned_away_at_most

    def leave(self, *, entered: bool) -> None:
        """Stop counting a connection."""
        self.open -= 1
        self.turned_away -= not entered
        self.left()

    async def watch(self) -> None:
        """Check regularly whether files can still be opened, and log it if they can't.

        uvloop silently drops connections for which it has no file descriptor.
        """
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            try:
                os.close(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    whose = "this process" if error.errno == errno.EMFILE else "this machine"
                    self._say(
                        "files",
                        f"no file descriptor is left: {whose} has as many files open as it may "
                        f"({self.open_files} for this process), {self.open} of them connections; "
                        "new ones are dropped until some end",
                    )

    def _say(self, what: str, text: str) -> None:
        if self._said.due(what, time.monotonic()):
            log.warning("%s", text)
