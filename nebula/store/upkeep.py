"""Keeps the streams' settings while actors live, whatever NATS's own tools do to them.

An in-memory stream that is gone or changed is created again, or changed back. The log is changed
back as long as it has lost nothing; otherwise, or if that is impossible, it is refused. At a start
a log with wrong settings is refused, because it is unknown for how long they were wrong.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
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
"""Longest time between two checks of the streams by an actor of a small cluster, in seconds."""

ALONE = 10
"""Approximate number of actors that check so often; if there are more, each checks less often."""

LONGEST_LOOK = 300.0

SPREAD = 1.0
"""Seconds over which the actors that hear of a change are spread: the first repairs it."""

ADVISORIES = "$JS.EVENT.ADVISORY.STREAM.*.>"
"""Subjects on which a server reports that a stream was created, changed or deleted (NATS
ADR-27)."""

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


def all_streams(replicas: int) -> tuple[StreamConfig, ...]:
    """Return the streams that are kept: the log first, the snapshots last."""
    return (*definitions(replicas), SNAPSHOTS)


def look_after(actors: int) -> float:
    """Return the seconds until one of this many actors checks the streams again."""
    longest = min(LONGEST_LOOK, LOOK * max(1.0, actors / ALONE))
    return random.uniform(longest / 2, longest)


def mended(wanted: StreamConfig, found: StreamConfig) -> StreamConfig:
    """Return the repaired configuration of a stream; settings that are free to choose stay."""
    return replace(
        found,
        **{field: getattr(wanted, field) for field in CHECKED},
        num_replicas=max(found.num_replicas or 1, wanted.num_replicas or 1),
        duplicate_window=max(found.duplicate_window or 0, wanted.duplicate_window or 0),
        allow_direct=True,
    )


class Upkeep:
    """One actor's upkeep: it hears of changes, and checks from time to time.

    Args:
        connection: to the NATS server of the streams.
        replicas: servers that keep a copy of the log.
        actors: returns how many actors there are, roughly.
        beside_older: returns whether actors of cluster version 0 may be there.
        snapshots_gone: called if the bucket of the snapshots does not exist.
        kept: the streams that it keeps [all].
    """

    def __init__(
        self,
        connection: Connection,
        replicas: int,
        actors: Callable[[], int],
        beside_older: Callable[[], bool],
        snapshots_gone: Callable[[], None],
        kept: Sequence[StreamConfig] | None = None,
    ) -> None:
        self._connection = connection
        self._replicas = replicas
        self._actors = actors
        self._beside_older = beside_older
        self._snapshots_gone = snapshots_gone
        self._kept = all_streams(replicas) if kept is None else kept
        self._unmended = False
        self._told = asyncio.Event()

    async def run(self) -> None:
        """Keep the streams for ever. Raise StreamMismatch for a log that can no longer be used."""
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
                log.debug("the streams can't be checked: %r", error)

    def _on_advisory(self, subject: bytes, _: bytes, __: bytes) -> None:
        if b"NEBULA_" in subject:
            self._told.set()

    async def look(self) -> None:
        """Check all streams once, and repair them. Raise StreamMismatch, nats-py's errors."""
        jetstream = self._connection.client.jetstream(timeout=_PATIENCE)
        for wanted in self._kept:
            try:
                info = await jetstream.stream_info(wanted.name or "")
            except NotFoundError:
                await self._gone(jetstream, wanted)
                continue
            except (TimeoutError, ServerError):
                if await streams.out_of_reach(jetstream, wanted):
                    continue
                raise
            if self._beside_older():
                wanted = streams.as_older_actors_need(wanted, info.config)
            wrong = differences(wanted, info.config)
            if wanted.name == streams.EVENTS:
                await self._keep_log(jetstream, wanted, info, wrong)
            elif wrong or not info.config.allow_direct:
                await self._mend(jetstream, wanted, info.config, wrong)

    async def _gone(self, jetstream: JetStreamContext, wanted: StreamConfig) -> None:
        """Create a stream again; a lost log is reported by its followers."""
        if wanted.name == SNAPSHOTS.name:
            self._snapshots_gone()
        elif wanted.storage == StorageType.MEMORY:
            await streams.find_or_create(jetstream, wanted)
            log.warning("stream %s was gone: it is created again", wanted.name)

    async def _keep_log(
        self,
        jetstream: JetStreamContext,
        wanted: StreamConfig,
        info: StreamInfo,
        wrong: list[str],
    ) -> None:
        if damage := streams.damage(info, wrong):
            raise StreamMismatch(damage)
        if not wrong and info.config.allow_direct:
            self._unmended = False
            return
        text = "; ".join(wrong) or "allow_direct is False"
        try:
            changed = await jetstream.update_stream(mended(wanted, info.config))
            left = differences(wanted, changed.config)
        except APIError as error:
            left = [*wrong, f"it can't be changed back: {error.description}"]
        except (NatsError, TimeoutError):
            # Only those that create the log may change it (`nebula up` does): the next look tells.
            if not self._unmended:
                self._unmended = True
                self._told.set()
                log.error("stream %s was changed from outside: %s", wanted.name, text)
                return
            left = [*wrong, "it can't be changed back: NATS does not do so"]
        if left:
            raise StreamMismatch(
                f"stream {wanted.name} was changed while it was used: {'; '.join(left)}"
            )
        log.error("stream %s was changed from outside and is changed back: %s", wanted.name, text)

    async def _mend(
        self,
        jetstream: JetStreamContext,
        wanted: StreamConfig,
        found: StreamConfig,
        wrong: list[str],
    ) -> None:
        """Change a short-lived stream back; if that is impossible, create it again."""
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
        log.error("stream %s was changed from outside and is repaired: %s", wanted.name, text)
