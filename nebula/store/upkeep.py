"""Keeps the streams as they must be while actors live, whatever NATS's own tools do to them.

A stream in memory that is gone or changed is made again, or changed back. The log is changed back
as long as it has lost nothing: one that has, or that can't be changed back, is refused. At a start
a log that is not as it must be is refused as it is: nobody knows then for how long it was so.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import replace

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig, StreamInfo
from nats.js.errors import APIError, NotFoundError, ServerError

from nebula.store import streams
from nebula.store.connection import Connection
from nebula.store.snapshots import BUCKET
from nebula.store.streams import CHECKED, StreamMismatch, definitions, differences

log = logging.getLogger(__name__)

LOOK = 30.0
"""Seconds after which, at most, an actor of a small cluster looks at the streams."""

ALONE = 10
"""Actors, roughly, that look so often; where there are more, each looks less often."""

LONGEST_LOOK = 300.0

SPREAD = 1.0
"""Seconds over which the actors that hear of a change are spread: the first mends it."""

ADVISORIES = "$JS.EVENT.ADVISORY.STREAM.*.>"
"""Where a server tells that a stream was made, changed or deleted (NATS ADR-27)."""

_PATIENCE = 5.0

SNAPSHOTS = StreamConfig(
    name=f"OBJ_{BUCKET}",
    subjects=[f"$O.{BUCKET}.C.>", f"$O.{BUCKET}.M.>"],
    retention=RetentionPolicy.LIMITS,
    storage=StorageType.FILE,
    discard=DiscardPolicy.NEW,
    allow_rollup_hdrs=True,
    num_replicas=1,
)


def look_after(actors: int) -> float:
    """Return seconds until one of so many actors looks at the streams again."""
    longest = min(LONGEST_LOOK, LOOK * max(1.0, actors / ALONE))
    return random.uniform(longest / 2, longest)


def mended(wanted: StreamConfig, found: StreamConfig) -> StreamConfig:
    """Return what to change a stream's configuration to; what is free to choose stays."""
    return replace(
        found,
        **{field: getattr(wanted, field) for field in CHECKED},
        num_replicas=max(found.num_replicas or 1, wanted.num_replicas or 1),
        duplicate_window=max(found.duplicate_window or 0, wanted.duplicate_window or 0),
        allow_direct=True,
    )


def has_lost(info: StreamInfo) -> bool:
    """Return whether entries of a log are missing, at its beginning or in between."""
    return int(info.state.messages) < int(info.state.last_seq)


class Upkeep:
    """One actor's part in it: hears of changes, and looks from time to time.

    Args:
        connection: what the streams are reached over.
        replicas: servers that keep a copy of the log.
        actors: returns how many actors there are, roughly.
        snapshots_gone: called where the bucket of the snapshots is not there.
    """

    def __init__(
        self,
        connection: Connection,
        replicas: int,
        actors: Callable[[], int],
        snapshots_gone: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._replicas = replicas
        self._actors = actors
        self._snapshots_gone = snapshots_gone
        self._told = asyncio.Event()

    async def run(self) -> None:
        """Keep the streams for ever. Raise StreamMismatch for a log that can't be used any more."""
        await self._connection.client.listen(ADVISORIES, self._on_advisory)
        while True:
            try:
                async with asyncio.timeout(look_after(self._actors())):
                    await self._told.wait()
                await asyncio.sleep(random.uniform(0, SPREAD))
            except TimeoutError:
                pass
            self._told.clear()
            if not self._connection.connected:
                continue
            try:
                await self.look()
            except (NatsError, TimeoutError) as error:
                log.debug("the streams can't be looked at: %r", error)

    def _on_advisory(self, subject: bytes, _: bytes, __: bytes) -> None:
        if b"NEBULA_" in subject:
            self._told.set()

    async def look(self) -> None:
        """Look at all streams once, and mend them. Raise StreamMismatch, nats-py's errors."""
        jetstream = self._connection.client.jetstream(timeout=_PATIENCE)
        for wanted in (*definitions(self._replicas), SNAPSHOTS):
            try:
                info = await jetstream.stream_info(wanted.name or "")
            except NotFoundError:
                await self._gone(jetstream, wanted)
                continue
            except (TimeoutError, ServerError):
                if await streams.out_of_reach(jetstream, wanted):
                    continue
                raise
            wrong = differences(wanted, info.config)
            if wanted.name == streams.EVENTS:
                await self._keep_log(jetstream, wanted, info, wrong)
            elif wrong or not info.config.allow_direct:
                await self._mend(jetstream, wanted, info.config, wrong)

    async def _gone(self, jetstream: JetStreamContext, wanted: StreamConfig) -> None:
        """Make a stream again; that the log is gone, whoever follows it says."""
        if wanted.name == SNAPSHOTS.name:
            self._snapshots_gone()
        elif wanted.storage == StorageType.MEMORY:
            await streams.find_or_create(jetstream, wanted)
            log.warning("stream %s was gone: it is made again", wanted.name)

    async def _keep_log(
        self,
        jetstream: JetStreamContext,
        wanted: StreamConfig,
        info: StreamInfo,
        wrong: list[str],
    ) -> None:
        if has_lost(info):
            missing = int(info.state.last_seq) - int(info.state.messages)
            why = f" ({'; '.join(wrong)})" if wrong else ""
            raise StreamMismatch(
                f"the log has lost {missing} of {info.state.last_seq} events{why}: "
                "restore a backup, or import an export into an empty log"
            )
        if not wrong and info.config.allow_direct:
            return
        text = "; ".join(wrong) or "allow_direct is False"
        try:
            changed = await jetstream.update_stream(mended(wanted, info.config))
            left = differences(wanted, changed.config)
        except APIError as error:
            left = [*wrong, f"it can't be changed back: {error.description}"]
        if left:
            raise StreamMismatch(
                f"stream {wanted.name} was changed while it was used: {'; '.join(left)}"
            )
        log.error("stream %s was changed by somebody and is changed back: %s", wanted.name, text)

    async def _mend(
        self,
        jetstream: JetStreamContext,
        wanted: StreamConfig,
        found: StreamConfig,
        wrong: list[str],
    ) -> None:
        """Change a stream back that holds nothing for good; where that can't be, make it again."""
        text = "; ".join(wrong) or "allow_direct is False"
        try:
            changed = await jetstream.update_stream(mended(wanted, found))
            left = differences(wanted, changed.config)
        except APIError as error:
            left = [str(error.description)]
            if all("num_replicas" in each for each in wrong):
                log.warning("stream %s gets no more copies: %s", wanted.name, error.description)
                return
        if left:
            await jetstream.delete_stream(wanted.name or "")
            await self._gone(jetstream, wanted)
        log.error("stream %s was changed by somebody and is mended: %s", wanted.name, text)
