"""Bugs to plant: each a few lines that could be anybody's mistake, for the simulation to find."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any
from unittest import mock

from msgspec import Struct
from msgspec.structs import replace

from nebula.actors.engine.attempts import Attempts
from nebula.actors.gateway import leasing, reacting, recovery, timeouts
from nebula.actors.gateway.core import RequestsInFlight
from nebula.actors.gateway.in_flight import Deliver, Effect, InFlightRequest, Send, Surroundings
from nebula.actors.gateway.leasing import Direct, Leases
from nebula.actors.gateway.recovery import Recovery
from nebula.actors.gateway.timeouts import Verdict
from nebula.actors.node import reconciliation
from nebula.actors.node.reconciliation import Action, Running
from nebula.actors.placement import planning
from nebula.actors.placement.decision import Decider, Decision
from nebula.actors.router import granting, lifecycle, routing
from nebula.actors.router.dispatch import Dispatch
from nebula.actors.router.fair_queue import FairQueue
from nebula.actors.router.granting import Holders, Room
from nebula.actors.router.hearing import Silence
from nebula.actors.router.lines import Line
from nebula.actors.router.observer import ModelLoad
from nebula.events import evolve_adapter, evolve_replica, snapshot
from nebula.events.failures import Failure
from nebula.events.index import indexed
from nebula.events.inference import Form, Piece
from nebula.events.leases import Lease
from nebula.events.state import Model, Offer, Replica, State
from nebula.events.vocabulary import ModelUnschedulable, NodeLost
from nebula.openai.stream import StreamRewriter
from nebula.openai.transcript import StreamTranscript
from tests.simulation.invariants import (
    ALIVE,
    BLAMED,
    CAUSED,
    COUNTED,
    ENDED,
    GAP,
    GRANTED,
    LENT,
    ONCE,
    PASSED,
    PROMISED,
    ROOM,
    ROUTED,
    SERVED,
    SETTLED,
    WAKES,
    WHOLE,
)
from tests.simulation.journal import SAME, Journal, Message
from tests.simulation.node import Node

Patch = tuple[object, str, object]


class Bug(Struct, frozen=True):
    """A mistake: what is put in place of what, and the laws of which it may break the first."""

    name: str
    patch: Patch
    laws: tuple[str, ...]
    steps: int
    """To how many steps a scenario that finds it can be reduced, at most."""


@contextlib.contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """Have a bug in Nebula for a while."""
    where, name, instead = bug.patch
    with mock.patch.object(where, name, instead):
        yield


_pass_on, _finish, _check, _sent = (
    InFlightRequest.pass_on,
    Recovery._finish,
    timeouts.check,
    recovery.sent,
)
_decide, _reconcile, _store = Decider.decide, reconciliation.reconcile, Journal.store
_trim = planning._Draft.trim
_loads = Dispatch.loads
_able, _load = routing.able, snapshot.load


def _without_retired(self: Decider, state: State) -> tuple[Decision, ...]:
    replicas = state.replicas
    for replica in state.replicas.values():
        if replica.retired:
            replicas = replicas.insert(replica.id, replace(replica, memory=0))
    return _decide(Decider(), indexed(replace(state, replicas=replicas)))


def _without_guard(self: Journal, message: Message) -> int:
    return _store(self, replace(message, guard=None))


def _too_early(
    state: State,
    replicas: Sequence[Replica],
    running: Mapping[str, Running],
    retry_at: Mapping[str, float],
    now: float,
    waiting: Set[str] = frozenset(),
) -> tuple[Action, ...]:
    still = {key: each for key, each in running.items() if not each.ending}
    return _reconcile(state, replicas, still, retry_at, now, waiting)


def _numbers_again(self: planning._Draft) -> Iterator[int]:
    taken = {place.replica for place in (*self.fresh, *self.old, *self.idle)}
    return (each for each in itertools.count() if f"{self.model.id}-{each}" not in taken)


def _at_once(self: planning._Draft) -> None:
    _trim(self)
    for place in self.old:
        self._drop(place)
    self.old = []


def _again_and_again(self: Decider, state: State) -> tuple[Decision, ...]:
    due = _decide(self, state)
    if due:
        return due
    for identity in sorted(state.models):
        model = state.models[identity]
        if model.unschedulable:
            event = ModelUnschedulable(model.unschedulable, model.missing)
            return (Decision(identity, event, model.requested_seq),)
    return ()


def _forgetful(data: bytes) -> State:
    return replace(_load(data), capacity_seq=0)


def _adopts_nothing(self: Node) -> Iterator[Any]:
    self.spawn(self._listen())
    yield 0.0


def _any_replica(state: State, model: Model, adapter: str) -> list[Replica]:
    return [replica for replica in state.replicas_of(model) if not replica.retired]


def _own_ear_alone(
    state: State, seen: Mapping[str, Silence], lost_after: float
) -> Iterator[Decision]:
    for identity, silence in sorted(seen.items()):
        node = state.nodes.get(identity)
        if node is not None and not node.lost and silence.seconds > lost_after:
            yield Decision(identity, NodeLost("silent"), node.changed)


def _one_queue(self: Line) -> None:
    self.asked = self.slack = FairQueue()


def _slack_is_demand(self: Dispatch) -> dict[str, ModelLoad]:
    loads = _loads(self)
    for model, line in self.lines.items():
        loads[model].waiting += len(line.slack)
    return loads


def _first_come(name: str, offer: Offer, serving: Sequence[Replica]) -> Offer | None:
    answers = [each.adapters.get(name) for each in serving]
    for status in answers:
        if status is not None and status.asked == offer.asked and not status.reason:
            return evolve_adapter._moved(offer, status)
    return None


def _never_removed(state: State, replica: Replica, seq: int) -> State:
    return state


def _in_any_order(
    self: InFlightRequest, chunk: int, attempt: int, body: bytes, now: float
) -> Piece | None:
    return _pass_on(self, min(chunk, self.answer.pieces), attempt, body, now)


def _of_any_attempt(
    self: InFlightRequest, chunk: int, attempt: int, body: bytes, now: float
) -> Piece | None:
    return _pass_on(self, chunk, self.answer.attempt, body, now)


def _all_complete(_: StreamTranscript) -> bytes:
    return b""


def _as_before(self: StreamRewriter, form: Form) -> None:
    """Another engine goes on, and its events are taken for those of the first."""


def _never_settled(self: Recovery) -> None:
    self.flight.untaken = False


def _still_waiting(self: Recovery) -> None:
    self.flight.accepted = True
    _finish(self)


def _unanswered(self: RequestsInFlight, asking: InFlightRequest, now: float) -> list[Effect]:
    return []


def _engines_live_for_ever(
    flight: InFlightRequest, now: float, around: Surroundings
) -> Verdict | Failure:
    verdict = _check(flight, now, around)
    gone = verdict in (Verdict.ENGINE_GONE, Verdict.ENGINE_SILENT, Verdict.LOOK_UP)
    return Verdict.WAIT if gone else verdict


def _same_attempt(
    flight: InFlightRequest, now: float, around: Surroundings, after: str = ""
) -> Send:
    return replace(_sent(flight, now, around, after), request=replace(flight.request, attempt=1))


def _told_to_one_that_left(self: Recovery, piece: Piece) -> None:
    self.effects.append(Deliver(self.flight.id, piece))
    if piece.end and piece.failure:
        self.effects.append(Deliver(self.flight.id, piece))


def _whatever_comes(self: Attempts, identity: str, attempt: int, under_way: int = 0) -> bool:
    return attempt != under_way


_lendable, _accept = granting.lendable, reacting._accept


def _lent_to_each(room: Room, holders: Holders, gateway: str, now: float) -> int:
    return _lendable(room, {gateway: holders[gateway]}, gateway, now)


def _of_any_plan(
    state: State, model: str, adapter: str, leases: Iterable[Lease]
) -> tuple[Lease, ...]:
    return tuple(leases)


def _never_returned(self: Leases, direct: Direct) -> None:
    """The request has ended, and its credit is still taken."""


def _returned_when_taken(flight: InFlightRequest, now: float, around: Surroundings) -> None:
    _accept(flight, now, around)
    recovery.release(flight, around)


def _without_end(self: Leases, now: float) -> int:
    self._serial += 1
    self._sent[self._serial] = now + 100
    return self._serial


LEASE_BUGS = (
    Bug(
        "a router lends what another gateway still holds",
        (granting, "lendable", _lent_to_each),
        (LENT,),
        10,
    ),
    Bug(
        "a gateway uses a lease after its end",
        (Leases, "_next_serial", _without_end),
        (LENT,),
        10,
    ),
    Bug(
        "a credit is returned as soon as the replica has taken the request",
        (reacting, "_accept", _returned_when_taken),
        (LENT,),
        10,
    ),
    Bug(
        "requests go directly whatever the log says of the replica",
        (leasing, "fitting", _of_any_plan),
        (ROUTED,),
        10,
    ),
    Bug(
        "the credit of a request that has ended is never returned",
        (Leases, "release", _never_returned),
        (COUNTED,),
        10,
    ),
)
"""Those of leases: what routers lend, and gateways send without them."""

GATEWAY_BUGS = (
    Bug(
        "the fast path takes a piece although an earlier one is missing",
        (InFlightRequest, "pass_on", _in_any_order),
        (WHOLE,),
        10,
    ),
    Bug(
        "the fast path takes what an earlier attempt still says",
        (InFlightRequest, "pass_on", _of_any_attempt),
        (WHOLE, "KeyError"),
        30,
    ),
    Bug(
        "an answer goes on though what the client has of it is in doubt",
        (StreamTranscript, "possibly_incomplete_ids", property(_all_complete)),
        (WHOLE,),
        10,
    ),
    Bug(
        "what another engine goes on with is not rewritten",
        (StreamRewriter, "resume", _as_before),
        (WHOLE, ENDED),
        10,
    ),
    Bug(
        "an attempt that another follows still counts at its router",
        (Recovery, "_settle", _never_settled),
        (COUNTED,),
        10,
    ),
    Bug(
        "a request that was never taken counts as waiting after its end",
        (Recovery, "_finish", _still_waiting),
        (COUNTED,),
        10,
    ),
    Bug(
        "a request that asks for a text is never answered",
        (RequestsInFlight, "_answer", _unanswered),
        (ENDED,),
        10,
    ),
    Bug(
        "no engine counts as gone or silent",
        (timeouts, "check", _engines_live_for_ever),
        (ENDED,),
        10,
    ),
    Bug(
        "a further attempt has the number of the first",
        (recovery, "sent", _same_attempt),
        (ROUTED, ENDED, BLAMED),
        12,
    ),
    Bug(
        "a client is told of a failure twice",
        (Recovery, "_deliver", _told_to_one_that_left),
        (ENDED,),
        10,
    ),
)
"""Those of the gateway's core: what its requests in flight come to."""

BUGS = (
    *GATEWAY_BUGS,
    *LEASE_BUGS,
    Bug(
        "an engine runs an attempt after a later one, or after its cancellation",
        (Attempts, "wanted", _whatever_comes),
        (ROUTED,),
        10,
    ),
    Bug(
        "placement forgets the memory of replicas that still end",
        (Decider, "decide", _without_retired),
        (PROMISED, ROOM, CAUSED),
        5,
    ),
    Bug(
        "the log ignores the guard of decisions",
        (Journal, "store", _without_guard),
        (CAUSED, GRANTED),
        3,
    ),
    Bug(
        "reconcile starts an engine while the old one still ends",
        (reconciliation, "reconcile", _too_early),
        (ONCE, ROOM),
        6,
    ),
    Bug(
        "a replica that moves keeps its number",
        (planning._Draft, "_free_numbers", _numbers_again),
        (ONCE,),
        4,
    ),
    Bug(
        "a change ends the old replica before the new one serves",
        (planning._Draft, "trim", _at_once),
        (GAP,),
        3,
    ),
    Bug(
        "a router says again and again that a model does not fit",
        (Decider, "decide", _again_and_again),
        (SETTLED,),
        2,
    ),
    Bug("a snapshot loses a field", (snapshot, "load", _forgetful), (SAME,), 3),
    Bug(
        "a node that starts does not look for engines that still run",
        (Node, "_adopt", _adopts_nothing),
        (ONCE, ROOM, SERVED),
        3,
    ),
    Bug(
        "requests go to replicas that are not ready",
        (routing, "able", _any_replica),
        (ROUTED,),
        3,
    ),
    Bug(
        "slack waits among what clients wait for",
        (Line, "__init__", _one_queue),
        (PASSED, WAKES),
        4,
    ),
    Bug(
        "slack that waits counts as demand",
        (Dispatch, "loads", _slack_is_demand),
        (WAKES,),
        4,
    ),
    Bug(
        "an adapter's name moves as soon as one replica has the new version",
        (evolve_adapter, "_next", _first_come),
        (GAP, SERVED),
        4,
    ),
    Bug(
        "an engine's end frees nothing",
        (evolve_replica, "remove", _never_removed),
        (SERVED,),
        3,
    ),
    Bug(
        "a router declares lost whom it alone does not hear",
        (lifecycle, "decide_lost", _own_ear_alone),
        (ALIVE,),
        2,
    ),
)
