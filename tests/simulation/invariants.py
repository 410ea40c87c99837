"""What must hold after every step, and what must have come true once things have calmed down."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, get_args

import msgspec

from nebula.actors.gateway.in_flight import Phase
from nebula.actors.gateway.leasing import Direct
from nebula.actors.node.reconciliation import Restarts
from nebula.actors.placement.capacity import Place
from nebula.actors.placement.sizing import device_at, need, usable
from nebula.actors.router import routing
from nebula.actors.router.loss import LOST_AFTER
from nebula.events import envelope, snapshot
from nebula.events.evolve import evolve
from nebula.events.folding import fold
from nebula.events.index import indexed
from nebula.events.inference import Request
from nebula.events.leases import TERM, LeasesGranted
from nebula.events.model_status import model_status
from nebula.events.record import Record, parse_headers
from nebula.events.state import EMPTY, Model, Replica, State
from nebula.events.vocabulary import (
    AdapterLoaded,
    AdapterLoadFailed,
    Decided,
    EngineFailed,
    EventRejected,
    ModelAssigned,
    ModelScaled,
    ModelWoken,
    NodeLost,
)
from tests.simulation.engine import Engine
from tests.simulation.journal import SAME, Broken, Journal
from tests.simulation.machine import Machine
from tests.simulation.scenario import FORGED

if TYPE_CHECKING:
    from tests.simulation.client import Clients
    from tests.simulation.gateway import Gateway
    from tests.simulation.node import Node
    from tests.simulation.router import Router

GRANTED = "nothing speaks against a router's decision"
CAUSED = "every decision has a cause, and none is undone without a new one"
PROMISED = "plans promise no more than a device has"
ROOM = "engines have the room that they were promised"
GAP = "a change leaves no gap"
ONCE = "no replica runs twice"
SERVED = "what can be served is served once it is calm"
ROUTED = "requests go to replicas that serve"
ANSWERED = "every request is answered"
ENDED = "a request ends once, with all of its text or a named failure"
PASSED = "no request passes one that a client waits for in a line"
LENT = "no more goes directly than was lent, nor after the end of a lease"
WAKES = "slack wakes no model"
WHOLE = "no word comes twice, and none is missing"
COUNTED = "nothing is counted any more for requests that have ended"
TOLD = "what runs is what the log says"
SETTLED = "decisions die down"
ALIVE = "a node that reaches the log is never declared lost, and none twice in a short time"

TRIED = "an engine that was ready is started again, and soon if it has served for long"

BLAMED = "a request is blamed for no more failures of engines than the log has"

SURE = 15.0
"""Seconds for which a node has reached the log without a break, so that it must have answered."""

LATE = 2.0
"""Seconds between what a node sees and when the log has it, where it reaches that."""

ASKED = 120.0
"""Seconds for which a request may wait in a router's line, and for which that may be told."""

DECISIONS = tuple(kind for kind in get_args(Decided) if kind is not EventRejected)


class Invariants:
    """The laws of a world."""

    def __init__(self) -> None:
        self.journal: Journal | None = None
        self.machines: dict[str, Machine] = {}
        self.nodes: Mapping[str, Node] = {}
        self.routers: Mapping[str, Router] = {}
        self.clients: Clients | None = None
        self.gateways: Mapping[str, Gateway] = {}
        self._direct: dict[tuple[str, str], Direct] = {}
        self._lent: dict[tuple[str, str, int, str], tuple[float, int, int]] = {}
        self._lost: dict[str, int] = {}
        self._basis: dict[str, int] = {}
        self._taken: dict[tuple[str, int], Engine] = {}

    def on_append(self, record: Record, before: State, after: State) -> None:
        """Look at one more entry of the log. Raise Broken."""
        if after.seq != before.seq + 1:
            raise Broken(SAME, f"event {record.seq} was folded as number {after.seq}")
        event = record.content
        if isinstance(event, EngineFailed):
            self._tried(record, event, before)
        if isinstance(event, AdapterLoaded | AdapterLoadFailed):
            self._kept(record, event, before, after)
        if record.basis is None:
            return
        if isinstance(event, DECISIONS):
            self._caused(record)
            if record.seq in after.rejections:
                raise Broken(
                    GRANTED,
                    f"a router's own decision, {record.type} {record.id} at {record.seq}, "
                    f"was refused: {after.rejections[record.seq].reason}",
                )
        if isinstance(event, ModelAssigned):
            self._planned(record, event, before, after)
        if isinstance(event, ModelWoken) or (
            isinstance(event, ModelScaled) and event.replicas > before.models[record.id].wanted == 0
        ):
            self._called(record)
        if isinstance(event, NodeLost):
            self._truly_lost(record)

    def _called(self, record: Record) -> None:
        """A model starts for requests only if clients have asked for it."""
        assert self.clients is not None
        asked = [each for each in self.clients.asked if each.model == record.id]
        now = self.clients.now
        if not any(not (each.slack or (each.outcome and now > each.at + ASKED)) for each in asked):
            raise Broken(
                WAKES,
                f"{record.type} {record.id} at {record.seq}: no client waits for it, "
                f"only {sum(not each.outcome for each in asked)} requests of slack",
            )

    def _kept(
        self,
        record: Record,
        event: AdapterLoaded | AdapterLoadFailed,
        before: State,
        after: State,
    ) -> None:
        """No report of one replica takes an adapter's name off another that serves it."""
        replica = before.replicas.get(record.id)
        model = before.models.get(replica.model) if replica is not None else None
        if model is None:
            return
        served = {each.id for each in routing.able(before, model, event.name)}
        serve = {each.id for each in routing.able(after, after.models[model.id], event.name)}
        if served - serve:
            raise Broken(
                GAP,
                f"{event.name} of {model.id} is served no more by {sorted(served - serve)} since "
                f"the report of {record.id} at {record.seq}",
            )

    def _tried(self, record: Record, event: EngineFailed, before: State) -> None:
        """A replica that served is started again, after a short pause if it served for long.

        That holds for what its node saw and told. The log's times are later than what they tell
        of, by no more than `LATE`.
        """
        known = before.replicas.get(record.id)
        if known is None or not known.serving or known.node != event.node or not known.engine:
            return
        if event.reason == FORGED:
            return
        served, took = (record.time - known.since) / 1e9, (known.since - known.engine.started) / 1e9
        machine, node = self.machines[known.node], self.nodes[known.node]
        saw = min(machine.link.clear, machine.clock.now - node.began)
        if saw < served + took + LATE:
            return
        long = served >= min(max(2 * (took + LATE), 10.0), 300.0) + LATE
        if event.retry_in is None or (long and event.retry_in > Restarts().pause):
            raise Broken(
                TRIED,
                f"{record.id} served for {served:.0f} s after a start of {took:.0f} s, and after "
                f"its failure at {record.seq} it is started again in {event.retry_in} s",
            )

    def _truly_lost(self, record: Record) -> None:
        """A node is lost only where it can't say that it lives, or has not started to."""
        node, machine = self.nodes[record.id], self.machines[record.id]
        runs = machine.clock.now - node.began if node.alive and node.follower is not None else 0.0
        if min(runs, machine.link.clear) > SURE:
            raise Broken(
                ALIVE,
                f"{record.id} is lost at {record.seq}, though it has reached the log for "
                f"{machine.link.clear:.1f} s",
            )
        before = self._lost.get(record.id)
        if before is not None and record.time - before < LOST_AFTER * 1e9:
            raise Broken(ALIVE, f"{record.id} is lost at {record.seq} so soon after the last time")
        self._lost[record.id] = record.time

    def _caused(self, record: Record) -> None:
        if record.cause is None or record.basis is None or not 0 < record.cause <= record.basis:
            raise Broken(
                CAUSED,
                f"{record.type} {record.id} at {record.seq} has the cause {record.cause}, "
                f"which its router, who knew {record.basis} events, can't have known",
            )
        if isinstance(record.content, ModelAssigned):
            earlier = self._basis.get(record.id, 0)
            if record.cause <= earlier:
                raise Broken(
                    CAUSED,
                    f"the plan of {record.id} at {record.seq} undoes the one before without a "
                    f"new cause: {record.cause} was known to that one, which knew {earlier} events",
                )
            self._basis[record.id] = record.basis

    def _planned(self, record: Record, event: ModelAssigned, before: State, after: State) -> None:
        model = after.models[record.id]
        if model.version != before.models[record.id].version + 1:
            raise Broken(GRANTED, f"plan {event.version} of {record.id} came after {model.version}")
        for place in event.replicas:
            old, new = before.replicas.get(place.replica), after.replicas[place.replica]
            if old is not None and old.engine is not None and old.node != new.node:
                raise Broken(
                    ONCE, f"{place.replica} moves to {new.node}, its engine is on {old.node}"
                )
        assert self.journal is not None
        self._no_gap(record, event, self.journal.states[record.basis or 0])
        known = evolve(self.journal.states[record.basis or 0], record)
        touched = {
            (place.node, device)
            for place in event.replicas
            if place.version == event.version
            for device in place.devices
        }
        same_index(after)
        if touched:
            ending = {
                each.id
                for each in known.replicas_of(known.models[record.id])
                if each.retired and not self._was_retired(record, each.id)
            }
            who = f"the plan of {record.id} at {record.seq}"
            self._within(known, sorted(touched), ending, who)

    def _no_gap(self, record: Record, event: ModelAssigned, known: State) -> None:
        """A plan that replaces replicas lets the last one that serves be, unless in its place."""
        model = known.models[record.id]
        kept = {place.replica: place.version for place in event.replicas}
        serving = [each for each in known.replicas_of(model) if each.serving and fits(known, each)]
        if not model.wanted or not serving:
            return
        if not any(each.id in kept for each in serving):
            raise Broken(
                GAP,
                f"the plan of {record.id} at {record.seq} lets go of all that serve: "
                f"{', '.join(each.id for each in serving)}",
            )

    def _was_retired(self, record: Record, replica: str) -> bool:
        assert self.journal is not None
        return self.journal.states[record.basis or 0].replicas[replica].retired

    def _within(self, state: State, places: list[Place], ending: set[str], who: str) -> None:
        """Engines that this very plan ends make room before others of it start there."""
        used = promised(state, without=ending)
        for node, index in places:
            known = state.nodes.get(node)
            device = device_at(known, index) if known is not None else None
            if device is None:
                raise Broken(PROMISED, f"{who} uses {node}/{index}, which is not there")
            if used[node, index] > usable(device):
                there = sorted(
                    each.id
                    for each in state.replicas.values()
                    if each.node == node and index in each.devices
                )
                raise Broken(
                    PROMISED,
                    f"{who} promises {used[node, index]} of {usable(device)} bytes of "
                    f"{node}/{index}: {', '.join(there)}",
                )

    def on_start(self, new: Engine) -> None:
        """Look at an engine that is about to run, whatever plans say. Raise Broken."""
        machine = new.machine
        for other in machine.engines.values():
            if other.replica == new.replica:
                raise Broken(
                    ONCE,
                    f"{new.replica} was started on {machine.id} while its engine of plan "
                    f"{other.version}, pid {other.pid}, still ran",
                )
        for elsewhere in self.machines.values():
            if elsewhere is machine:
                continue
            for other in elsewhere.engines.values():
                if (other.replica, other.version) == (new.replica, new.version):
                    raise Broken(
                        ONCE,
                        f"{new.replica} of plan {new.version} runs twice: on {elsewhere.id} "
                        f"and on {machine.id}",
                    )
        if machine.has_room(new):
            return
        for index in new.devices:
            device = next((each for each in machine.devices if each.index == index), None)
            if device is None:
                raise Broken(
                    ROOM, f"{new.replica} was started on {machine.id}/{index}, which has gone"
                )
            there = [each for each in machine.engines.values() if index in each.devices]
            total = new.memory + sum(each.memory for each in there)
            if total > usable(device):
                others = ", ".join(f"{each.replica} (pid {each.pid})" for each in there)
                raise Broken(
                    ROOM,
                    f"{new.replica} was started on {machine.id}/{index}, where {others} "
                    f"still ran: {total} of {usable(device)} bytes",
                )

    def on_routed(self, replica: str, header: bytes) -> None:
        """Look at a request that a router sends on. Raise Broken."""
        routed = envelope.read_routed(parse_headers(header))
        assert routed is not None
        assert self.journal is not None
        known = self.journal.states[routed.seq].replicas.get(replica)
        if known is None or not known.serving:
            phase = "not there" if known is None else known.phase
            raise Broken(ROUTED, f"{replica} got one and was {phase} after event {routed.seq}")
        if envelope.SLACK in parse_headers(header):
            self._passes_none(known, routed.router)

    def _passes_none(self, replica: Replica, name: str) -> None:
        router = self.routers.get(name)
        if router is None or router.dispatch is None:
            return
        line = router.dispatch.status().queues.get(replica.model)
        if line is not None and line.waiting:
            raise Broken(
                PASSED,
                f"{replica.id} gets slack from {name}, where {line.waiting} requests that clients "
                f"wait for are in line for {replica.model}",
            )

    def on_lent(self, gateway: str, router: str, body: bytes, now: float) -> None:
        """Look at what a router lends a gateway."""
        answer = msgspec.json.decode(body, type=LeasesGranted)
        for leases in answer.models.values():
            for lease in leases:
                key = (gateway, router, answer.serial, lease.replica)
                self._lent[key] = (now, lease.plan, lease.credits)

    def on_direct(self, gateway: Gateway, request: Request, direct: Direct) -> None:
        """Look at a request that a gateway sends to a replica itself. Raise Broken."""
        self._direct[gateway.id, request.id] = direct
        who = f"{gateway.id} sends a request to {direct.replica} itself"
        name, replica, model = direct.router, direct.replica, direct.model
        at, plan, lent = self._lent.get((gateway.id, name, direct.serial, replica), (0.0, 0, 0))
        if gateway.clock.now > at + TERM or plan != direct.plan:
            raise Broken(LENT, f"{who}, for plan {direct.plan}, with no lease of {name} for that")
        own = self._there(replica, gateway=gateway.id)
        if own > lent:
            raise Broken(LENT, f"{who}, and has {own} there, with {lent} credits of {name}")
        assert self.journal is not None
        spec = self.journal.state.models[model].spec
        all_there = self._there(replica, router=name)
        if all_there > spec.max_in_flight:
            raise Broken(LENT, f"{who}, which has {all_there} then of {spec.max_in_flight}")
        waits = [
            each.id
            for each in gateway.core.flights.values()
            if each.phase is Phase.QUEUED and each.request.model == model and not each.request.slack
        ]
        if waits:
            raise Broken(PASSED, f"{who}, though {waits} wait for {model}")
        router = self.routers.get(name)
        if router is not None and router.alive and router.dispatch is not None:
            line = router.dispatch.status().queues.get(model)
            if line is not None and line.waiting and line.oldest > TERM:
                raise Broken(PASSED, f"{who}, though one has waited for {line.oldest} s in {name}")

    def _there(self, replica: str, *, gateway: str = "", router: str = "") -> int:
        """Return how many requests that went directly to a replica have not ended."""
        for name, identity in list(self._direct):
            flight = self.gateways[name].core.flights.get(identity)
            ended = not self.gateways[name].alive or flight is None
            if ended or (flight is not None and flight.request.attempt > 1):
                del self._direct[name, identity]
        return sum(
            direct.replica == replica and gateway in ("", name) and router in ("", direct.router)
            for (name, _), direct in self._direct.items()
        )

    def on_take(self, engine: Engine, request: Request) -> None:
        """Look at a request that an engine begins to serve. Raise Broken."""
        least = engine.told.get(request.id, 0)
        if request.attempt < least:
            raise Broken(
                ROUTED,
                f"{engine.replica} serves attempt {request.attempt} of {request.id}, though it has "
                f"been told that none below {least} is wanted",
            )
        engine.told[request.id] = request.attempt
        other = self._taken.setdefault((request.id, request.attempt), engine)
        if other is not engine:
            raise Broken(
                ROUTED,
                f"attempt {request.attempt} of {request.id} is served by two engines: "
                f"{engine.replica} on {engine.machine.id} and on {other.machine.id}",
            )

    def at_rest(self) -> None:
        """Look at the cluster once nothing has happened for long. Raise Broken."""
        assert self.journal is not None
        state = self.journal.state
        same_index(state)
        replayed = fold(EMPTY, self.journal.records)
        if snapshot.digest(replayed) != snapshot.digest(state):
            raise Broken(SAME, "a replay of the whole log comes to another state")
        if len(state.rejections):
            raise Broken(ANSWERED, f"rejections that nobody answered: {sorted(state.rejections)}")
        for identity in sorted(state.models):
            self._served(state, state.models[identity])
        for machine in self.machines.values():
            self._as_told(state, machine)

    def _served(self, state: State, model: Model) -> None:
        stands = model_status(state, model)
        if model.unloading:
            raise Broken(SERVED, f"{model.id} is still unloading: {stands.detail}")
        if model.requested_seq > model.planned_seq:
            raise Broken(SERVED, f"{model.id} waits for a plan since event {model.requested_seq}")
        for replica in state.replicas_of(model):
            if replica.retired:
                raise Broken(SERVED, f"{replica.id} is retired and still there, {replica.phase}")
            if not (replica.serving or replica.given_up):
                raise Broken(
                    SERVED, f"{replica.id} on {replica.node} does not serve: {replica.phase}"
                )
            loaded = {name for name, status in replica.adapters.items() if status.loaded}
            if replica.serving and not loaded - set(model.leaving) <= set(model.adapters) <= set(
                replica.adapters
            ):
                raise Broken(
                    SERVED,
                    f"{replica.id} has the adapters {sorted(replica.adapters)}, "
                    f"{model.id} wants {sorted(model.adapters)}",
                )
        self._versions(state, model)
        short = model.wanted - len(model.assignments)
        if short < 0 and any(each.given_up for each in state.replicas_of(model)):
            return  # what worked before serves beside what was given up
        if short and (not model.unschedulable or model.missing != short):
            raise Broken(SERVED, f"{model.id} lacks {short} replicas and is not said to")
        if short:
            self._no_room(state, model)

    def _versions(self, state: State, model: Model) -> None:
        """At rest no adapter waits, and its name stands for what engines really have."""
        for name, offer in model.offers.items():
            if name in model.leaving:
                continue
            serving = [each for each in state.replicas_of(model) if each.serving]
            stuck = [each.id for each in serving if not each.adapters[name].reason]
            if offer.pending and stuck:
                raise Broken(SERVED, f"{name} of {model.id} waits, though {stuck} have it")
            for replica in routing.able(state, model, name):
                machine = self.machines[replica.node]
                engine = machine.adopt(replica.engine.pid) if replica.engine else None
                if engine is None or (name, offer.digest) not in engine.adapters:
                    raise Broken(SERVED, f"{replica.id} does not have {name} {offer.digest}")
                if {each for each in engine.adapters if each[0] == name} != {(name, offer.digest)}:
                    raise Broken(SERVED, f"{replica.id} has more than {name} {offer.digest}")

    def _no_room(self, state: State, model: Model) -> None:
        """Look for room where placement found none; only for models that are simple to place."""
        spec = model.spec
        if (
            spec.labels
            or spec.node
            or spec.apart
            or model.id in state.apart
            or "tensor-parallel-size" in spec.options
        ):
            return
        used = promised(state)
        for identity in sorted(state.nodes):
            node = state.nodes[identity]
            for device in node.devices if node.schedulable else ():
                room = usable(device) - used.get((identity, device.index), 0)
                if room >= need(model, device):
                    raise Broken(
                        SERVED,
                        f"{model.id} is said not to fit, but {identity}/{device.index} has "
                        f"{room} bytes: {model.unschedulable}",
                    )

    def _as_told(self, state: State, machine: Machine) -> None:
        told = sorted(
            (each.id, each.engine.pid)
            for each in state.replicas.values()
            if each.node == machine.id and each.engine is not None
        )
        runs = sorted((each.replica, each.pid) for each in machine.engines.values())
        if told != runs:
            raise Broken(TOLD, f"on {machine.id} run {runs}, the log says {told}")


def fits(state: State, replica: Replica) -> bool:
    """Return whether a replica's node is there, with room for all promises of its devices."""
    node = state.nodes.get(replica.node)
    if node is None or node.lost:
        return False
    used = state.occupancy[node.id].used
    return all(
        (device := device_at(node, index)) is not None and used[index] <= usable(device)
        for index in replica.devices
    )


def same_index(state: State) -> None:
    """Look whether what the fold keeps beside the aggregates is what follows from them."""
    anew = indexed(state)
    for name in ("occupancy", "apart", "unsettled"):
        kept, made = getattr(state, name), getattr(anew, name)
        if not kept == made:
            raise Broken(SAME, f"{name} is {kept} after event {state.seq}, made anew {made}")


def promised(state: State, *, without: Set[str] = frozenset()) -> dict[Place, int]:
    """Sum what each device owes, retired replicas included."""
    used: dict[Place, int] = {}
    for replica in state.replicas.values():
        if replica.id in without:
            continue
        for index in replica.devices:
            used[replica.node, index] = used.get((replica.node, index), 0) + replica.memory
    return used
