"""What is to come true when trouble has ended: it comes to rest, and what can be served is."""

from __future__ import annotations

from msgspec.structs import replace

from nebula.events.intents import ModelLoadRequested, NodeUndrainRequested
from nebula.events.values import Adapter
from nebula.events.vocabulary import ModelUnschedulable
from tests.simulation.client import TIMEOUT, Asked
from tests.simulation.cluster import Cluster
from tests.simulation.invariants import ANSWERED, COUNTED, ENDED, SERVED, SETTLED
from tests.simulation.journal import Broken
from tests.simulation.machine import BROKEN_OPTION
from tests.simulation.scenario import BUSY_FAULTS, FAULTS, GATEWAY_FAULTS, PARTITIONS, STOPS

QUIET = 45.0
"""Seconds without an event after which the cluster is taken to be at rest."""

LONGEST = 3_000.0
"""Seconds of calm after which a cluster that still decides is taken to decide for ever."""

MOST_ASKED = 30


LASTING = (*FAULTS, *PARTITIONS, *STOPS, *GATEWAY_FAULTS, *BUSY_FAULTS)


def calm(cluster: Cluster) -> None:
    """End all trouble, try again what was given up, and wait until nothing happens any more."""
    lasting = [
        step.at + step.amount + 35 for step in cluster.scenario.steps if step.what in LASTING
    ]
    cluster.clock.run(max([cluster.scenario.calm, *lasting]) + 1)
    for link in cluster.links():
        link.heal()
    for identity, node in cluster.nodes.items():
        state = cluster.journal.state
        known = state.nodes.get(identity)
        if known is not None and known.draining and cluster.rng.random() < 0.5:
            cluster.publish(identity, NodeUndrainRequested())
        assert node.alive
    _rest(cluster)
    if _try_again(cluster):
        _rest(cluster)
    _ask_all(cluster)


def _rest(cluster: Cluster) -> None:
    journal = cluster.journal
    began, first = cluster.clock.now, journal.seq
    while cluster.clock.now - max(journal.last_append, began) < QUIET:
        cluster.clock.run(cluster.clock.now + 5)
        many = 100 + 40 * len(journal.state.models) + 20 * len(journal.state.replicas)
        if cluster.clock.now - began > LONGEST or journal.seq - first > many:
            last = ", ".join(each.type for each in journal.records[-6:])
            raise Broken(
                SETTLED, f"{journal.seq - first} events since it is calm, the last: {last}"
            )


def _try_again(cluster: Cluster) -> bool:
    """An operator asks once more for models of which a replica or an adapter was given up."""
    state = cluster.journal.state
    asked = False
    for identity in sorted(state.models):
        model = state.models[identity]
        replicas = list(state.replicas_of(model))
        if any(
            each.given_up or any(not status.loaded for status in each.adapters.values())
            for each in replicas
        ):
            cluster.publish(identity, _again(model.spec, model.adapters))
            asked = True
    return asked


def _ask_all(cluster: Cluster) -> None:
    cluster.invariants.at_rest()
    state = cluster.journal.state
    asked: list[Asked] = []
    for identity in sorted(state.models):
        model = state.models[identity]
        replicas = list(state.replicas_of(model))
        if any(each.given_up for each in replicas) and not _broken(model.spec):
            raise Broken(SERVED, f"a replica of {identity} was given up though nothing was wrong")
        if any(each.serving for each in replicas) and len(asked) < MOST_ASKED:
            asked.append(cluster.clients.ask(identity))
    _wait_for_answers(cluster)
    for each in asked:
        if each.outcome != "answered":
            raise Broken(ANSWERED, f"{each.id} for {each.model}, which serves: {each.outcome}")
    _wake_all(cluster)
    for each in cluster.clients.asked:
        if not each.outcome:
            raise Broken(ENDED, f"{each.id} for {each.model} has no answer")
    _counts(cluster)


def _wait_for_answers(cluster: Cluster) -> None:
    end = cluster.clock.now + TIMEOUT + 20
    while cluster.clock.now < end and (
        any(gateway.alive and gateway.core.flights for gateway in cluster.gateways.values())
        or not all(each.outcome for each in cluster.clients.asked)
    ):
        cluster.clock.run(cluster.clock.now + 2)


def _counts(cluster: Cluster) -> None:
    """Once all requests have ended nothing is counted, or kept, for any of them."""
    for gateway in cluster.gateways.values():
        left = [f"{each.id} {each.phase}" for each in gateway.core.flights.values()]
        untaken = [each.name for each in gateway.heartbeats.routers() if each.untaken]
        lent, lined = gateway.leases.in_flight, gateway.leases.queued
        some = left or untaken or gateway.admission.waiting or gateway.clients or lent or lined
        if gateway.alive and some:
            raise Broken(
                COUNTED,
                f"{gateway.id} has {left} in flight, clients of {sorted(gateway.clients)}, "
                f"untaken ones at {untaken}, {gateway.admission.waiting} that wait, "
                f"{lent} at replicas that were lent, {lined} in lines",
            )


def _wake_all(cluster: Cluster) -> None:
    """Ask for those that sleep, one after the other: each comes, unless there is no room at first.

    Room that is made while a request waits may come too late for it.
    """
    for identity in sorted(cluster.journal.state.models)[:MOST_ASKED]:
        model = cluster.journal.state.models[identity]
        comes = model.spec.autoscale is not None or (model.asleep and model.spec.replicas)
        if not comes or model.wanted or _broken(model.spec):
            continue
        before = cluster.journal.seq
        asked = cluster.clients.ask(identity)
        _wait_for_answers(cluster)
        no_room = bool(cluster.journal.state.models[identity].unschedulable) or any(
            record.id == identity and isinstance(record.content, ModelUnschedulable)
            for record in cluster.journal.records[before:]
        )
        if asked.outcome != "answered" and not no_room:
            raise Broken(ANSWERED, f"{asked.id} for {identity}, which slept: {asked.outcome}")


def _again(spec: ModelLoadRequested, adapters: dict[str, str]) -> ModelLoadRequested:
    """Return the request that asks once more for what there is."""
    return replace(spec, adapters=tuple(Adapter(name, adapters[name]) for name in sorted(adapters)))


def _broken(spec: ModelLoadRequested) -> bool:
    """Return whether engines can't get ready whatever is done."""
    return bool(spec.options.get(BROKEN_OPTION))
