"""Collects heartbeats and queue lengths for the router's time-based decisions.

All times are seconds of the clock that it is given; no other clock is used. A router that has just
started, was cut off from NATS or was suspended knows nothing of the time before: it grants every
node and model the full time again.
"""

import math
from collections.abc import Callable, Mapping

from msgspec import Struct

from nebula.actors.attribution import attributed
from nebula.actors.router.eviction import ModelUsage
from nebula.actors.router.hearing import Hearing, Told
from nebula.actors.router.lifecycle import Observation
from nebula.actors.router.raising import Readers
from nebula.actors.router.slack import Others
from nebula.events.heartbeats import NodeHeartbeat, QueueLength, RouterHeartbeat
from nebula.events.reading import last_token
from nebula.events.record import Record
from nebula.events.state import Model, State

ABSENT = 3.0
"""Seconds between two observations after which the router counts as suspended meanwhile."""

ROUTER_SILENCE = 3.5
"""Seconds without a heartbeat of another router after which its queues are not counted."""


class ModelLoad(Struct):
    """What one router knows of a model's requests.

    `used`: when it last knew of one, in seconds of its clock; minus infinity if it never has.
    """

    in_flight: int = 0
    waiting: int = 0
    longest: float = 0.0
    used: float = -math.inf


_NONE = ModelLoad()


class _Model(Struct):
    """Since when a model is in its state; `wanted_since`: since when it starts without serving."""

    used: float
    serving_since: float | None = None
    wanted_since: float | None = None
    started: float = 0.0
    replicas: int = 0
    spare_since: float | None = None


class Observer:
    """Collects observations. `router`: the id of this router, whose queues the loads include."""

    def __init__(self, router: str, now: Callable[[], float]) -> None:
        self._router = router
        self._now = now
        self._last = now()
        self._hearing = Hearing(now)
        self._readers = Readers(now())
        self._routers: dict[str, tuple[float, dict[str, QueueLength]]] = {}
        self._models: dict[str, _Model] = {}

    def on_node(self, subject: bytes, _: bytes, body: bytes) -> None:
        """Take a node's heartbeat."""
        status = attributed(subject, body, NodeHeartbeat)
        if status is not None:
            self._hearing.on_heartbeat(status.node)

    def on_record(self, record: Record) -> None:
        """Take an entry of the log: an event of a node is a sign of life."""
        self._hearing.on_record(record)

    def on_stored(self, node: str, seq: int) -> None:
        """Take the sequence of the last heartbeat of a node that NATS has stored."""
        self._hearing.on_stored(node, seq)

    def tell(self, state: State) -> Told:
        """Return how long nodes have been silent to this router itself."""
        return self._hearing.tell(state)

    def doubtful(self, state: State) -> list[str]:
        """Return the nodes whose stored heartbeats should be looked up."""
        return self._hearing.doubtful(state)

    def on_router(self, subject: bytes, _: bytes, body: bytes) -> None:
        """Take another router's heartbeat."""
        router = last_token(subject)
        if router == self._router:
            return
        status = attributed(subject, body, RouterHeartbeat)
        if status is None:
            return
        self._routers[router] = (self._now(), status.queues)
        self._hearing.on_told(router, status.silent)
        self._readers.heard(router, status.reads, self._now())

    def others(self, model: str) -> Others:
        """Return how many other routers are heard, and whether clients wait for a model there."""
        heard = [
            queues for at, queues in self._routers.values() if self._now() - at <= ROUTER_SILENCE
        ]
        waiting = any(model in queues and queues[model].waiting for queues in heard)
        return Others(len(heard), waiting)

    @property
    def first(self) -> bool:
        """Whether no router with a smaller id is heard: one is enough for what all would find."""
        heard = [
            router
            for router, (at, _) in self._routers.items()
            if self._now() - at <= ROUTER_SILENCE
        ]
        return all(self._router < router for router in heard)

    def restart(self) -> None:
        """Start all times now, because nothing could be seen before."""
        self._last = self._now()
        self._hearing.restart()
        self._readers.restart(self._now())
        self._models.clear()

    def observe(self, state: State, loads: Mapping[str, ModelLoad]) -> Observation:
        """Return the present observation; `loads`: each model's requests known to this router."""
        now = self._now()
        if now - self._last > ABSENT:
            self.restart()
        self._last = now
        uses = self._uses(state, loads, now)
        silent = self._hearing.silences(state, self._routers)
        return Observation(silent, uses, self._readers.known(now))

    def _uses(
        self, state: State, loads: Mapping[str, ModelLoad], now: float
    ) -> dict[str, ModelUsage]:
        elsewhere = self._elsewhere(now)
        uses = {
            identity: self._use(state, model, loads.get(identity, _NONE), line, now)
            for identity, model in state.models.items()
            if (line := elsewhere.get(identity)) is not None or identity in loads or _lives(model)
        }
        for other in [model for model in self._models if model not in uses]:
            del self._models[other]
        return uses

    def _use(
        self, state: State, model: Model, load: ModelLoad, line: QueueLength | None, now: float
    ) -> ModelUsage:
        known = self._models.get(model.id)
        if known is None:
            known = self._models[model.id] = _Model(now)
        waiting = load.waiting + (line.waiting if line is not None else 0)
        longest = max(load.longest, line.oldest if line is not None else 0.0)
        known.used = now if load.in_flight or waiting else max(known.used, load.used)
        if any(replica.serving for replica in state.replicas_of(model)):
            if known.serving_since is None:
                known.serving_since = known.used = now
                if known.wanted_since is not None:
                    known.started = now - known.wanted_since
            known.wanted_since = None
        else:
            known.serving_since = None
            if not model.assignments:
                known.wanted_since = None
            elif known.wanted_since is None:
                known.wanted_since = now
        self._spare(model, known, load.in_flight, waiting, now)
        return ModelUsage(
            in_flight=load.in_flight,
            waiting=waiting,
            longest=longest,
            idle=now - known.used,
            serving=now - known.serving_since if known.serving_since is not None else 0.0,
            started=known.started,
            replicas=known.replicas,
            spare=now - known.spare_since if known.spare_since is not None else 0.0,
            asked=now - (known.used if load.in_flight or waiting else load.used),
        )

    def _spare(self, model: Model, known: _Model, in_flight: int, waiting: int, now: float) -> None:
        """Note since when one replica fewer would have sufficed."""
        auto, wanted = model.spec.autoscale, model.wanted
        if auto is None or known.replicas != wanted:
            known.replicas, known.spare_since = wanted, None
        if auto is None or waiting or in_flight > auto.in_flight * (wanted - 1):
            known.spare_since = None
        elif wanted == 1:
            known.spare_since = known.used
        elif known.spare_since is None:
            known.spare_since = now

    def _elsewhere(self, now: float) -> dict[str, QueueLength]:
        """Return the sum of the queues in other routers."""
        lines: dict[str, QueueLength] = {}
        for router, (at, queues) in tuple(self._routers.items()):
            if now - at > ROUTER_SILENCE:
                del self._routers[router]
                continue
            for model, line in queues.items():
                known = lines.get(model, QueueLength(0, 0.0))
                lines[model] = QueueLength(
                    known.waiting + line.waiting, max(known.oldest, line.oldest)
                )
        return lines


def _lives(model: Model) -> bool:
    """Return whether a decision about a model is possible although no request waits for it."""
    spec = model.spec
    return not model.asleep and (
        spec.evictable or spec.idle_after is not None or spec.autoscale is not None
    )
