"""The stream of accounts: what keys, tenants and models use of their limits.

It is a file stream, so that a budget of a month outlives every NATS server. It is made when the
first subject with limits is used.
"""

import asyncio
import re
import time
from datetime import UTC, datetime

import msgspec
from nats.errors import Error as NatsError
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from nebula.events import ledger, subjects
from nebula.events.ledger import Account
from nebula.events.memory import MIB
from nebula.events.reading import decoded
from nebula.store import durable
from nebula.store.connection import Connection, Unavailable
from nebula.store.refusals import unanswered

STREAM = "NEBULA_LEDGER"

KEEP = 40 * 24 * 3600.0
"""Seconds after which the account of a subject without requests is dropped: its month is over."""

ROOM = 64 * MIB

_TIME = re.compile(r"(\d+-\d+-\d+T\d+:\d+:\d+)(\.\d{1,6})?\d*Z")
_PATIENCE = 2.0


def definition(replicas: int) -> StreamConfig:
    """Return the stream."""
    return StreamConfig(
        name=STREAM,
        description="Nebula's accounts of limits: the last of each key, tenant and model",
        subjects=[subjects.LEDGER],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        max_age=KEEP,
        max_bytes=ROOM,
        max_msgs_per_subject=1,
        num_replicas=replicas,
        duplicate_window=120,
        allow_direct=True,
    )


class LedgerStore:
    """The accounts of a cluster, over one connection, and the NATS server's clock."""

    def __init__(self, connection: Connection, replicas: int = 1) -> None:
        self._connection = connection
        self._streams = durable.Streams(connection, [definition(replicas)])
        self._made = False

    async def open(self) -> float:
        """Make sure that the stream is there; return what `clock` returns. Raise Unavailable."""
        if not self._made:
            await self._streams.open()
            self._made = True
        return await self.clock()

    async def clock(self) -> float:
        """Return by how much the server's clock is ahead of this process's monotonic one (s).

        Raise Unavailable.
        """
        if not self._connection.connected:
            raise Unavailable("NATS can't be reached")
        loop = asyncio.get_running_loop()
        before = loop.time()
        jetstream = durable.jetstream(self._connection)
        subject = f"$JS.API.STREAM.INFO.{STREAM}"
        try:
            told = await jetstream._api_request(subject, timeout=_PATIENCE)
        except (NatsError, TimeoutError) as error:
            self._made = False
            said = unanswered(error)
            raise Unavailable(f"stream {STREAM} does not answer: {said}") from error
        return parsed(str(told.get("ts", ""))) - (before + loop.time()) / 2

    async def read(self, kind: str, identity: str) -> tuple[Account, int]:
        """Return an account and its sequence, 0 for a new one. Raise Unavailable."""
        found = await durable.last(self._connection, STREAM, subjects.account(kind, identity))
        if found is None:
            return ledger.EMPTY, 0
        return decoded(found.data or b"", Account) or ledger.EMPTY, int(found.seq or 0)

    async def used(self, kind: str, identity: str) -> dict[str, int]:
        """Return what a subject uses of its limits now, by meter. Raise Unavailable."""
        found = await durable.last(self._connection, STREAM, subjects.account(kind, identity))
        account = None if found is None else decoded(found.data or b"", Account)
        if found is None or account is None:
            return {}
        now = time.time()
        silent = now - found.time.timestamp() if found.time is not None else 0.0
        return ledger.used(account, now, silent)

    async def write(self, kind: str, identity: str, account: Account, after: int) -> int | None:
        """Replace the account at sequence `after`; return None if it was replaced before.

        Raise Unavailable, also if it may have been replaced by this.
        """
        guard = {"Nats-Expected-Last-Subject-Sequence": str(after)}
        subject, body = subjects.account(kind, identity), msgspec.json.encode(account)
        return await durable.store(self._connection, subject, body, guard, patience=0.0)


def parsed(text: str) -> float:
    """Return a time that the server tells, in seconds since 1970. Raise Unavailable."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise Unavailable(f"the NATS server does not tell its time: {text[:40]!r}")
    moment = datetime.fromisoformat(found[1]).replace(tzinfo=UTC)
    return moment.timestamp() + float(found[2] or 0)
