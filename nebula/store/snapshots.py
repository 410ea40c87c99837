"""Snapshots of the state in JetStream's object store: made when due, used only when they are good.

There are two, and the older one is overwritten: where the newer is damaged, the other is left to
start from. What an object holds, its description says: the sequence it was taken at.
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

log = logging.getLogger(__name__)

BUCKET = "NEBULA_SNAPSHOTS"
SLOTS = ("state-0", "state-1")
_PATIENCE = 10.0
_TROUBLES = (NatsError, JetStreamError, TimeoutError, ValueError)


class Held(Struct, frozen=True, order=True):
    """What is in one of the two slots: what says of itself to be a snapshot taken at `seq`."""

    seq: int
    slot: str


def slot_for(seq: int, held: Sequence[Held]) -> str:
    """Choose what a snapshot taken at `seq` overwrites: one like it, else the older one."""
    there = {each.slot: each.seq for each in held}
    return min(SLOTS, key=lambda slot: (there.get(slot) != seq, there.get(slot, 0)))


class Snapshots:
    """The snapshots that belong to a log."""

    def __init__(self, of: Log) -> None:
        self._log = of

    async def put(self, state: State) -> None:
        """Store a snapshot in place of the older one, or of one like it. Raises Unavailable."""
        try:
            async with asyncio.timeout(_PATIENCE):
                store = await self._open(create=True)
                slot = slot_for(state.seq, await self._held(store))
                meta = ObjectMeta(description=str(state.seq))
                await store.put(slot, snapshot.dump(state), meta)
        except _TROUBLES as error:
            raise Unavailable(f"a snapshot could not be stored: {error!r}") from error

    async def seqs(self) -> list[int]:
        """List the sequences that there are snapshots of, the newest first. Raises Unavailable."""
        return [each.seq for each in await self.held()]

    async def held(self) -> list[Held]:
        """List what there is, the newest first. Raises Unavailable."""
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self._held(await self._open())
        except BucketNotFoundError:
            return []
        except _TROUBLES as error:
            raise Unavailable(f"snapshots can't be listed: {error!r}") from error

    async def load(self, wanted: Held) -> State:
        """Give the state that is in a slot. Raises Unusable, Unavailable."""
        try:
            async with asyncio.timeout(_PATIENCE):
                store = await self._open()
                data = (await store.get(wanted.slot)).data or b""
        except (NotFoundError, BucketNotFoundError, TimeoutError) as error:
            raise Unusable(f"it is not there, or not whole: {error!r}") from error
        except JetStreamError as error:
            raise Unusable(f"it is damaged: {error!r}") from error
        except (NatsError, ValueError) as error:
            raise Unavailable(f"snapshots can't be read: {error!r}") from error
        state = snapshot.load(data)
        if state.seq != wanted.seq:
            raise Unusable(f"it was taken at sequence {state.seq}")
        await self._belongs(state)
        return state

    async def newest(self, fits: Callable[[State], bool] = lambda _: True) -> State | None:
        """Give the newest good snapshot that `fits`; None where there is none.

        What is damaged or unknown is passed over with a warning. Raises Unavailable.
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
        """Raise Unusable for a snapshot of another log, which lay here before this one."""
        entry = await self._log.entry(state.seq)
        if entry is None or read_entry(entry).time != state.time:
            raise Unusable("it was taken of another log")

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

    async def _held(self, store: ObjectStore) -> list[Held]:
        try:
            found = await store.list(ignore_deletes=True)
        except NotFoundError:
            return []
        said = [(each.description or "", each.name or "") for each in found]
        return sorted(
            (Held(int(text), slot) for text, slot in said if text.isascii() and text.isdigit()),
            reverse=True,
        )
