"""An exported log put into another JetStream: every entry with its sequence, time and headers."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from nats.errors import Error as NatsError

from nebula.events.original import wrapped
from nebula.events.record import Entry
from nebula.store import batch
from nebula.store.connection import Unavailable
from nebula.store.log import Log

SIZE = 200
"""Entries stored at a time, with one fsync for them all."""


class OtherHistory(Exception):
    """The log that is there is not the beginning of the one to import."""


async def import_entries(
    log: Log, entries: Iterable[Entry], progress: Callable[[int], None] = lambda _: None
) -> int:
    """Put entries into an empty log, or what is missing into one that begins like them.

    Gives how many were written; `progress` is told the sequence reached. Raises OtherHistory
    before anything is written, and Unavailable.
    """
    coming = iter(entries)
    last = await log.last_seq()
    if last:
        await _compare(log, coming, last)
    written = 0
    while chunk := list(islice(coming, SIZE)):
        messages = [(entry.subject, entry.body, wrapped(entry)) for entry in chunk]
        guard = {"Nats-Expected-Last-Sequence": str(chunk[0].seq - 1)}
        try:
            reached = await batch.publish(log.connection.client, messages, guard=guard)
        except batch.BatchRefused as error:
            raise OtherHistory(
                f"sequence {chunk[0].seq} can't be imported: {error}; "
                "stop what writes to this log and import again"
            ) from error
        except (NatsError, TimeoutError) as error:
            raise Unavailable(
                f"the log does not answer: {error}; import again to go on from where it ended"
            ) from error
        written += len(chunk)
        progress(reached)
    return written


async def _compare(log: Log, coming: Iterator[Entry], last: int) -> None:
    async for present in log.entries(0, last):
        for here, there in zip(present, islice(coming, len(present)), strict=False):
            if here != there:
                raise OtherHistory(
                    f"this cluster has another history: sequence {here.seq} is {here.subject} "
                    f"here and {there.subject} in the file"
                    if here.subject != there.subject
                    else f"this cluster has another history: sequence {here.seq} "
                    f"({here.subject}) is not the same here and in the file"
                )
