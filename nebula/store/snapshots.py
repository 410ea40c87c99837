"""Snapshots of the state in JetStream's object store, which are used only if they are valid.

There are two, and the older one is overwritten: if the newer is damaged, the other remains to start
from. The description of an object has the sequence at which it was taken.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from msgspec import Struct
from nats.errors import Error as NatsError
from nats.js.api import ObjectMeta, ObjectStoreConfig, StorageType
from nats.js.errors import BucketNotFoundError, NotFoundError
from nats.js.errors import Error as JetStreamError
from nats.js.object_store import ObjectStore

from nebula.events import snapshot
from nebula.events.record import read_entry
from nebula.events.snapshot import Unusable
from nebula.events.state import State
from nebula.store.connection import Unavailable
from nebula.store.log import Log
from nebula.store.refusals import unanswered

log = logging.getLogger(__name__)

BUCKET = "NEBULA_SNAPSHOTS"
SLOTS = ("state-0", "state-1")
_PATIENCE = 10.0
_TROUBLES = (NatsError, JetStreamError, TimeoutError, ValueError)


class SnapshotSlot(Struct, frozen=True, order=True):
    """The content of one of the two slots, which claims to be a snapshot taken at `seq`."""

    seq: int
    slot: str


def slot_for(seq: int, held: Sequence[SnapshotSlot]) -> str:
    """Return the slot that a snapshot of `seq` overwrites: the same `seq`, or the older."""
    there = {each.slot: each.seq for each in held}
    return min(SLOTS, key=lambda slot: (there.get(slot) != seq, there.get(slot, 0)))


class Snapshots:
    """The snapshots of a log."""

    def __init__(self, of: Log) -> None:
        self._log = of

    async def put(self, state: State) -> None:
        """Store a snapshot instead of one of the same sequence, or the older. Raise Unavailable."""
        try:
            async with asyncio.timeout(_PATIENCE):
                store = await self._open(create=True)
                slot = slot_for(state.seq, await self._held(store))
                meta = ObjectMeta(description=str(state.seq))
                await store.put(slot, snapshot.dump(state), meta)
        except _TROUBLES as error:
            raise Unavailable(f"a snapshot could not be stored: {error!r}") from error

    async def seqs(self) -> list[int]:
        """Return the sequences of the snapshots, the newest first. Raise Unavailable."""
        return [each.seq for each in await self.held()]

    async def held(self) -> list[SnapshotSlot]:
        """Return the used slots, the newest first. Raise Unavailable."""
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self._held(await self._open())
        except BucketNotFoundError:
            return []
        except _TROUBLES as error:
            raise Unavailable(f"snapshots can't be listed: {unanswered(error)}") from error

    async def load(self, wanted: SnapshotSlot) -> State:
        """Return the state in a slot. Raise Unusable, Unavailable."""
        try:
            async with asyncio.timeout(_PATIENCE):
                store = await self._open()
                data = (await store.get(wanted.slot)).data or b""
        except (NotFoundError, BucketNotFoundError, TimeoutError) as error:
            raise Unusable(f"it is missing or incomplete: {error!r}") from error
        except JetStreamError as error:
            raise Unusable(f"it is damaged: {error!r}") from error
        except (NatsError, ValueError) as error:
            raise Unavailable(f"snapshots can't be read: {error!r}") from error
        state = snapshot.load(data)
        if state.seq != wanted.seq:
            raise Unusable(f"it was taken at sequence {state.seq}")
        await self._belongs(state)
        return state

    async def clear(self) -> None:
        """Delete all snapshots: they are of a log that is gone. Raise Unavailable."""
        try:
            async with asyncio.timeout(_PATIENCE):
                store = await self._open()
                for each in await self._held(store):
                    await store.delete(each.slot)
        except BucketNotFoundError:
            pass
        except _TROUBLES as error:
            raise Unavailable(f"snapshots can't be deleted: {unanswered(error)}") from error

    async def newest(self, fits: Callable[[State], bool] = lambda _: True) -> State | None:
        """Return the newest valid snapshot that `fits`; None if there is none.

        Damaged or unknown snapshots are skipped with a warning. Raise Unavailable.
        """
        for each in await self.held():
            try:
                state = await self.load(each)
            except Unusable as error:
                log.warning(
                    "the snapshot at %d is not used: %s; the log is read instead", each.seq, error
                )
                continue
            if fits(state):
                return state
        return None

    async def _belongs(self, state: State) -> None:
        """Raise Unusable for a snapshot of a previous log."""
        entry = await self._log.entry(state.seq)
        if entry is None or read_entry(entry).time != state.time:
            raise Unusable("it is a snapshot of another log")

    async def _open(self, *, create: bool = False) -> ObjectStore:
        jetstream = self._log.connection.client.jetstream(timeout=_PATIENCE)
        try:
            return await jetstream.object_store(BUCKET)
        except BucketNotFoundError:
            if not create:
                raise
        config = ObjectStoreConfig(
            description="Nebula's snapshots: shortcuts through the log",
            storage=StorageType.FILE,
            replicas=self._log.replicas,
        )
        return await jetstream.create_object_store(BUCKET, config)

    async def _held(self, store: ObjectStore) -> list[SnapshotSlot]:
        try:
            found = await store.list(ignore_deletes=True)
        except NotFoundError:
            return []
        said = [(each.description or "", each.name or "") for each in found]
        return sorted(
            (
                SnapshotSlot(int(text), slot)
                for text, slot in said
                if text.isascii() and text.isdigit()
            ),
            reverse=True,
        )
