"""A log to look back at: a cluster's log, an exported file, or a backup of the stream."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import click

from nebula.cli.cluster import FOLD_PATIENCE, connected
from nebula.cli.process import fail
from nebula.events.folding import Folding
from nebula.events.record import Entry, Record, read_entry
from nebula.events.state import EMPTY, State
from nebula.events.version import too_new
from nebula.history import moments
from nebula.history.moments import BadMoment, Moment
from nebula.history.replay import BadLog, from_the_future
from nebula.store.archive import BadArchive, Reader
from nebula.store.backup import read_backup
from nebula.store.blocks import Unreadable
from nebula.store.connection import Unavailable
from nebula.store.log import Log, NoLog
from nebula.store.snapshots import Snapshots

T = TypeVar("T", Entry, Record)
BATCH = 1000

log_option = click.option(
    "--log",
    "file",
    default=None,
    metavar="FILE",
    type=click.Path(exists=True, path_type=Path),
    help="An exported log, a backup of the stream or a NATS store folder, instead of a cluster.",
)


class Past(Protocol):
    """A log up to its present end. All kinds raise BadArchive, Unreadable, BadLog, Unavailable.

    `name` tells people which log it is. `chain` is the hash at the end of an exported file, once
    the file was read to its end.
    """

    name: str
    chain: str

    async def last(self) -> int:
        """Return the last sequence; 0 for an empty log."""

    def entries(self) -> AsyncGenerator[list[Entry], None]:
        """Return every entry byte for byte, in batches."""

    def records(self, after: int = 0) -> AsyncGenerator[list[Record], None]:
        """Return every record after a sequence, in batches."""

    async def snapshot(self, moment: Moment) -> State:
        """Return a state at or before a moment, from which folding may begin."""


class LivePast:
    """The log of a cluster."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.name = f"the log at {log.connection.shown}"
        self.chain = ""

    async def last(self) -> int:
        """Return the last sequence; 0 for an empty log."""
        return await self.log.last_seq()

    def entries(self) -> AsyncGenerator[list[Entry], None]:
        """Return every entry byte for byte, in batches."""
        return self.log.entries()

    async def records(self, after: int = 0) -> AsyncGenerator[list[Record], None]:
        """Return every record after a sequence, in batches."""
        async with aclosing(self.log.entries(after)) as batches:
            async for batch in batches:
                yield [read_entry(entry) for entry in batch]

    async def snapshot(self, moment: Moment) -> State:
        """Return a state at or before a moment, from which folding may begin."""
        snapshots = Snapshots(self.log)
        try:
            found = await snapshots.newest(lambda state: not moment.passed(state.seq, state.time))
        except Unavailable:
            return EMPTY
        return found or EMPTY


class ArchivePast:
    """An exported file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = str(path)
        self.chain = ""

    async def last(self) -> int:
        """Return the last sequence; 0 for an empty log."""
        with self._path.open("rb") as file:
            return Reader(file, self.name).last

    async def entries(self) -> AsyncGenerator[list[Entry], None]:
        """Return every entry byte for byte, in batches."""
        with self._path.open("rb") as file:
            reader = Reader(file, self.name)
            for batch in _batches(reader.entries(), self.name):
                yield batch
            self.chain = reader.chain

    async def records(self, after: int = 0) -> AsyncGenerator[list[Record], None]:
        """Return every record after a sequence, in batches."""
        with self._path.open("rb") as file:
            reader = Reader(file, self.name)
            for batch in _batches(reader.records(), self.name):
                yield [each for each in batch if each.seq > after] if after else batch
            self.chain = reader.chain

    async def snapshot(self, moment: Moment) -> State:  # noqa: ARG002
        """Return None: a file holds no snapshots."""
        return EMPTY


class BackupPast:
    """A store folder of JetStream, or a backup of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = str(path)
        self.chain = ""

    async def last(self) -> int:
        """Return the last sequence, which is known only once everything was read."""
        last = 0
        for batch in _batches(read_backup(self._path), self.name):
            last = batch[-1].seq
        return last

    async def entries(self) -> AsyncGenerator[list[Entry], None]:
        """Return every entry byte for byte, in batches."""
        for batch in _batches(read_backup(self._path), self.name):
            yield batch

    async def records(self, after: int = 0) -> AsyncGenerator[list[Record], None]:
        """Return every record after a sequence, in batches."""
        for batch in _batches(read_backup(self._path), self.name):
            yield [read_entry(entry) for entry in batch if entry.seq > after]

    async def snapshot(self, moment: Moment) -> State:  # noqa: ARG002
        """Return None: a backup of the log's stream holds no snapshots."""
        return EMPTY


def _batches(items: Iterator[T], name: str) -> Iterator[list[T]]:
    """Yield what is read of a file. Raise BadLog for moments after its end."""
    now = time.time_ns()
    while batch := list(islice(items, BATCH)):
        problem = from_the_future(batch, now)
        if problem:
            raise BadLog(f"{name}: {problem}")
        yield batch


@asynccontextmanager
async def opened(nats: str, file: Path | None, *, role: str = "operator") -> AsyncIterator[Past]:
    """Open a log, a live one in a role. An error becomes a message and an exit code."""
    try:
        if file is None:
            async with _live(nats, role) as past:
                yield past
        else:
            yield _of_file(file)
    except (BadArchive, BadLog, Unreadable, BadMoment) as error:
        fail(str(error))


def _of_file(path: Path) -> Past:
    return BackupPast(path) if path.is_dir() or path.suffix == ".s2" else ArchivePast(path)


@asynccontextmanager
async def _live(nats: str, role: str) -> AsyncIterator[Past]:
    connection = await connected(nats, "nebula command", role=role)
    try:
        log = Log(connection, actor="cli")
        deadline = asyncio.get_running_loop().time() + FOLD_PATIENCE
        while True:
            try:
                await log.check()
                break
            except NoLog:
                raise
            except Unavailable:
                if asyncio.get_running_loop().time() >= deadline:
                    raise
                await asyncio.sleep(0.25)
        yield LivePast(log)
    finally:
        await connection.close()


def moment(text: str | None) -> Moment | None:
    """Read a moment from the command line; end the command if it is not valid."""
    if text is None:
        return None
    try:
        return moments.parse(text, time.time_ns())
    except BadMoment as error:
        fail(str(error), 2)


def reader_time(past: Past, at: Moment | None) -> int | None:
    """Return the time (ns) now for the state of a live log; None for a moment of the past."""
    return time.time_ns() if at is None and isinstance(past, LivePast) else None


async def state_at(
    past: Past, at: Moment | None, passes: Callable[[State], object] | None = None
) -> State:
    """Fold a log up to a moment, or to its end. Raise BadMoment for a moment outside it.

    `passes` is called with the states that it passes, one for each batch that is read.
    """
    wanted = at or Moment()
    folding = Folding(await past.snapshot(wanted))
    first: Record | None = None
    async with aclosing(past.records(folding.seq)) as batches:
        async for batch in batches:
            first = first or batch[0]
            due = wanted.before(batch)
            _continues(folding.seq, due)
            folding.take(due)
            _known(past, folding)
            if len(due) < len(batch):
                break
            if passes is not None:
                passes(folding.state())
    return _found(past, folding.state(), wanted, first)


async def story_until(past: Past, last: int) -> AsyncIterator[Record]:
    """Yield the records of a log up to a sequence, one by one."""
    async with aclosing(past.records()) as batches:
        async for batch in batches:
            for record in batch:
                if record.seq > last:
                    return
                yield record


def _found(past: Past, state: State, wanted: Moment, first: Record | None) -> State:
    if state.seq == 0 and first is None:
        raise BadMoment(f"{past.name} is empty: nothing has happened yet")
    if state.seq == 0 and first is not None and wanted.time is not None:
        raise BadMoment(
            f"{moments.clock(wanted.time)} is before the first event, which was stored at "
            f"{moments.clock(first.time)}"
        )
    if wanted.seq is not None and state.seq < wanted.seq:
        raise BadMoment(f"there is no sequence {wanted.seq}: {past.name} ends with {state.seq}")
    return state


def _known(past: Past, folding: Folding) -> None:
    """Stop after an event that this Nebula might read otherwise than its writer."""
    reason = too_new(folding)
    if reason is not None:
        raise BadLog(f"{past.name}: event {folding.cluster.changed}: {reason}")


def _continues(seq: int, batch: Sequence[Record]) -> None:
    for expected, record in enumerate(batch, seq + 1):
        if record.seq != expected:
            raise BadLog(f"sequence {record.seq} follows {expected - 1}: the log has a hole")
