"""An exported log as the console shows it: read once, then from the nearest of some kept places."""

import asyncio
import time
from array import array
from bisect import bisect_right
from collections.abc import AsyncGenerator, Sequence
from itertools import islice
from pathlib import Path

from nebula.events import subjects
from nebula.events.folding import Folding
from nebula.events.record import Entry, Record, read_entry
from nebula.events.state import EMPTY, State
from nebula.events.usage import UsageRolledUp
from nebula.events.version import too_new
from nebula.history.moments import Moment
from nebula.history.outcome import Coming
from nebula.history.replay import BadLog
from nebula.http.shown_log import ShownLog
from nebula.store import usage_log
from nebula.store.archive import Reader, ReadingPlace
from nebula.store.usage import Pace, unhurried
from nebula.store.usage_log import Usage

BATCH = 500
KEPT = 400
"""States that are kept, at most: more of them make a move of the slider quicker."""

LEAST = 500
"""Events between two kept states, at least."""


class FileLog(ShownLog):
    """An exported file. It is read as a whole: Raise BadArchive, BadLog."""

    live = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self.file = str(path)
        self._leaving = asyncio.Event()
        self._states: list[State] = [EMPTY]
        self._places: list[ReadingPlace | None] = [None]
        self._state: State = EMPTY
        self._rolled_up: list[UsageRolledUp] = []
        self._touched: dict[str, array[int]] = {}
        self._used: tuple[int, int, Usage] | None = None
        with path.open("rb") as file:
            reader = Reader(file, str(path))
            every = max(LEAST, reader.last // KEPT)
            folding, records = Folding(EMPTY), reader.records()
            while part := list(islice(records, every)):
                folding.take(part)
                self._state = folding.state()
                self._note(part)
                if len(part) == every:
                    self._keep(reader)
        if self._state.seq == 0:
            raise BadLog(f"{path} is empty: nothing has happened yet")
        reason = too_new(self._state)
        if reason is not None:
            raise BadLog(f"{path}: {reason}")

    def _note(self, records: list[Record]) -> None:
        """Note which aggregates have events after the newest kept state, and what was used."""
        self._rolled_up += [each.content for each in records if type(each.content) is UsageRolledUp]
        for aggregate in {each.subject.rpartition(".")[0] for each in records}:
            self._touched.setdefault(aggregate, array("I")).append(len(self._states) - 1)

    def _keep(self, reader: Reader) -> None:
        self._states.append(self._state)
        self._places.append(ReadingPlace(self._state.seq, reader.offset, reader.chain))

    @property
    def state(self) -> State:
        """The state at the end of the log."""
        return self._state

    @property
    def able(self) -> bool:
        """Whether the log can be read: a file can."""
        return True

    @property
    def leaving(self) -> asyncio.Event:
        """Set once the server stops."""
        return self._leaving

    async def entries(self, after: int, until: int) -> AsyncGenerator[list[Entry], None]:
        """Yield the entries after one sequence, up to another. Raise BadArchive."""
        place = self._places[bisect_right(self._states, after, key=lambda each: each.seq) - 1]
        with self._path.open("rb") as file:
            last = min(until, self._state.seq)
            if last <= after:
                return
            reader = Reader(file, str(self._path), last, place)
            wanted = (entry for entry in reader.entries() if entry.seq > after)
            while batch := list(islice(wanted, BATCH)):
                yield batch

    async def follow(self, after: int) -> AsyncGenerator[list[Record], None]:
        """Yield every record after a sequence, and then wait: a file does not grow."""
        async for batch in self.entries(after, self._state.seq):
            yield [read_entry(entry) for entry in batch]
        await self._leaving.wait()

    async def silent(self, awaited: Sequence[Coming]) -> str:  # noqa: ARG002
        """Return nothing: a log of a file waits for no actor."""
        return ""

    async def trouble(self) -> str:
        """Return nothing: a log of a file takes no events."""
        return ""

    async def events_of(
        self, kind: str, identity: str, until: int, pace: Pace = unhurried, *, only: str = ""
    ) -> AsyncGenerator[Record, None]:
        """Yield the events of one aggregate up to a sequence. Raise BadArchive."""
        start = subjects.events_of(kind, identity).removesuffix(">")
        begins = [each.seq for each in self._states]
        ends = [*begins[1:], self._state.seq]
        for place in self._touched.get(start.removesuffix("."), ()):
            async for batch in self.entries(begins[place], min(until, ends[place])):
                began = time.monotonic()
                for entry in batch:
                    if entry.subject.startswith(start) and entry.subject.endswith(only):
                        yield read_entry(entry)
                await pace(time.monotonic() - began)

    async def usage(self, since: int, until: int, pace: Pace = unhurried) -> Usage:  # noqa: ARG002
        """Return what the log has of what was used in the hours from `since` to before `until`.

        The last answer is kept: the moments of an hour have the same.
        """
        if self._used is None or self._used[:2] != (since, until):
            found = usage_log.in_events(self._rolled_up, since, until)
            self._used = (since, until, found)
        return self._used[2]

    async def used(self, kind: str, identity: str) -> None:  # noqa: ARG002
        """Return None: a log does not tell what is used of limits."""
        return

    async def before(self, wanted: Moment, known: State) -> State:
        """Return the latest kept state at or before a moment; `known` if none is later."""
        fits = (each for each in reversed(self._states) if not wanted.passed(each.seq, each.time))
        found = next(fits, EMPTY)
        return found if found.seq > known.seq else known
