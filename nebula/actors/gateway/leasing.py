"""A gateway's leases: which replica it may send a request to itself, without its router. Pure.

Routers lend gateways credits of replicas (`events/leases` has the protocol). A gateway chooses as
its routers do, with the same function, and where the replica that it would choose has no credit
left it asks a router. It reports to one router for each model: the same one as all other gateways
that hear the same routers.

A further attempt at a request never goes directly, nor does what is asked because an engine has
failed, and none does while another request of this gateway for the same model waits in a router's
line.
"""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field

from nebula.actors.gateway import addressing
from nebula.actors.gateway.addressing import Known
from nebula.actors.router import routing
from nebula.actors.router.cached_prefixes import CachedPrefixes
from nebula.actors.router.prefixes import BOUNDS
from nebula.events.cache_news import CacheNews
from nebula.events.inference import ReplicaCandidate, Request, Routed
from nebula.events.leases import TERM, Lease, LeasesAsked, LeasesGranted, Wanted
from nebula.events.state import State

REPORTS = 0.5
"""Seconds between two reports about the models that requests come for."""

COUNTED = 2000
"""Models whose requests are counted; beyond them, models that are no more are forgotten."""

_NO_LIMIT = 1 << 30
_NAMED = 16


class Direct(Struct, frozen=True):
    """A request's place at a replica, out of a lease; `serial`: the report that it answered.

    `version`: the digest of the adapter's version, if the request names none itself.
    """

    model: str
    replica: str
    plan: int
    router: str
    serial: int
    routed: Routed
    version: str = ""


class Held(Struct, frozen=True):
    """The leases of a model's replicas that are in force, up to `until`."""

    router: str
    serial: int
    until: float
    leases: tuple[Lease, ...]


class SentRequests(Struct):
    """The attempts at requests for one model since the gateway's start, by their way.

    `told`: those sent `directly` of which a router has been told.
    """

    directly: int = 0
    by_routers: int = 0
    told: int = 0


class _Use(Struct):
    """What a gateway has of a model. `floor`: answers to earlier reports are not used any more.

    `in_flight`: the requests sent directly, by replica; `most`: the most at a time since the last
    report; `missed`: those meanwhile that had to ask a router. `queued`: requests in routers'
    lines. `fitting`: the leases that the last known state agrees with, by adapter.
    """

    floor: int
    router: str = ""
    held: Held | None = None
    in_flight: dict[str, int] = field(default_factory=dict)
    running: int = 0
    most: int = 0
    missed: int = 0
    queued: set[str] = field(default_factory=set)
    state: State | None = None
    fitting: dict[str, tuple[Lease, ...]] = field(default_factory=dict)


def fitting(state: State, model: str, adapter: str, leases: Iterable[Lease]) -> tuple[Lease, ...]:
    """Return the leases of replicas that can serve a request, and run for the plan of the lease."""
    known = state.models.get(model)
    if known is None:
        return ()
    able = {each.id: each.version for each in routing.able(state, known, adapter)}
    return tuple(each for each in leases if able.get(each.replica) == each.plan)


def candidates(
    leases: Sequence[Lease], in_flight: Mapping[str, int], seen: Mapping[str, int], least: int
) -> tuple[ReplicaCandidate, ...]:
    """Return the replicas as a router's candidates.

    `seen`: for each replica the bytes of the prompt's beginning that it has had; fewer than `least`
    do not count.
    """
    return tuple(
        [
            ReplicaCandidate(
                each.replica,
                each.others + in_flight.get(each.replica, 0),
                False,
                each.waiting,
                each.cache,
                prefix if seen and (prefix := seen.get(each.replica, 0)) >= least else 0,
            )
            for each in leases
        ]
    )


def granter(routers: Iterable[Known], model: str, now: float) -> str:
    """Return the router that lends replicas of a model; "" if none is heard."""
    living = [each.name for each in routers if each.addressed and addressing.living(each, now)]
    return max(living, key=lambda each: routing.draw(model, each), default="")


class Leases:
    """The leases of one gateway. Times are seconds of one monotonic clock."""

    def __init__(self, gateway: str = "") -> None:
        self.asks = False
        """Whether it asks routers for leases; until then it keeps nothing of what passes."""
        self._gateway = gateway
        self._serial = 0
        self._sent: dict[int, float] = {}
        self._uses: dict[str, _Use] = {}
        self._due = 0.0
        self._prefixes = CachedPrefixes()
        self._engines: dict[str, int] = {}
        self.sent: dict[str, SentRequests] = {}
        """What was sent for each model."""

    def take(self, request: Request, state: State, now: float) -> Direct | None:
        """Take a credit for a request; return None if it is to go to a router.

        The credit is taken until `release`.
        """
        sent = self.sent.get(request.model)
        if sent is None:
            sent = self._count(request.model, state)
        if not self.asks:
            sent.by_routers += 1
            return None
        use = self._uses.get(request.model)
        if use is None:
            use = self._uses[request.model] = _Use(self._serial + 1)
        if request.attempt > 1 or request.avoid or request.slack:
            sent.by_routers += 1
            return None
        direct = self._choose(use, request, state, now)
        if direct is None:
            sent.by_routers += 1
            use.missed += 1
            return None
        sent.directly += 1
        use.in_flight[direct.replica] = use.in_flight.get(direct.replica, 0) + 1
        use.running += 1
        use.most = max(use.most, use.running)
        if request.prefix:
            self._prefixes.learn(direct.replica, request.prefix)
        return direct

    def release(self, direct: Direct) -> None:
        """Return the credit of a request that is not at its replica any more."""
        use = self._uses[direct.model]
        left = use.in_flight[direct.replica] - 1
        use.running -= 1
        if left:
            use.in_flight[direct.replica] = left
        else:
            del use.in_flight[direct.replica]

    def doubt(self, direct: Direct) -> None:
        """Send nothing more for this model directly until its router has answered a new report."""
        self._give_back(self._uses[direct.model])

    def learn(self, request: Request, replica: str) -> None:
        """Note which replica has had a prompt that went to it through a router."""
        if self.asks and request.prefix and replica:
            self._prefixes.learn(replica, request.prefix)

    def caches(self, news: CacheNews, state: State) -> None:
        """Take what a replica's present engine tells of its prefix cache."""
        if not self.asks or news.replica not in state.replicas:
            return
        if self._look_at_engine(state, news.replica) == news.pid:
            self._prefixes.heard(news)

    def waits(self, request: Request) -> None:
        """Note that a request is in a router's line, where it may be passed unless it is slack."""
        use = self._uses.get(request.model)
        if use is not None and not request.slack:
            use.queued.add(request.id)

    def waits_no_more(self, request: Request) -> None:
        """Note that a request has left its router's line."""
        use = self._uses.get(request.model)
        if use is not None:
            use.queued.discard(request.id)

    def reports(self, routers: Iterable[Known], now: float) -> list[tuple[str, LeasesAsked]]:
        """Return the reports that are due, each with the router that it is for."""
        if now < self._due or not self._uses:
            return []
        self._due = now + REPORTS
        serial = self._next_serial(now)
        told: dict[str, dict[str, Wanted]] = {}
        for model, use in tuple(self._uses.items()):
            wanted = use.most + use.missed
            if not (wanted or use.held or use.in_flight or use.queued):
                del self._uses[model]
                continue
            name = granter(routers, model, now)
            if name != use.router or not wanted:
                use.router, use.held, use.floor = name, None, serial
            if name:
                told.setdefault(name, {})[model] = self._wanted(model, use, wanted)
            use.most, use.missed = use.running, 0
        return [(name, LeasesAsked(serial, models)) for name, models in told.items()]

    def recalled(self, model: str, now: float) -> list[tuple[str, LeasesAsked]]:
        """Hold a model's leases no more, since clients wait; return what to report at once."""
        use = self._uses.get(model)
        if use is None:
            return []
        serial = self._next_serial(now)
        use.held, use.floor = None, serial
        if not use.router:
            return []
        return [(use.router, LeasesAsked(serial, {model: self._wanted(model, use, 0)}))]

    def granted(self, router: str, answer: LeasesGranted, state: State, now: float) -> None:
        """Take a router's answer to a report; one that comes too late is passed over."""
        sent_at = self._sent.get(answer.serial)
        if sent_at is None or now >= sent_at + TERM:
            return
        for model, leases in answer.models.items():
            use = self._uses.get(model)
            if use is None or use.router != router or answer.serial < use.floor:
                continue
            use.floor, use.state = answer.serial, None
            use.held = Held(router, answer.serial, sent_at + TERM, leases) if leases else None
            for each in leases:
                self._look_at_engine(state, each.replica)

    def holds(self, model: str) -> Held | None:
        """Return the leases that this gateway has of a model."""
        use = self._uses.get(model)
        return None if use is None else use.held

    @property
    def idle(self) -> bool:
        """Whether there is nothing to report."""
        return not self._uses

    @property
    def in_flight(self) -> int:
        """The requests that were sent directly and have not ended."""
        return sum(use.running for use in self._uses.values())

    @property
    def most(self) -> int:
        """The most requests at a time that went directly since the last report."""
        return sum(use.most for use in self._uses.values())

    @property
    def queued(self) -> int:
        """The requests in routers' lines."""
        return sum(len(use.queued) for use in self._uses.values())

    def _choose(self, use: _Use, request: Request, state: State, now: float) -> Direct | None:
        held = use.held
        if held is None or now >= held.until or use.queued:
            return None
        if use.state is not state:
            use.state, use.fitting = state, {}
        leases = use.fitting.get(request.adapter)
        if leases is None:
            leases = fitting(state, request.model, request.adapter, held.leases)
            use.fitting[request.adapter] = leases
        prefix = request.prefix
        seen = self._prefixes.known(prefix) if prefix else {}
        found = candidates(leases, use.in_flight, seen, BOUNDS[max(0, len(prefix) - 2)])
        chosen = routing.choose(found, routing.key_of(request), _NO_LIMIT) if found else None
        for lease in leases:
            if lease.replica == chosen and use.in_flight.get(chosen, 0) < lease.credits:
                return Direct(
                    request.model,
                    chosen,
                    lease.plan,
                    held.router,
                    held.serial,
                    Routed(held.router, state.seq, found[:_NAMED], gateway=self._gateway),
                    _digest(state, request),
                )
        return None

    def _count(self, model: str, state: State) -> SentRequests:
        if len(self.sent) >= COUNTED:
            self.sent = {each: it for each, it in self.sent.items() if each in state.models}
        sent = self.sent[model] = SentRequests()
        return sent

    def _wanted(self, model: str, use: _Use, most: int) -> Wanted:
        """Return what a report says of a model."""
        sent = self.sent.get(model)
        news = 0
        if sent is not None:
            news, sent.told = sent.directly - sent.told, sent.directly
        return Wanted(use.floor, most, dict(use.in_flight), news)

    def _give_back(self, use: _Use) -> None:
        use.held, use.floor = None, self._serial + 1

    def _next_serial(self, now: float) -> int:
        self._serial += 1
        self._sent = {each: at for each, at in self._sent.items() if now - at < TERM}
        self._sent[self._serial] = now
        return self._serial

    def _look_at_engine(self, state: State, replica: str) -> int:
        """Return the process id of a replica's engine, or 0.

        Forget what the replica has had if it is another engine: its cache is empty.
        """
        known = state.replicas.get(replica)
        pid = known.engine.pid if known is not None and known.engine is not None else 0
        if self._engines.setdefault(replica, pid) != pid:
            self._engines[replica] = pid
            self._prefixes.forget(replica)
        return pid


def _digest(state: State, request: Request) -> str:
    """Return the digest of the adapter's version, which the engine is to have."""
    if not request.adapter or request.version:
        return ""
    offer = state.models[request.model].offers.get(request.adapter)
    return offer.digest if offer is not None else ""
