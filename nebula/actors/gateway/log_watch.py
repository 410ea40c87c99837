"""Checks again and again whether a gateway could serve requests and change the log."""

import asyncio
import logging
from collections.abc import Callable

from nebula.actors.gateway.readiness import (
    Failure,
    Readiness,
    Seen,
    log_refuses,
    readiness,
    standing_failure,
)
from nebula.actors.projection import Projection
from nebula.events.heartbeats import StoreHeartbeat
from nebula.store.connection import Connection
from nebula.store.reach import Reach, reach, read_store_status

log = logging.getLogger(__name__)

EVERY = 3.0
"""Seconds between two checks of the log's stream, each one small request to NATS."""

STORE_HEARD = 30.0
"""Seconds for which a heartbeat of a store tells how its disk is."""

TRY_AGAIN = 5.0
"""Seconds after a failed change in which others are refused at once; then one is tried."""


class LogWatch:
    """Watches for one gateway whether the log can be read and written.

    `router_at` returns when the last heartbeat of any router came, None if none has. `unheard`
    returns in words which other actors are not heard.
    """

    def __init__(
        self,
        connection: Connection,
        projection: Projection,
        router_at: Callable[[], float | None],
        unheard: Callable[[], str],
    ) -> None:
        self._connection = connection
        self._projection = projection
        self._router_at = router_at
        self._unheard = unheard
        self._since = 0.0
        self._started = False
        self._reach: Reach | None = None
        self._reach_at = 0.0
        self._store: StoreHeartbeat | None = None
        self._store_at = 0.0
        self._failure: Failure | None = None
        self._behind_since: float | None = None

    async def run(self) -> None:
        """Check for ever."""
        self.restart()
        self._started = True
        while True:
            try:
                await self._look()
            except Exception:
                log.exception("the log can't be asked how it stands")
            await asyncio.sleep(EVERY)

    async def _look(self) -> None:
        self._reach = await reach(self._connection)
        self._reach_at = _now()
        if self._reach.last_seq <= self._projection.state.seq:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = _now()

    def on_store(self, _: bytes, __: bytes, body: bytes) -> None:
        """Record the heartbeat of a store."""
        status = read_store_status(body)
        if status is not None:
            self._store, self._store_at = status, _now()

    @property
    def store(self) -> StoreHeartbeat | None:
        """The last heartbeat of the log's store; None if there is none, or it is too old."""
        return self._store if _now() - self._store_at <= STORE_HEARD else None

    def restart(self) -> None:
        """Measure silence from now on: until now no heartbeat could arrive."""
        self._since = _now()

    def failed(self, reason: str) -> None:
        """Record that the log did not take a change."""
        self._failure = Failure(_now(), reason, self._projection.state.seq)

    def succeeded(self) -> None:
        """Record that the log took a change."""
        self._failure = None

    def readiness(self) -> Readiness:
        """Return whether the gateway is ready."""
        return readiness(self._seen())

    def refuses(self) -> str:
        """Return why a change would fail, if that is known without a try; else ""."""
        seen = self._seen()
        failure = standing_failure(seen)
        reason = log_refuses(seen)
        if failure is not None and reason == failure.reason and seen.now - failure.at > TRY_AGAIN:
            return ""
        return reason

    def _seen(self) -> Seen:
        return Seen(
            _now(),
            self._started,
            self._connection.connected,
            self._since,
            self._router_at(),
            self._reach,
            self._reach_at,
            self._store,
            self._store_at,
            self._failure,
            self._projection.state.seq,
            self._behind_since,
            self._connection.trouble,
            self._unheard(),
        )


def _now() -> float:
    return asyncio.get_running_loop().time()
