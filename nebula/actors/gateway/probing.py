"""What may be away: while it is, one question finds out whether it is back, and no other waits."""

from collections.abc import Iterator
from contextlib import contextmanager


class Away(Exception):
    """It is away, and another question finds out whether it is back."""


class Probed:
    """What is asked by many. It counts as away from a question that fails until one is answered."""

    def __init__(self) -> None:
        self.away = False
        self._probing = False

    @contextmanager
    def asking(self) -> Iterator[bool]:
        """Ask within the block, which is left with an exception where no answer came.

        Yields whether this question finds out. Raises Away where another one does.
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
