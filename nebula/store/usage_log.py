"""Usage as the log and the stream of records have it together: rolled up, and not yet."""

import time
from collections.abc import AsyncGenerator, Iterable

from msgspec import Struct

from nebula.events import record as records
from nebula.events import subjects
from nebula.events.usage import UsageRolledUp, UsageSum
from nebula.events.usage_sums import RollUp, Sums, difference
from nebula.store import durable, streams
from nebula.store.connection import Connection
from nebula.store.usage import Kept, Pace, UsageStore, unhurried


class RolledUp(Struct, frozen=True):
    """An event that sums records: its sequence, and the id of their stream."""

    seq: int
    stream: str
    event: UsageRolledUp


class Usage(Struct, frozen=True):
    """All that is known: the sums, of which `fresh` requests are not rolled up yet.

    `lost`: messages with records that were never summed. `dropped`: records that no gateway could
    store.
    """

    sums: tuple[UsageSum, ...]
    fresh: int
    lost: int
    dropped: int


class Recomputed(Struct, frozen=True):
    """What the records that are kept amount to. `gone`: events whose records are not all kept."""

    checked: int
    gone: int
    differences: tuple[str, ...]


async def newest(connection: Connection) -> tuple[int, RolledUp | None]:
    """Return the sequence of the last event about usage, and the last that sums records.

    Raise Unavailable.
    """
    found = await durable.last(connection, streams.EVENTS, subjects.USAGE_EVENTS)
    if found is None:
        return 0, None
    seq = int(found.seq or 0)
    event = _read(seq, found.subject or "", found.data or b"")
    if event is None:
        async for each in rolled_up(connection):
            event = each
    return seq, event


async def rolled_up(
    connection: Connection, pace: Pace = unhurried
) -> AsyncGenerator[RolledUp, None]:
    """Yield the events that sum records, in order. Raise Unavailable.

    `pace` is awaited after each, with what it took to read and to use it.
    """
    seq = 1
    while True:
        found = await durable.next_on(connection, streams.EVENTS, subjects.USAGE_EVENTS, seq)
        if found is None:
            return
        began = time.monotonic()
        seq = int(found.seq or 0) + 1
        event = _read(seq - 1, found.subject or "", found.data or b"")
        if event is not None:
            yield event
        await pace(time.monotonic() - began)


def _read(seq: int, subject: str, body: bytes) -> RolledUp | None:
    record = records.read(seq, 0, subject, body, None)
    if not isinstance(record.content, UsageRolledUp):
        return None
    return RolledUp(seq, record.id, record.content)


async def usage(
    connection: Connection, since: int = 0, until: int = 2**62, pace: Pace = unhurried
) -> Usage:
    """Return what was used in the hours from `since` to before `until`. Raise Unavailable."""
    sums = Sums()
    before: RolledUp | None = None
    lost = dropped = fresh = 0
    async for before in rolled_up(connection, pace):
        lost += before.event.lost
        dropped += before.event.dropped
        for each in before.event.sums:
            if since <= each.hour < until:
                sums.add(each)
    store = UsageStore(connection)
    kept = await store.kept()
    if kept is not None:
        rest = await summed(store, follows(before, kept), kept.last, whole=True, pace=pace)
        lost += rest.lost
        dropped += rest.dropped
        for each in rest.sums:
            if since <= each.hour < until:
                fresh += each.requests
                sums.add(each)
    return Usage(sums.rows(), fresh, lost, dropped)


def in_events(events: Iterable[UsageRolledUp], since: int = 0, until: int = 2**62) -> Usage:
    """Return what events tell of the hours from `since` to before `until`. Pure."""
    sums = Sums()
    lost = dropped = 0
    for event in events:
        lost += event.lost
        dropped += event.dropped
        for each in event.sums:
            if since <= each.hour < until:
                sums.add(each)
    return Usage(sums.rows(), 0, lost, dropped)


def follows(newest: RolledUp | None, kept: Kept) -> int:
    """Return the sequence of the stream up to which records are rolled up."""
    return newest.event.until if newest is not None and newest.stream == kept.id else 0


async def summed(
    store: UsageStore,
    after: int,
    until: int,
    *,
    whole: bool = False,
    pace: Pace = unhurried,
) -> UsageRolledUp:
    """Return the sums of records after a sequence up to another. Raise Unavailable.

    They end sooner where there are more than an event takes, unless the `whole` is wanted.
    """
    adding = RollUp(after)
    async for message in store.read(after, until, pace):
        adding.take(message.seq, message.records, message.dropped)
        if adding.full and not whole:
            return adding.event()
    return adding.event(until)


async def recomputed(connection: Connection) -> Recomputed:
    """Compare each event with the records of its range, if all are kept. Raise Unavailable."""
    store = UsageStore(connection)
    kept = await store.kept()
    checked = gone = 0
    wrong: list[str] = []
    async for each in rolled_up(connection):
        said = each.event
        if kept is None or each.stream != kept.id or said.after + 1 < kept.first:
            gone += 1
            continue
        checked += 1
        found = await summed(store, said.after, said.until, whole=True)
        wrong += [f"event {each.seq}: {line}" for line in difference(said, found)]
    return Recomputed(checked, gone, tuple(wrong))
