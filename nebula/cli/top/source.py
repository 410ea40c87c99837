"""Where `nebula top` gets what it shows: from a cluster's log as it grows, or from an exported log.

Both show any past moment. The states that were passed on the way to one are kept, so that a step
of the slider reads little.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping

from nebula.actors.in_flight_asking import InFlight, list_in_flight
from nebula.actors.projection import Projection
from nebula.cli.log_source import LivePast, Past, state_at
from nebula.events.record import Entry, Record, read_entry
from nebula.events.requests_in_flight import InFlightQuestion
from nebula.events.state import EMPTY, State
from nebula.history.moments import Moment
from nebula.http.console.file_log import FileLog
from nebula.store import usage_log
from nebula.store.connection import Unavailable
from nebula.store.ledger import LedgerStore
from nebula.store.usage_log import Usage

KEPT = 64
"""States that are kept to continue from, at most; states share what is the same in them."""

BATCH = 500


class Source(ABC):
    """A log with the state at its end."""

    live = True

    def __init__(self, past: Past) -> None:
        self.past = past
        self._kept: OrderedDict[int, State] = OrderedDict()

    @property
    @abstractmethod
    def newest(self) -> State:
        """The state at the end of the log."""

    @property
    def trouble(self) -> str:
        """Why the log can't be followed now; "" if it can."""
        return ""

    @abstractmethod
    async def grown(self) -> None:
        """Wait until the log has grown. Raise what ended it."""

    @abstractmethod
    async def records(self, after: int, until: int) -> list[Record]:
        """Return the records after one sequence, up to another. Raise Unavailable, BadArchive."""

    @abstractmethod
    async def requests(self) -> InFlight:
        """Return the requests in flight. Raise Unavailable."""

    @abstractmethod
    async def usage(self, since: int, until: int) -> Usage:
        """Return what was used in the hours from `since` to before `until`. Raise Unavailable."""

    @abstractmethod
    async def used(self, kind: str, identity: str) -> Mapping[str, int]:
        """Return what is used of the limits of a key or a tenant. Raise Unavailable."""

    async def at(self, wanted: Moment) -> State:
        """Return the state at a moment. Raise BadMoment, Unavailable, BadArchive, BadLog."""
        newest = self.newest
        if wanted.seq == newest.seq or (wanted.time or 0) > newest.time:
            return newest
        found = await state_at(_Remembering(self.past, self._kept), wanted, self._keep)
        self._keep(found)
        return found

    def _keep(self, state: State) -> None:
        self._kept[state.seq] = state
        self._kept.move_to_end(state.seq)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)


class _Remembering:
    """A log that begins with the nearest kept state."""

    def __init__(self, past: Past, kept: OrderedDict[int, State]) -> None:
        self._past = past
        self._kept = kept
        self.name = past.name
        self.chain = ""

    async def last(self) -> int:
        return await self._past.last()

    def entries(self) -> AsyncGenerator[list[Entry], None]:
        return self._past.entries()

    def records(self, after: int = 0) -> AsyncGenerator[list[Record], None]:
        return self._past.records(after)

    async def snapshot(self, moment: Moment) -> State:
        fits = [each for each in self._kept.values() if not moment.passed(each.seq, each.time)]
        kept = max(fits, key=lambda each: each.seq, default=None)
        if kept is not None and moment.seq is not None and moment.seq - kept.seq <= BATCH:
            return kept  # no snapshot would be much nearer
        stored = await self._past.snapshot(moment)
        return stored if kept is None or stored.seq > kept.seq else kept


class ClusterSource(Source):
    """The log of a cluster that runs."""

    def __init__(self, projection: Projection) -> None:
        super().__init__(LivePast(projection.log))
        self._projection = projection

    @property
    def newest(self) -> State:
        """The state that has been folded."""
        return self._projection.state

    @property
    def trouble(self) -> str:
        """Why the log can't be followed now; "" if it can."""
        connection = self._projection.log.connection
        return "" if connection.connected else connection.trouble or "NATS can't be reached"

    async def grown(self) -> None:
        """Wait until the log has grown. Raise LogReplaced, NewerCluster."""
        await self._projection.changed()

    async def records(self, after: int, until: int) -> list[Record]:
        """Return the records after one sequence, up to another. Raise Unavailable, LogReplaced."""
        if not self._projection.log.connection.connected:
            raise Unavailable(self.trouble)
        return await self._projection.log.read(after, until)

    async def requests(self) -> InFlight:
        """Return the requests in flight of all gateways. Raise Unavailable."""
        return await list_in_flight(self._projection.log.connection, InFlightQuestion())

    async def usage(self, since: int, until: int) -> Usage:
        """Return what was used in the hours from `since` to before `until`. Raise Unavailable."""
        if not self._projection.log.connection.connected:
            raise Unavailable(self.trouble)
        return await usage_log.usage(self._projection.log.connection, since, until)

    async def used(self, kind: str, identity: str) -> Mapping[str, int]:
        """Return what is used of the limits of a key or a tenant. Raise Unavailable."""
        return await LedgerStore(self._projection.log.connection).used(kind, identity)


class FileSource(Source):
    """An exported log, which does not grow."""

    live = False

    def __init__(self, log: FileLog, name: str) -> None:
        super().__init__(_FilePast(log, name))
        self._log = log

    @property
    def newest(self) -> State:
        """The state at the end of the file."""
        return self._log.state

    async def grown(self) -> None:
        """Wait for ever: a file does not grow."""
        await asyncio.Event().wait()

    async def records(self, after: int, until: int) -> list[Record]:
        """Return the records after one sequence, up to another. Raise BadArchive."""
        return [
            read_entry(entry) async for batch in self._log.entries(after, until) for entry in batch
        ]

    async def requests(self) -> InFlight:
        """Raise Unavailable: a log has no requests."""
        raise Unavailable("an exported log has no requests in flight")

    async def usage(self, since: int, until: int) -> Usage:
        """Return what the log has of the hours from `since` to before `until`."""
        return await self._log.usage(since, until)

    async def used(self, kind: str, identity: str) -> Mapping[str, int]:  # noqa: ARG002
        """Raise Unavailable: a log does not tell what is used of limits."""
        raise Unavailable("an exported log does not tell what is used of limits")


class _FilePast:
    """An exported log as `state_at` reads it: from the nearest place that was kept."""

    def __init__(self, log: FileLog, name: str) -> None:
        self._log = log
        self.name = name
        self.chain = ""

    async def last(self) -> int:
        return self._log.state.seq

    def entries(self) -> AsyncGenerator[list[Entry], None]:
        return self._log.entries(0, self._log.state.seq)

    async def records(self, after: int = 0) -> AsyncGenerator[list[Record], None]:
        async for batch in self._log.entries(after, self._log.state.seq):
            yield [read_entry(entry) for entry in batch]

    async def snapshot(self, moment: Moment) -> State:
        return await self._log.before(moment, EMPTY)
