"""Folds what is stored of a response into the response. Pure."""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct, field

from nebula.events.stored_responses import (
    Asked,
    Began,
    Broke,
    Deleted,
    Ended,
    Entry,
    Event,
    Head,
    Progress,
)
from nebula.openai.response_events import numbered

QUEUED, RUNNING = "queued", "in_progress"


class StoredResponse(Struct, frozen=True, kw_only=True):
    """A response as far as it is stored.

    `events`: those of its stream. `section`: the number of the event with which its present answer
    begins. `attempt`, `writer`: of the last worker that wrote. `broke`: why engines have not
    finished it, one text for each.
    """

    head: Head
    response: dict[str, Any]
    asked: Asked | None = None
    ended: Ended | None = None
    events: list[Event] = field(default_factory=list)
    section: int = 0
    attempt: int = 0
    writer: str = ""
    broke: tuple[str, ...] = ()


class Folding:
    """The response as far as it has been folded."""

    def __init__(self) -> None:
        self.deleted = False
        self.asked: Asked | None = None
        self.ended: Ended | None = None
        self.response: dict[str, Any] = {}
        self.events: list[Event] = []
        self.section = self.attempt = 0
        self.writer = ""
        self.broke: tuple[str, ...] = ()

    def take(self, entry: Entry) -> None:
        """Fold one more entry."""
        match entry:
            case Asked():
                self._ask(entry)
            case Ended():
                self._end(entry)
            case Deleted():
                self.deleted = True
            case _:
                self._write(entry)

    @property
    def found(self) -> StoredResponse | None:
        """The response; None if it does not exist, or was deleted."""
        asked, ended = self.asked, self.ended
        head = asked.head if asked is not None else ended.head if ended is not None else None
        if head is None or self.deleted:
            return None
        return StoredResponse(
            head=head,
            response=self.response,
            asked=asked,
            ended=ended,
            events=self.events,
            section=self.section,
            attempt=self.attempt,
            writer=self.writer,
            broke=self.broke,
        )

    def _ask(self, asked: Asked) -> None:
        if self.asked is None:
            self.asked = asked
            self.response = msgspec.json.decode(asked.response)
            opening = ("response.created", "response.queued")
            self._add(0, [{"type": kind, "response": self.response} for kind in opening])
            self.section = len(self.events)

    def _write(self, entry: Began | Progress | Broke) -> None:
        """Take what a worker wrote, unless a later one has written before it."""
        if self.ended is not None or self._late(entry):
            return
        self.attempt, self.writer = entry.attempt, entry.writer
        match entry:
            case Broke(why=why):
                self.broke += (why,)
            case Progress(first=first, section=section, events=events):
                self.section = section
                self._add(first, events)
            case Began() if self.response.get("status") == QUEUED:
                self.response = {**self.response, "status": RUNNING}
                event = {"type": "response.in_progress", "response": self.response}
                self._add(len(self.events), numbered([event], len(self.events)))
                self.section = len(self.events)

    def _end(self, ended: Ended) -> None:
        """Take the end; the first one counts."""
        if self.ended is None and not (ended.writer and self._late(ended)):
            self.ended = ended
            self.response = msgspec.json.decode(ended.response)
            self._add(ended.first, ended.events)

    def _late(self, entry: Began | Progress | Broke | Ended) -> bool:
        own = (entry.attempt, entry.writer) == (self.attempt, self.writer)
        return not own and entry.attempt <= self.attempt

    def _add(self, first: int, events: list[Event]) -> None:
        """Add events, but those that are there already, and none after a gap."""
        there = len(self.events)
        if first <= there:
            self.events += numbered(events[there - first :], there)


def fold(entries: Iterable[Entry]) -> StoredResponse | None:
    """Return the response that its entries tell; None if it does not exist, or was deleted."""
    folding = Folding()
    for entry in entries:
        folding.take(entry)
    return folding.found
