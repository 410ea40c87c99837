"""Imports an exported log into another JetStream: every entry with sequence, time and headers."""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from nats.errors import Error as NatsError

from nebula.events.original import wrapped
from nebula.events.record import Entry
from nebula.store import batch
from nebula.store.connection import Unavailable
from nebula.store.log import Log
from nebula.store.snapshots import Snapshots

SIZE = 200
"""Entries that are stored together, with one fsync."""

_SUBJECT = re.compile(r"nebula\.events(\.[^\s.\x00-\x20\x7f]+)+")
_LONGEST_SUBJECT = 3900
"""Longest subject in bytes: NATS allows 4,096 for a line with subject, reply subject and sizes."""

_LONGEST_HEADERS = 65_535
_BATCH_HEADERS = 256
"""Bytes of a message's headers about its batch, at most."""


class OtherHistory(Exception):
    """The present log is not the beginning of the log to import."""


class NotTaken(Exception):
    """A server would not store this, or would change it; the text says why."""


def size_of(entry: Entry) -> int:
    """Return the size of the message that imports an entry, in bytes. Raise NotTaken.

    Any subject below `nebula.events` is accepted, since people may have published anything there.
    """
    if not _SUBJECT.fullmatch(entry.subject) or len(entry.subject.encode()) > _LONGEST_SUBJECT:
        raise NotTaken(
            f"{entry.subject[:80]!r} is not a subject of the log: nebula.events.… without spaces"
        )
    if not 0 <= entry.time < 2**63:
        raise NotTaken("its time is not within 1970 to 2262")
    headers = _BATCH_HEADERS + sum(len(key) + len(value) for key, value in wrapped(entry).items())
    if headers > _LONGEST_HEADERS:
        raise NotTaken(f"its headers have {len(entry.headers)} bytes, too many to be imported")
    return headers + len(entry.body)


async def import_entries(
    log: Log, entries: Iterable[Entry], progress: Callable[[int], None] = lambda _: None
) -> int:
    """Write entries into an empty log, or the missing ones into a log that begins like them.

    Snapshots that an empty log still has are deleted.

    Return how many were written; `progress` is called with the sequence reached. Raise OtherHistory
    before anything is written, NotTaken, and Unavailable.
    """
    coming = iter(entries)
    last = await log.last_seq()
    if last:
        await _compare(log, coming, last)
    else:
        await Snapshots(log).clear()  # a redacted log has the times of the log that it replaces
    written = 0
    while chunk := list(islice(coming, SIZE)):
        messages = [(entry.subject, entry.body, wrapped(entry)) for entry in chunk]
        guard = {"Nats-Expected-Last-Sequence": str(chunk[0].seq - 1)}
        try:
            reached = await batch.publish(log.connection.client, messages, guard=guard)
        except batch.BatchRefused as error:
            if not error.conflict:
                raise NotTaken(
                    f"the server does not take sequences {chunk[0].seq} to {chunk[-1].seq}: {error}"
                ) from error
            raise OtherHistory(
                f"sequence {chunk[0].seq} can't be imported: {error}; "
                "stop what writes to this log and import again"
            ) from error
        except (NatsError, TimeoutError) as error:
            raise Unavailable(
                f"the log does not answer: {error}; import again to continue from where it ended"
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
