"""What a gateway knows of routers and replicas from their heartbeats."""

from collections.abc import Callable, Collection, Iterable

from msgspec import Struct, field

from nebula.actors.attribution import attributed
from nebula.actors.gateway import addressing
from nebula.actors.gateway.addressing import Known
from nebula.events.engine_options import context
from nebula.events.heartbeats import (
    NOBODY,
    QueueLength,
    ReplicaHeartbeat,
    RouterHeartbeat,
    joined_lines,
)
from nebula.events.state import Model, State

FORGOTTEN = 60.0
"""Seconds of silence after which a router is forgotten."""


class Link(Struct, frozen=True):
    """The connection to NATS: whether it is up, since when it has been, and when it was lost."""

    connected: bool = True
    connected_at: float = 0.0
    lost_at: float | None = None


class _Replica(Struct):
    at: float
    pid: int
    context: int


class _Router(Known):
    queues: dict[str, QueueLength] = field(default_factory=dict)


class Heartbeats:
    """The routers and replicas that one gateway hears.

    `now` returns seconds of a monotonic clock. `heard_at`: when the last heartbeat came; 0 before
    the first.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._since = 0.0
        self._turn = 0
        self.heard_at = 0.0
        self._replicas: dict[str, _Replica] = {}
        self._contexts: dict[str, tuple[Model, int | None]] = {}
        self._routers: dict[str, _Router] = {}
        self.router_at: float | None = None
        """When the last heartbeat of any router came."""

    def on_replica(self, subject: bytes, _: bytes, body: bytes) -> None:
        """Record a replica's heartbeat."""
        status = attributed(subject, body, ReplicaHeartbeat)
        if status is None:
            return
        now = self.heard_at = self._now()
        known = self._replicas.get(status.replica)
        if known is None or known.context != status.context:
            self._contexts.clear()
        self._replicas[status.replica] = _Replica(now, status.pid, status.context)

    def on_router(self, subject: bytes, _: bytes, body: bytes) -> None:
        """Record a router's heartbeat."""
        status = attributed(subject, body, RouterHeartbeat)
        if status is None:
            return
        known = self._routers.get(status.router)
        if known is None:
            known = self._routers[status.router] = _Router(status.router, 0.0)
        known.at = self.heard_at = self.router_at = self._now()
        known.addressed, known.queues = status.addressed, status.queues

    def routers(self) -> Collection[Known]:
        """Return the routers with a heartbeat within FORGOTTEN seconds."""
        return self._routers.values()

    def assign(self, now: float, tried: Collection[str] = ()) -> str:
        """Return the router for an attempt, which counts as untaken there until `settle`.

        `tried`: routers that had the request before. Return "" if no living router can be
        addressed.
        """
        router = addressing.choose(self._routers.values(), now, tried)
        if router is None:
            return ""
        router.untaken += 1
        self._turn += 1
        router.turn = self._turn  # all others that are as good come before it
        return router.name

    def settle(self, name: str) -> None:
        """Stop counting an attempt as untaken at its router."""
        router = self._routers.get(name)
        if router is not None:
            router.untaken = max(0, router.untaken - 1)  # one that was forgotten began anew

    def doubt(self, name: str, sent_at: float) -> bool:
        """Record that a router did not take an attempt in time; False if the router is unknown."""
        router = self._routers.get(name)
        if router is not None:
            router.doubted = sent_at
        return router is not None

    def routers_alive(self) -> tuple[str, ...]:
        """Return the routers that are alive by their heartbeats."""
        now = self._now()
        return tuple(each.name for each in self.routers() if addressing.living(each, now))

    def restart(self) -> None:
        """Measure silence from now on: until now no heartbeat could arrive."""
        self._since = self._now()

    def replica_silent(self, replica: str, pid: int) -> float:
        """Return the seconds since a replica's engine was heard last; 0 if it never was."""
        known = self._replicas.get(replica)
        if known is None or known.pid != pid:
            return 0.0
        return self._now() - max(known.at, self._since)

    def replica_beat(self, replica: str, pid: int) -> float:
        """Return when the last heartbeat of a replica's engine came; 0 if none has."""
        known = self._replicas.get(replica)
        return 0.0 if known is None or known.pid != pid else known.at

    def router_silent(self, router: str, since: float) -> float:
        """Return for how many seconds a router has been silent, at most since `since`."""
        known = self._routers.get(router)
        return self._now() - max(known.at if known is not None else 0.0, self._since, since)

    def context(self, replicas: Iterable[str]) -> int:
        """Return the smallest context length of these replicas' engines; 0 if none is known."""
        told = [
            known.context for each in replicas if (known := self._replicas.get(each)) is not None
        ]
        return min(told, default=0)

    def context_of(self, model: Model) -> int | None:
        """Return the smallest context length that a model's engines report, or last reported.

        If none has, return what the model's options say, or None.
        """
        known = self._contexts.get(model.id)
        if known is None or known[0] is not model:
            told = self._told(model)
            found = told or context(model.spec.options) or model.context or None
            known = self._contexts[model.id] = model, found
        return known[1]

    def _told(self, model: Model) -> int:
        known = (self._replicas.get(each) for each in model.replicas)
        told = (each.context for each in known if each is not None and each.context)
        return min(told, default=0)

    def queue(self, model: str) -> QueueLength:
        """Return how many requests wait for a model in all routers, and the longest wait (s)."""
        heard = (each.queues for each in self._routers.values() if model in each.queues)
        return joined_lines({model: queues[model]} for queues in heard).get(model, NOBODY)

    def lines(self) -> dict[str, QueueLength]:
        """Return the lines of all models for which requests wait."""
        return joined_lines(each.queues for each in self._routers.values())

    def line(self, router: str, model: str) -> tuple[float, QueueLength | None]:
        """Return when a router was heard last (0: never), and its queue for a model, if any."""
        known = self._routers.get(router)
        return (0.0, None) if known is None else (known.at, known.queues.get(model))

    def forget(self, state: State) -> None:
        """Drop replicas that no longer exist, and routers that have long been silent."""
        for replica in [each for each in self._replicas if each not in state.replicas]:
            del self._replicas[replica]
        for identity in [each for each in self._contexts if each not in state.models]:
            del self._contexts[identity]
        now = self._now()
        for router in [each for each, it in self._routers.items() if now - it.at > FORGOTTEN]:
            del self._routers[router]
