"""Keeps batches: checks their input, queues their lines, counts results, writes their files.

Each batch that is not over is kept by one gateway, the holder of its lease. Every step can be
repeated by another gateway that takes the lease after this one has died; one that only stood still
does no harm when it goes on, since only the first result of a line, the first file with an id and
the first end of a batch count.
"""

import asyncio
import contextlib
import logging
import uuid

from nebula.actors.actor import cancel
from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.batch_run import BatchRun, Over
from nebula.store.batch_queue import BatchQueue
from nebula.store.connection import Unavailable
from nebula.store.files import Files

log = logging.getLogger(__name__)

LEASE = 20.0
"""Seconds after which a lease that is not renewed is taken by another gateway."""

RENEW = 5.0

LOOK = 2.0
"""Seconds until batches without a keeper are looked for again."""

SWEEP = 3600.0
"""Seconds between two removals of what is left of files and batches that are over."""


class BatchKeeper:
    """The part of a gateway that keeps batches."""

    def __init__(self, gateway: Gateway, files: Files, queue: BatchQueue) -> None:
        self._gateway = gateway
        self._files = files
        self._queue = queue
        self._kept: dict[str, asyncio.Task[None]] = {}
        self._seen: dict[str, tuple[int, float]] = {}

    async def run(self) -> None:
        """Keep batches until cancelled; then let others have them at once."""
        await self._gateway.projection.until(lambda state: bool(state.cluster.id))
        sweeping = asyncio.create_task(self._sweep(), name="sweep files and batches")
        try:
            while True:
                changed = self._gateway.projection.changed()
                waiting = asyncio.ensure_future(changed)
                unfinished = self._unfinished()  # a lease may be lost: look at those kept too
                for batch in unfinished if self._gateway.able else ():
                    if batch not in self._kept:
                        await self._try(batch)
                await asyncio.wait((waiting,), timeout=LOOK if unfinished else None)
                if waiting.done():
                    waiting.result()  # raises if nothing changes any more
                await cancel([waiting])
        finally:
            await cancel([sweeping, *self._kept.values()])

    def _unfinished(self) -> list[str]:
        batches = self._gateway.projection.state.batches.values()
        return [each.id for each in batches if not each.over]

    async def _try(self, batch: str) -> None:
        """Keep a batch if its lease is free."""
        now = asyncio.get_running_loop().time()
        try:
            await self._queue.open()
            found = await self._queue.lease(batch)
            after = found[0] if found is not None else 0
            known, since = self._seen.get(batch, (after, now))
            self._seen[batch] = (after, since if known == after else now)
            if found is not None and (known != after or now - since < LEASE):
                return
            holder = f"{self._gateway.id} {uuid.uuid4().hex}"
            seq = await self._queue.take_lease(batch, holder, after)
        except Unavailable as error:
            log.debug("batch %s is not kept here now: %s", batch, error)
            return
        if seq is not None:
            self._seen.pop(batch, None)
            task = asyncio.create_task(self._hold(batch, holder, seq), name=f"keep {batch}")
            self._kept[batch] = task
            task.add_done_callback(lambda _: self._kept.pop(batch, None))

    async def _hold(self, batch: str, holder: str, seq: int) -> None:
        """Keep a batch as long as its lease can be renewed."""
        keeping = asyncio.create_task(self._keep(batch), name=f"work on {batch}")
        try:
            while not keeping.done():
                await asyncio.wait((keeping,), timeout=RENEW)
                if keeping.done():
                    break
                with contextlib.suppress(Unavailable):
                    renewed = await self._queue.take_lease(batch, holder, seq)
                    if renewed is None:
                        log.info("batch %s is kept by another gateway now", batch)
                        return
                    seq = renewed
        finally:
            stopped = not keeping.done()
            await cancel([keeping])
            if stopped and self._gateway.leaving.is_set():
                with contextlib.suppress(Unavailable, TimeoutError):
                    async with asyncio.timeout(1):
                        await self._queue.give_lease_back(batch)

    async def _keep(self, batch: str) -> None:
        while True:
            try:
                await BatchRun(self._gateway.projection, self._files, self._queue, batch).run()
                return
            except Over:
                return
            except Unavailable as error:
                log.warning("batch %s: %s; it is tried again", batch, error)
            except Exception:
                log.exception("batch %s can't be kept; it is tried again", batch)
            await asyncio.sleep(LOOK)

    async def _sweep(self) -> None:
        while True:
            if self._gateway.able:
                with contextlib.suppress(Unavailable):
                    await self._files.remove_expired()
                    for batch in await self._queue.leased():
                        known = self._gateway.projection.state.batches.get(batch)
                        if known is None or known.over:
                            await self._queue.clear(batch)
            await asyncio.sleep(SWEEP)
