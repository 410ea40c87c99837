"""Probes a service that may be away: one request at a time tries it, and no other waits."""

from collections.abc import Iterator
from contextlib import contextmanager


class Away(Exception):
    """The service is away, and another request is probing it."""


class Probed:
    """A service that many requests use. It counts as away from a failure until the next success."""

    def __init__(self) -> None:
        self.away = False
        self._probing = False

    @contextmanager
    def asking(self) -> Iterator[bool]:
        """Use the service within the block; an exception that leaves the block counts as a failure.

        Yield whether this request is the probe. Raise Away if another request is.
        """
        probing = self.away
        if probing and self._probing:
            raise Away
        self._probing = self._probing or probing
        try:
            yield probing
        except Exception:
            self.away = True
            raise
        else:
            self.away = False
        finally:
            if probing:
                self._probing = False
