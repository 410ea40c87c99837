"""The queues of a router: for each model the requests that clients wait for, and those of slack.

Slack takes spare capacity only, so it waits apart: it counts neither as demand nor towards the
bounds of what clients wait for, and has bounds of its own. Pure: the caller reads the clock.
"""

import math
from collections.abc import Mapping

from nebula.actors.router.fair_queue import FairQueue, QueuedRequest
from nebula.events import memory
from nebula.events.heartbeats import QueueLength
from nebula.events.memory import MIB

WAITING_MEMORY = 512 * MIB
"""Default for the bytes of requests that may wait in a router."""

ONE_MODELS_PART = 0.5
"""The part of them that requests for one model may use, so that other models have room."""

SLACK_PART = 0.125
"""The part of them that slack of all models may use, so that clients have the rest."""

UNKNOWN_WAITING = 256
"""Number of requests that may wait for a model that a router does not know yet."""


class Line:
    """What waits for one model: what clients wait for (`asked`), and `slack` behind all of it."""

    def __init__(self) -> None:
        self.asked = FairQueue()
        self.slack = FairQueue()

    def __bool__(self) -> bool:
        return bool(self.asked) or bool(self.slack)

    @property
    def size(self) -> int:
        """The bytes of all that waits."""
        return self.asked.size + self.slack.size

    def remove(self, identity: str) -> None:
        """Remove a request, whichever queue it is in."""
        if self.asked.remove(identity) is None:
            self.slack.remove(identity)

    def expired(self, now: float) -> list[QueuedRequest]:
        """Remove and return all requests that have waited too long."""
        return [*self.asked.expired(now), *self.slack.expired(now)]

    def length(self, now: float) -> QueueLength:
        """Return how many requests wait, and for how long."""
        return QueueLength(
            len(self.asked),
            round(longest(self.asked, now), 3),
            len(self.slack),
            round(longest(self.slack, now), 3),
        )


def longest(queue: FairQueue, now: float) -> float:
    """Return for how many seconds the oldest request of a queue has waited."""
    return now - (queue.oldest() or now)


def retry_after(queue: FairQueue, now: float) -> int:
    """Return the seconds to retry after: at least as long as the first in the queue has waited."""
    return min(60, max(1, math.ceil(longest(queue, now))))


def positions(lines: Mapping[str, Line], model: str, most: int) -> dict[str, int]:
    """Return the place of each queued request, from 1: slack comes behind all others.

    `model`: of one model only, or "" for all. At most `most` places of each model are told.
    """
    found: dict[str, int] = {}
    for identity, line in lines.items():
        if model in ("", identity):
            order = (line.asked.order() + line.slack.order())[:most]
            found |= {each: place for place, each in enumerate(order, 1)}
    return found


class Lines(dict[str, Line]):
    """The lines of all models by their ids. `bound`: the bytes that may wait in all of them."""

    def __init__(self, bound: int) -> None:
        super().__init__()
        self._bound = bound

    def full(self, name: str, line: Line, most: int, size: int, *, slack: bool) -> str | None:
        """Return which bound keeps a request of `size` bytes out of a line, if one does.

        `most`: the number of requests that may wait in it, and as many of slack.
        """
        queue = line.slack if slack else line.asked
        if len(queue) >= most:
            return f"model {name!r} is busy: {len(queue)} requests wait already"
        if slack:
            waiting, bound = sum(each.slack.size for each in self.values()), SLACK_PART
            if waiting + size > int(self._bound * bound):
                return (
                    f"the router is busy: requests of {memory.text(waiting)} wait for spare "
                    f"capacity already, and {memory.text(int(self._bound * bound))} may, an eighth "
                    "of its --waiting-memory"
                )
        own = int(self._bound * ONE_MODELS_PART)
        if not slack and queue.size + size > own:
            return (
                f"model {name!r} is busy: requests of {memory.text(queue.size)} wait already, and "
                f"{memory.text(own)} may, half of the router's --waiting-memory"
            )
        waiting = sum(each.size for each in self.values())
        if waiting + size > self._bound:
            return (
                f"the router is busy: requests of {memory.text(waiting)} wait in it already, and "
                f"{memory.text(self._bound)} may (--waiting-memory)"
            )
        return None
