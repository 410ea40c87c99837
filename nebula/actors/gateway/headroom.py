"""What requests may take of an allowance without a look at each of its purses. Pure.

Each request needs the same of all meters: one request, one in flight, and so many tokens. So it is
enough to count once what the purse with the least has left of each kind, and to bring all purses up
to date when something else reads or changes them.
"""

from collections.abc import Callable, Iterable
from typing import TypeAlias

from nebula.actors.gateway.purse import Purse

Left: TypeAlias = tuple[Purse, int]
"""A purse, and what no request has used or reserved of it."""

_PLENTY = 1 << 62
"""What is left where there is no limit."""

_NEVER = -1e9


class Headroom:
    """The room for further requests below the limits of one allowance; closed at first.

    `tokens`, `requests`, `in_flight`: what is left of each. `until`: when the lease ends (monotonic
    seconds). `turns`: when the first window ends (the server's seconds). While it is closed, what
    was taken here is settled purse by purse. `version` changes whenever it is opened or closed.
    """

    __slots__ = (
        "_change",
        "_closed",
        "_epochs",
        "_first_in_flight",
        "_first_requests",
        "_first_tokens",
        "_not_begun",
        "_of_requests",
        "_of_tokens",
        "_purses",
        "_reserved",
        "_used",
        "in_flight",
        "requests",
        "tokens",
        "turns",
        "until",
        "version",
    )

    def __init__(self, purses: Iterable[Purse], change: Callable[[], object]) -> None:
        """`change`: called before purses change while this headroom is closed."""
        self._purses = tuple(purses)
        self._epochs = tuple(purse.epoch for purse in self._purses)
        self._change = change
        self._closed = True
        self.turns, self.until, self.version = 0, _NEVER, 0
        self.tokens = self.requests = self.in_flight = 0
        self._of_requests: Left | None = None
        self._of_tokens: Left | None = None
        self._rebase()

    @property
    def closed(self) -> bool:
        """Whether requests have to look at the purses."""
        return self._closed

    @property
    def stale(self) -> bool:
        """Whether a purse owes nothing any more to what was taken here earlier."""
        return any(
            purse.epoch != epoch for purse, epoch in zip(self._purses, self._epochs, strict=True)
        )

    def open(self, until: float) -> None:
        """Allow requests until the lease ends, as far as the purses have room."""
        self.tokens = self.requests = self.in_flight = _PLENTY
        of_requests: Left | None = None
        of_tokens: Left | None = None
        for purse in self._purses:
            free = min(purse.free, purse.limit)
            left = purse.left
            if purse.of_tokens:
                self.tokens = min(self.tokens, free)
                if of_tokens is None or left < of_tokens[1]:
                    of_tokens = purse, left
            elif purse.lasting:
                self.in_flight = min(self.in_flight, free)
            else:
                self.requests = min(self.requests, free)
                of_requests = purse, left
        self._of_requests = of_requests and (of_requests[0], of_requests[1] - self.requests)
        self._of_tokens = of_tokens and (of_tokens[0], of_tokens[1] - self.tokens)
        self.turns = min((purse.end for purse in self._purses), default=_PLENTY)
        self.until = until
        self._closed = False
        self.version += 1
        self._rebase()

    def close(self) -> None:
        """Bring the purses up to date, and send all requests to them until `open`."""
        if self._closed:
            return
        self._closed = True
        self.until = _NEVER
        self.version += 1
        running = self._first_in_flight - self.in_flight
        begun = self._first_requests - self.requests
        tokens = self._first_tokens - self.tokens - self._used
        for purse in self._purses:
            if purse.of_tokens:
                purse.reserved += tokens
                purse.spent += self._used
                purse.taken += self._reserved
            else:
                purse.reserved += running
                purse.taken += begun + self._not_begun
                if not purse.lasting:
                    purse.spent += begun - running

    def _rebase(self) -> None:
        self._first_tokens, self._first_requests = self.tokens, self.requests
        self._first_in_flight = self.in_flight
        self._not_begun = self._reserved = self._used = 0

    # Requests

    def take(self, tokens: int, now: float, wall: float) -> bool:
        """Reserve what a request needs; return False, and reserve nothing, if that is not sure."""
        if (
            now >= self.until
            or wall >= self.turns
            or tokens > self.tokens
            or self.requests <= 0
            or self.in_flight <= 0
        ):
            return False
        self.tokens -= tokens
        self.requests -= 1
        self.in_flight -= 1
        self._reserved += tokens
        return True

    def settle(self, tokens: int, used: int | None) -> None:
        """Settle what a request took here with the tokens it used; None: it was not begun."""
        if self._closed:
            self._change()
            for purse, epoch in zip(self._purses, self._epochs, strict=True):
                purse.settle(tokens if purse.of_tokens else 1, epoch, used)
            return
        self.in_flight += 1
        if used is None:
            self._not_begun += 1
            self.requests += 1
            self.tokens += tokens
        else:
            self.tokens += tokens - used
            self._used += used

    # What clients are told

    @property
    def of_requests(self) -> Left | None:
        """The purse of requests, and what is left of it, which may be below 0; None for none."""
        found = self._of_requests
        return None if found is None else (found[0], found[1] + self.requests)

    @property
    def of_tokens(self) -> Left | None:
        """The purse of tokens of which the least is left, and how much of it; None for none."""
        found = self._of_tokens
        return None if found is None else (found[0], found[1] + self.tokens)
