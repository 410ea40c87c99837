"""The events of one aggregate, looked up by their subject: the rest of the log is not read."""

import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

from nebula.events import record as records
from nebula.events import subjects
from nebula.events.record import Record
from nebula.store import durable, streams
from nebula.store.connection import Connection
from nebula.store.usage import Pace, unhurried

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


async def events_of(
    connection: Connection,
    aggregate: str,
    identity: str,
    until: int,
    pace: Pace = unhurried,
    *,
    only: str = "",
) -> AsyncGenerator[Record, None]:
    """Yield the events of an aggregate up to a sequence, in order. Raise Unavailable.

    `pace` is awaited after each, with what it took to read and to use it. `only`: of this type,
    none of which a node reports.
    """
    wanted, seq = subjects.events_of(aggregate, identity, only), 0
    while True:
        found = await durable.next_on(connection, streams.EVENTS, wanted, seq + 1)
        seq = 0 if found is None else int(found.seq or 0)
        if found is None or seq > until:
            return
        began = time.monotonic()
        stored = 0 if found.time is None else int((found.time - _EPOCH).total_seconds() * 10**6)
        yield records.read(
            seq, stored * 1000, found.subject or "", found.data or b"", found.headers
        )
        await pace(time.monotonic() - began)
