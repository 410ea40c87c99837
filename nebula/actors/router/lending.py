"""A router's leases: it lends replicas to gateways, and calls them back when clients wait. Pure.

`granting` has the rules. A gateway reports to one router for each model and is answered at once.
While clients wait for a model, in any router that is heard, nothing of it is lent, so that all
requests for it go through the queues, and no one passes those that wait there.
"""

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from nebula.actors.router import granting
from nebula.actors.router.granting import Holder, Room
from nebula.actors.router.replica_loads import ReplicaLoads
from nebula.actors.router.slack import Others
from nebula.events import subjects
from nebula.events.inference import ReplicaCandidate
from nebula.events.leases import TERM, Lease, LeasesAsked, LeasesGranted
from nebula.events.reading import decoded
from nebula.events.state import Model, State

Post: TypeAlias = Callable[[str, bytes, bytes], None]

RECALL_HOLDS = TERM / 4
"""Seconds after a recall in which another one is not needed. No router lends the model until TERM
after the first, and heartbeats tell of lines that have begun meanwhile long before that."""


class Lending:
    """The leases of one router.

    `queued` returns whether clients wait here for a model. `went` is told of how many requests for
    a model gateways have sent directly.
    """

    def __init__(
        self,
        router: str,
        post: Post,
        loads: ReplicaLoads,
        state: Callable[[], State],
        now: Callable[[], float],
        others: Callable[[str], Others],
        queued: Callable[[str], bool],
        went: Callable[[str, int], None] = lambda _, __: None,
    ) -> None:
        self._router = router
        self._post = post
        self._loads = loads
        self._state = state
        self._now = now
        self._others = others
        self._queued = queued
        self._went = went
        self._holders: dict[str, dict[str, Holder]] = {}
        self._recalled: dict[str, float] = {}

    def __len__(self) -> int:
        return sum(map(len, self._holders.values()))

    def on_asked(self, subject: bytes, body: bytes) -> tuple[str, ...]:
        """Take a gateway's report and answer it; return the models of which it tells."""
        asked = decoded(body, LeasesAsked)
        if asked is None:
            return ()
        gateway = subject.split(b".")[3].decode("utf-8", "replace")
        now, state = self._now(), self._state()
        leases: dict[str, tuple[Lease, ...]] = {}
        for identity, wanted in asked.models.items():
            model = state.models.get(identity)
            if model is None:
                continue
            holders = self._holders.setdefault(identity, {})
            before = holders.get(gateway, Holder())
            if asked.serial <= before.serial:
                return ()
            holders[gateway] = granting.told(before, asked.serial, wanted, now)
            if wanted.sent:
                self._went(identity, wanted.sent)
            for replica in wanted.in_flight:
                self._loads.directly(replica, self._reported(identity, replica, now))
            leases[identity] = self._grant(state, model, gateway, now)
        answer = LeasesGranted(asked.serial, leases)
        self._post(subjects.leases_granted(gateway, self._router), b"", msgspec.json.encode(answer))
        return tuple(leases)

    def on_recalled(self, subject: bytes) -> None:
        """Hear that clients wait for a model in another router."""
        self._recalled[subject.split(b".")[3].decode("utf-8", "replace")] = self._now()

    def recall(self, model: Model) -> None:
        """Have all gateways return what they hold of a model, since a client begins to wait."""
        now = self._now()
        if model.spec.max_in_flight < granting.SMALL:
            return  # it is not lent
        if now - self._recalled.get(model.id, -TERM) >= RECALL_HOLDS:
            self._recalled[model.id] = now
            self._post(subjects.leases_recalled(model.id, self._router), b"", b"")

    def with_room(self, model: Model, candidates: list[ReplicaCandidate]) -> list[ReplicaCandidate]:
        """Return the candidates that have room beside what is lent of them."""
        holders = self._holders.get(model.id)
        if not holders:
            return candidates
        now, limit = self._now(), model.spec.max_in_flight
        return [
            each
            for each in candidates
            if self._busy(each, model.id, now)
            + granting.taken_up(holders.values(), each.replica, now)
            < limit
        ]

    def forget(self) -> None:
        """Forget gateways of which nothing counts any more."""
        now = self._now()
        for model, holders in tuple(self._holders.items()):
            for gateway in [each for each, it in holders.items() if granting.over(it, now)]:
                del holders[gateway]
            if not holders:
                del self._holders[model]
        for model in [each for each, at in self._recalled.items() if now - at > TERM]:
            del self._recalled[model]

    def _grant(self, state: State, model: Model, gateway: str, now: float) -> tuple[Lease, ...]:
        holders = self._holders[model.id]
        if not holders[gateway].most or self._waited_for(model.id, now):
            return ()
        leases = []
        for candidate in self._loads.lendable(state, model):
            busy = self._busy(candidate, model.id, now)
            room = Room(candidate.replica, model.spec.max_in_flight, busy)
            own = granting.running(holders[gateway], candidate.replica, now)
            others = busy + self._reported(model.id, candidate.replica, now) - own
            leases.append(
                Lease(
                    candidate.replica,
                    state.replicas[candidate.replica].version,
                    granting.lendable(room, holders, gateway, now),
                    others,
                    candidate.waiting,
                    candidate.cache,
                )
            )
        if not any(each.credits for each in leases):
            return ()
        lent = {each.replica: each.credits for each in leases if each.credits}
        holders[gateway] = granting.granted(holders[gateway], lent, now)
        return tuple(leases)

    def _waited_for(self, model: str, now: float) -> bool:
        """Return whether clients wait for a model, here or elsewhere."""
        if self._queued(model) or self._others(model).waiting:
            return True
        return now - self._recalled.get(model, -TERM) < TERM

    def _busy(self, candidate: ReplicaCandidate, model: str, now: float) -> int:
        """Return the requests of a replica that no holder has reported."""
        sent = self._loads.sent_to(candidate.replica)
        others = candidate.in_flight - sent
        return sent + max(0, others - self._reported(model, candidate.replica, now))

    def _reported(self, model: str, replica: str, now: float) -> int:
        holders = self._holders.get(model)
        return granting.reported(holders.values(), replica, now) if holders else 0
