"""Which attempts of a request an engine runs, of all that reach it and in whatever order. Pure.

An attempt may be overtaken by the next one, or by the cancellation of both: it took another way.
"""

from collections import OrderedDict

REMEMBERED = 4096
"""Number of ended or cancelled requests that are remembered, so that a late copy is not run."""


class Attempts:
    """The attempts that are wanted no more, as far as an engine has been told or has run them."""

    def __init__(self) -> None:
        self._unwanted_below: OrderedDict[str, float] = OrderedDict()

    def wanted(self, identity: str, attempt: int, under_way: int = 0) -> bool:
        """Return whether to run an attempt, where an engine has that number `under_way`, or 0."""
        return attempt > under_way and attempt >= self._unwanted_below.get(identity, 0)

    def forgo(self, identity: str, below: float) -> None:
        """Run no attempts of a request with numbers under `below` from now on."""
        self._unwanted_below[identity] = max(below, self._unwanted_below.pop(identity, 0))
        if len(self._unwanted_below) > REMEMBERED:
            self._unwanted_below.popitem(last=False)  # a dict would search all that it has dropped
