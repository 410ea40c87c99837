"""Watches one engine's progress from inside its process, and probes it while it is silent."""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable

from nebula.actors.engine.exchange import WITHOUT_CORE, App, EngineExchange, Scope
from nebula.actors.engine.load import EngineLoad
from nebula.actors.engine.probe import path_of, probe
from nebula.actors.engine.progress import (
    PROBE_AFTER,
    EngineProgress,
    Progress,
    prefill_allowance,
)

log = logging.getLogger(__name__)

PATH = "/nebula/progress"
"""Path on an engine's own port that reports its progress to its node."""


class Liveness:
    """The progress of one engine. `app` is the engine's, `model` is its name of the model."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._progress = Progress(0.0)  # the loop, whose clock counts, may not run yet
        self._model = ""
        self._path = ""
        self._tasks: Collection[str] = ()
        self._state: Scope = {}
        self._probe: asyncio.Task[None] | None = None
        self._probed = 0.0
        self._probes = True

    def knows(self, model: str, tasks: Collection[str], state: Scope) -> None:
        """Store the engine's name of its model, its tasks, and what its app's scopes contain."""
        self._model, self._tasks, self._state = model, tasks, state

    def came(self, exchange: EngineExchange) -> None:
        """Note a request."""
        if exchange.request.path not in WITHOUT_CORE:
            self._path = exchange.request.path
            self._progress.came(exchange.began)

    def left(self, exchange: EngineExchange, now: float) -> None:
        """Note that a request has ended; `now`: the loop's time, as in all that follows."""
        if exchange.request.path not in WITHOUT_CORE:
            self._progress.left(exchange.began, now)

    @property
    def spoke(self) -> Callable[[float], None]:
        """What notes a token or an answer of the engine's core; it gets the loop's time."""
        return self._progress.advanced

    def counted(self, load: EngineLoad) -> None:
        """Take the engine's metrics."""
        self._progress.counted(load.steps, _now())

    def look(self) -> float:
        """Return how long it has been silent, in seconds, and probe it if that is too long."""
        now = _now()
        silence = self._progress.look(now)
        if silence >= PROBE_AFTER and self._probe is None and self._model:
            if not (self._probes and path_of(self._tasks, self._path)):
                # Such as one that only transcribes: nothing would ever show that it is well.
                self._progress.unknowable()
            elif now - self._probed >= PROBE_AFTER:  # one that fails at once is repeated later
                self._probed = now
                self._probe = asyncio.create_task(self._ask())
        return silence

    def tell(self, exchanges: Iterable[EngineExchange]) -> EngineProgress:
        """Return its progress for its node; `exchanges`: the running requests."""
        unread = [each.request.whole_size for each in exchanges if not each.chunks]
        return EngineProgress(
            round(self.look(), 3),
            self._progress.requests,
            round(_now() - self._probed, 3) if self._probe is not None else 0.0,
            round(prefill_allowance(max(unread, default=0)), 3),
        )

    def close(self) -> None:
        """Cancel a waiting probe."""
        if self._probe is not None:
            self._probe.cancel()

    async def _ask(self) -> None:
        try:
            path = path_of(self._tasks, self._path)
            status = await probe(self._app, self._state, self._model, path)
        finally:
            self._probe = None
        if status == 200:
            self.spoke(_now())
        elif 400 <= status < 500 and status != 429:
            log.info("the engine takes no probe (HTTP %d): tokens and counters tell", status)
            self._probes = False
        if status != 200:
            self._progress.unknowable()


def _now() -> float:
    return asyncio.get_running_loop().time()
