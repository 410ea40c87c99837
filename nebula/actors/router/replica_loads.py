"""What a router knows of replicas beyond the log: their load, and whether to avoid them.

It comes from their heartbeats, from the ends of requests that engines report to all routers, and
from what this router itself sends.
"""

import math
from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from nebula.actors.attribution import attributed
from nebula.actors.router import routing, slack
from nebula.actors.router.blame import Blame
from nebula.actors.router.cached_prefixes import CachedPrefixes
from nebula.actors.router.observer import ModelLoad
from nebula.actors.router.prefixes import BOUNDS
from nebula.actors.router.slack import Others, Spare
from nebula.events.cache_news import CacheNews
from nebula.events.heartbeats import ReplicaHeartbeat
from nebula.events.inference import Doubt, Finished, ReplicaCandidate, Request
from nebula.events.state import Model, Replica, State

SILENCE = 8.0
"""Seconds without a heartbeat after which a replica counts as silent: four are missing by then."""

STALL = 15.0
"""Seconds for which a replica with requests may make no progress before others are preferred."""


class SlackSent(Struct, frozen=True):
    """A request of slack that a replica has; `leaves`: whether it has been taken back."""

    id: str
    gateway: str
    attempt: int
    leaves: bool = False


class _ReplicaLoad(Struct):
    """What is known of one replica.

    `others` counts requests of other routers: the engine's `running` ones less our own. `used`:
    when one of its requests was last reported as ended, from any router. `slack`: those of `sent`
    that take spare capacity only, and `others_slack` of `others`; neither counts as use. `busy`:
    when the replica was last known to have a request that a client waits for.
    """

    pid: int = 0
    heard: float = 0.0
    sent: dict[str, float] = {}
    others: int = 0
    slack: dict[str, SlackSent] = {}
    others_slack: int = 0
    busy: float = 0.0
    waiting: int = 0
    cache: float = 0.0
    stalled: float = 0.0
    used: float = -math.inf

    @property
    def in_flight(self) -> int:
        """The requests that it has, or that are on their way to it."""
        return len(self.sent) + self.others

    @property
    def asked(self) -> int:
        """Those of them that clients wait for."""
        return self.in_flight - len(self.slack) - self.others_slack

    @property
    def has_slack(self) -> bool:
        """Whether some of its requests take spare capacity only."""
        return bool(self.slack) or self.others_slack > 0

    def tell(self, running: int, slack_running: int, now: float) -> None:
        """Take from an engine how many requests it has, and how many of them are slack."""
        self.others = max(0, running - len(self.sent))
        if slack_running or self.slack or self.others_slack:
            self.others_slack = min(self.others, max(0, slack_running - len(self.slack)))
        if self.asked:
            self.busy = now


class ReplicaLoads:
    """Tracks replicas' loads. `state` returns the newest state, `now` monotonic seconds."""

    def __init__(self, state: Callable[[], State], now: Callable[[], float]) -> None:
        self._state = state
        self._now = now
        self._of: dict[str, _ReplicaLoad] = {}
        self._prefixes = CachedPrefixes()
        self._blame = Blame()
        self._able_in: State | None = None
        self._able_of: dict[tuple[str, str], list[tuple[Replica, _ReplicaLoad]]] = {}

    def __len__(self) -> int:
        return len(self._of)

    def sent(self, replica: str, request: Request, now: float) -> bool:
        """Note that a replica, one of the last candidates, is sent a request now.

        Return whether it has slack of this router.
        """
        load = self._of[replica]
        load.sent[request.id] = now
        if request.slack:
            load.slack[request.id] = SlackSent(request.id, request.gateway, request.attempt)
        else:
            load.busy = now
        if request.prefix:
            self._prefixes.learn(replica, request.prefix)
        return bool(load.slack)

    def finished(self, finished: Finished) -> bool:
        """Count the requests that an engine has finished; return False for an unknown replica."""
        load = self._known(finished.replica)
        if load is None:
            return False
        now = self._now()
        if len(finished.requests) > len(finished.slack):
            load.used = load.busy = now
        for identity in finished.requests:
            load.sent.pop(identity, None)
        for identity in finished.requests if load.slack else ():
            load.slack.pop(identity, None)
        load.tell(finished.active, finished.active_slack, now)
        engine = (finished.replica, load.pid)
        for identity in finished.failed:
            self._blame.failed(engine, identity, now)
        if len(finished.requests) > len(finished.failed) + len(finished.unproven):
            self._blame.succeeded(engine)
        return True

    def beats(self, status: ReplicaHeartbeat) -> bool:
        """Take a heartbeat; return False if it is from an unknown replica or engine."""
        load = self._known(status.replica, status.pid)
        if load is None or load.pid not in (0, status.pid):
            return False
        load.heard = now = self._now()
        load.waiting, load.cache, load.stalled = status.waiting, status.cache, status.stalled
        if len(load.sent) > status.running:
            # Lost reports of ended requests must not count as load of a replica for ever.
            recent = {key: sent for key, sent in load.sent.items() if now - sent < 2}
            if status.running == 0 or len(recent) >= status.running:
                load.sent = recent
                load.slack = {key: sent for key, sent in load.slack.items() if key in recent}
        load.tell(status.running, status.slack, now)
        return True

    def on_cache(self, subject: bytes, _: bytes, body: bytes) -> None:
        """Take what a replica's present engine tells of its prefix cache."""
        news = attributed(subject, body, CacheNews)
        load = None if news is None else self._known(news.replica, news.pid)
        if news is not None and load is not None and load.pid in (0, news.pid):
            self._prefixes.heard(news)

    def gone(self, replica: str, request: str) -> None:
        """Note a gateway's report that a replica died or fell silent while it had a request."""
        load = self._of.get(replica)
        if load is not None:
            self._blame.failed((replica, load.pid), request, self._now(), gone=True)

    def standing_still(self, replicas: Sequence[str]) -> str | None:
        """Return how long all replicas have made no progress, as a sentence; None if one has."""
        known = [self._of.get(replica) for replica in replicas]
        seconds = [0.0 if load is None else load.stalled for load in known]
        if not seconds or min(seconds) <= STALL:
            return None
        each = f"{replicas[0]} has" if len(seconds) == 1 else f"all {len(seconds)} replicas have"
        return f"{each} made no progress for {min(seconds):.0f} s, and gets no more requests"

    def forget(self) -> None:
        """Forget replicas that no longer exist."""
        replicas = self._state().replicas
        for replica in [known for known in self._of if known not in replicas]:
            self._blame.forget((replica, self._of.pop(replica).pid))
            self._prefixes.forget(replica)

    def of_models(self) -> dict[str, ModelLoad]:
        """Sum up what is known of each model's replicas."""
        replicas = self._state().replicas
        loads: dict[str, ModelLoad] = {}
        for identity, known in self._of.items():
            replica = replicas.get(identity)
            if replica is None:
                continue
            load = loads.setdefault(replica.model, ModelLoad())
            load.used = max(load.used, known.used)
            if replica.engine is not None and known.pid in (0, replica.engine.pid):
                load.in_flight += known.asked
        return loads

    def candidates(
        self,
        state: State,
        model: Model,
        adapter: str,
        prefix: tuple[str, ...] = (),
        tried: str = "",
    ) -> list[ReplicaCandidate]:
        """Return the replicas that can serve a request now; `tried`: has failed it."""
        now = self._now()
        known = self._prefixes.known(prefix) if prefix else {}
        suspected = self._blame.suspected
        # A beginning that many prompts share, such as a system prompt, must not send them all to
        # one replica: it is computed once and then cached everywhere.
        least = BOUNDS[max(0, len(prefix) - 2)]
        found = []
        for replica, load in self._able(state, model, adapter):
            doubt = ""
            if now - load.heard > SILENCE:
                doubt = Doubt.SILENT
            elif load.stalled > STALL:
                doubt = Doubt.STALLED
            elif replica.id == tried:
                doubt = Doubt.TRIED
            elif suspected and self._blame.avoids((replica.id, load.pid), now):
                doubt = Doubt.FAILED
            found.append(
                ReplicaCandidate(
                    replica.id,
                    load.in_flight,
                    bool(doubt),
                    load.waiting,
                    load.cache,
                    seen if known and (seen := known.get(replica.id, 0)) >= least else 0,
                    doubt,
                )
            )
        return found

    def _able(self, state: State, model: Model, adapter: str) -> list[tuple[Replica, _ReplicaLoad]]:
        """Return the replicas that are able to serve, with what is known of them.

        As long as the state is the same, so are they.
        """
        if self._able_in is not state:
            self._able_in, self._able_of = state, {}
        found = self._able_of.get((model.id, adapter))
        if found is None:
            able = routing.able(state, model, adapter)
            found = self._able_of[model.id, adapter] = [(each, self._load(each)) for each in able]
        return found

    def lendable(self, state: State, model: Model) -> list[ReplicaCandidate]:
        """Return the replicas of a model that may be lent to gateways.

        One that is avoided is not, nor is one with slack: its router has to know of each request
        of a client that comes there.
        """
        return [
            each
            for each in self.candidates(state, model, "")
            if not (each.avoided or self._of[each.replica].has_slack)
        ]

    def sent_to(self, replica: str) -> int:
        """Return how many requests a replica has from this router."""
        load = self._of.get(replica)
        return 0 if load is None else len(load.sent)

    def directly(self, replica: str, running: int) -> None:
        """Take from gateways how many requests a replica has that they sent it directly."""
        load = self._known(replica)
        if load is not None and running:
            load.others = max(load.others, running + load.others_slack)
            load.busy = self._now()

    def with_room(
        self, model: Model, candidates: Sequence[ReplicaCandidate], others: Others
    ) -> list[ReplicaCandidate]:
        """Return the candidates, found by `candidates`, that may get one more request of slack."""
        slots = slack.slots(model)
        return [
            each
            for each in candidates
            if slack.has_room(self._spare(self._of[each.replica]), slots, others.routers)
        ]

    def taken_back(self, model: Model, replica: str, others: Others) -> list[SlackSent]:
        """Return the requests of slack to take back from a replica now, the newest first.

        Each is returned once. They count as the replica's until it says that they have ended.
        """
        load = self._of[replica]
        many = slack.excess(self._spare(load), slack.slots(model), others.routers)
        many -= sum(each.leaves for each in load.slack.values())
        chosen = [
            each
            for each in reversed(load.slack.values())
            if not each.leaves and each.attempt < slack.TAKEN_BACK
        ][: max(0, many)]
        for each in chosen:
            load.slack[each.id] = replace(each, leaves=True)
        return chosen

    def has_slack(self, replica: str) -> bool:
        """Return whether a replica has requests of slack from this router."""
        load = self._of.get(replica)
        return load is not None and bool(load.slack)

    def _spare(self, load: _ReplicaLoad) -> Spare:
        return Spare(
            load.in_flight,
            len(load.slack) + load.others_slack,
            len(load.slack),
            0.0 if load.asked else self._now() - load.busy,
            load.waiting,
            load.cache,
        )

    def _known(self, identity: str, pid: int = 0) -> _ReplicaLoad | None:
        """Return what is known of a replica; start afresh for a new replica or a new engine."""
        load = self._of.get(identity)
        if load is None or (pid and load.pid not in (0, pid)):
            replica = self._state().replicas.get(identity)
            if replica is not None:
                return self._load(replica)
        return load

    def _load(self, replica: Replica) -> _ReplicaLoad:
        load = self._of.get(replica.id)
        pid = replica.engine.pid if replica.engine is not None else 0
        if load is None or load.pid != pid:
            if load is not None:
                # It is a new engine: its cache is empty, and it has no requests.
                self._prefixes.forget(replica.id)
                self._blame.forget((replica.id, load.pid))
            load = self._of[replica.id] = _ReplicaLoad(pid=pid, heard=self._now(), busy=self._now())
        return load
