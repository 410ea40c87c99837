"""The events that an operator must know of at once, each in one line. Pure."""

from collections import deque

from nebula.events.advised import why
from nebula.events.plain_text import one_line
from nebula.events.record import Record
from nebula.events.state import State
from nebula.events.vocabulary import (
    AdapterLoadFailed,
    DownloadFailed,
    EngineFailed,
    EngineReady,
    EngineResumed,
    EngineStalled,
    ModelRolledBack,
    ModelUnschedulable,
    NodeLost,
    NodeRegistered,
)
from nebula.history.description import describe, restart

LONGEST = 300
"""Characters of a line."""

MOST = 10
"""Lines in a time of EVERY."""

EVERY = 60.0
"""Seconds; see MOST."""


def news(record: Record, before: State) -> str:
    """Return what an event means for the operator; "" if it is not news.

    `before`: the state before the event.
    """
    replica = before.replicas.get(record.id)
    match record.content:
        case EngineFailed(retry_in=None, reason=reason):
            text = f"is given up, not tried again: {one_line(reason, 200)}; {why(record.id)}"
        case EngineFailed(reason=reason) as event:
            again = restart(event, replica, before)
            text = f"its engine ended: {one_line(reason, 200)}; {again}"
        case EngineReady() if replica is not None and replica.attempt > 1:
            text = "serves again"
        case NodeRegistered():
            node = before.nodes.get(record.id)
            if node is None or not node.lost:
                return ""
            text = "is back"
        case ModelUnschedulable(reason=reason):
            model = before.models.get(record.id)
            if model is None or model.unschedulable == reason:
                return ""
            text = describe(record)
        case (
            EngineStalled()
            | EngineResumed()
            | NodeLost()
            | ModelRolledBack()
            | DownloadFailed()
            | AdapterLoadFailed()
        ):
            text = describe(record)
        case _:
            return ""
    return one_line(f"{record.aggregate} {record.id}: {text}", LONGEST)


class Ration:
    """Lets MOST lines through in a time of EVERY, and says of the others how many they are."""

    def __init__(self) -> None:
        self._shown: deque[float] = deque()
        self._held = 0

    def pass_on(self, text: str, now: float) -> list[str]:
        """Return the lines to show when there is another one, at `now` (s)."""
        rest = self.rest(now)
        if len(self._shown) >= MOST:
            self._held += 1
            return rest
        self._shown.append(now)
        return [*rest, text]

    def rest(self, now: float) -> list[str]:
        """Return a line about those that were held back, once there is room for it."""
        while self._shown and self._shown[0] <= now - EVERY:
            self._shown.popleft()
        if not self._held or len(self._shown) >= MOST:
            return []
        more = "1 more event" if self._held == 1 else f"{self._held} more events"
        self._held = 0
        self._shown.append(now)
        return [f"{more} like these: `nebula events` lists them"]
