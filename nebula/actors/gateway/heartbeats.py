"""What a gateway hears of routers and replicas beyond the log: who lives, and what waits where."""

from collections.abc import Callable, Collection, Iterable

import msgspec
from msgspec import Struct, field

from nebula.actors.gateway import addressing
from nebula.actors.gateway.addressing import Known
from nebula.events.status import QueueStatus, ReplicaStatus, RouterStatus

FORGOTTEN = 60.0
"""Seconds of silence after which a router is no longer spoken of."""


class _Replica(Struct):
    at: float
    pid: int
    context: int


class _Router(Known):
    queues: dict[str, QueueStatus] = field(default_factory=dict)


class Heartbeats:
    """See the module. `now` gives seconds of a monotonic clock.

    `heard_at`: when anybody was heard last; 0 before.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._since = 0.0
        self._turn = 0
        self.heard_at = 0.0
        self._replicas: dict[str, _Replica] = {}
        self._routers: dict[str, _Router] = {}
        self.router_at: float | None = None
        """When any router was heard last."""

    def on_replica(self, _: bytes, __: bytes, body: bytes) -> None:
        """Take a replica's heartbeat."""
        try:
            status = msgspec.json.decode(body, type=ReplicaStatus)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        now = self.heard_at = self._now()
        self._replicas[status.replica] = _Replica(now, status.pid, status.context)

    def on_router(self, _: bytes, __: bytes, body: bytes) -> None:
        """Take a router's heartbeat."""
        try:
            status = msgspec.json.decode(body, type=RouterStatus)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        known = self._routers.get(status.router)
        if known is None:
            known = self._routers[status.router] = _Router(status.router, 0.0)
        known.at = self.heard_at = self.router_at = self._now()
        known.addressed, known.queues = status.addressed, status.queues

    def routers(self) -> Collection[Known]:
        """Return the routers that were heard within FORGOTTEN seconds."""
        return self._routers.values()

    def router(self, name: str) -> Known | None:
        """Return what is known of a router."""
        return self._routers.get(name)

    def took_turn(self, router: Known) -> None:
        """Have all other routers chosen before this one, of those that are as good."""
        self._turn += 1
        router.turn = self._turn

    def routers_alive(self) -> tuple[str, ...]:
        """Return the routers that are living now, by their heartbeats."""
        now = self._now()
        return tuple(each.name for each in self.routers() if addressing.living(each, now))

    def restart(self) -> None:
        """Count silence from now on: nobody could be heard until now."""
        self._since = self._now()

    def replica_silent(self, replica: str, pid: int) -> float:
        """Give for how long (s) a replica's engine has been silent; 0 for one never heard."""
        known = self._replicas.get(replica)
        if known is None or known.pid != pid:
            return 0.0
        return self._now() - max(known.at, self._since)

    def replica_beat(self, replica: str, pid: int) -> float:
        """Give when a replica's engine was heard last; 0 for one never heard."""
        known = self._replicas.get(replica)
        return 0.0 if known is None or known.pid != pid else known.at

    def router_silent(self, router: str, since: float) -> float:
        """Give for how long (s) a router has been silent, at most since `since`."""
        known = self._routers.get(router)
        return self._now() - max(known.at if known is not None else 0.0, self._since, since)

    def context(self, replicas: Iterable[str]) -> int:
        """Give the smallest context of these replicas' engines; 0 where none has told it."""
        told = [
            known.context for each in replicas if (known := self._replicas.get(each)) is not None
        ]
        return min(told, default=0)

    def queue(self, model: str) -> QueueStatus:
        """Give how many requests wait for a model in all routers, and for how long (s) at most."""
        lines = [each.queues[model] for each in self._routers.values() if model in each.queues]
        return QueueStatus(
            sum(line.waiting for line in lines), max((line.oldest for line in lines), default=0.0)
        )

    def forget(self, known: Callable[[str], bool]) -> None:
        """Let go of replicas that are not `known` any more, and of routers long silent."""
        for replica in [each for each in self._replicas if not known(each)]:
            del self._replicas[replica]
        now = self._now()
        for router in [each for each, it in self._routers.items() if now - it.at > FORGOTTEN]:
            del self._routers[router]
