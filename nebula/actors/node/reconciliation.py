"""Reconciles a node's engines with its assignments: returns the next actions. Pure."""

from collections.abc import Mapping, Sequence, Set
from typing import TypeAlias

from msgspec import Struct

from nebula.events.start_order import ordered, starts_soon
from nebula.events.state import Engine, Model, Offer, Replica, State


class Running(Struct, frozen=True):
    """An engine process of this node.

    `ready`: it has answered; `ending`: it is being ended; `told`: the log has it as running;
    `killed`: it was killed on request.
    """

    replica: str
    version: int
    devices: tuple[int, ...]
    ready: bool = False
    ending: bool = False
    told: bool = False
    killed: bool = False


class Start(Struct, frozen=True):
    """Start an engine for a replica."""

    replica: str
    attempt: int


class Stop(Struct, frozen=True):
    """End a replica's engine for a reason; `drains`: only once its requests have ended."""

    replica: str
    reason: str
    drains: bool = False


class Kill(Struct, frozen=True):
    """Kill a replica's engine, as the event `asked` requests."""

    replica: str
    asked: int


class LoadAdapter(Struct, frozen=True):
    """Load a version of an adapter in a replica's engine, beside those that it has.

    `digest`: that of the required version; "" for the present files. `asked`: the sequence of the
    request that this answers.
    """

    replica: str
    name: str
    source: str
    digest: str = ""
    asked: int = 0


class UnloadAdapter(Struct, frozen=True):
    """Unload a version of an adapter, or all, from a replica's engine."""

    replica: str
    name: str
    digest: str = ""


Action: TypeAlias = Start | Stop | Kill | LoadAdapter | UnloadAdapter


def reconcile(
    state: State,
    replicas: Sequence[Replica],
    running: Mapping[str, Running],
    retry_at: Mapping[str, float],
    now: float,
    waiting: Set[str] = frozenset(),
) -> tuple[Action, ...]:
    """Return the actions that reconcile this node's engines with its `replicas`.

    Engines that share a device start one after the other, because vLLM measures free memory while
    it starts; for the same reason none starts while another one there still ends. Replicas that
    served before start first, and their devices stay free for them until then, as `starts_soon`
    tells. On a node that is out of the cluster all of them end. Where a model is still wanted,
    requests that run may end before their engine does: routers send it no more. `retry_at` and
    `now` are seconds of one monotonic clock. `waiting`: replicas whose files are not here yet.
    """
    lost = {replica.node for replica in replicas if is_out(state, replica.node)}
    wanted = {
        replica.id: replica
        for replica in replicas
        if not replica.retired and replica.node not in lost
    }
    known = {replica.id: replica for replica in replicas}
    actions: list[Action] = []
    for engine in running.values():
        if engine.ending:
            continue
        replica = wanted.get(engine.replica)
        if replica is None and lost:
            actions.append(Stop(engine.replica, "its node was lost, or taken out of the cluster"))
        elif replica is None:
            drains = _drains(state, known.get(engine.replica))
            actions.append(Stop(engine.replica, "it is no longer assigned to this node", drains))
        elif replica.version != engine.version:
            reason = f"plan {replica.version} replaces it"
            actions.append(Stop(engine.replica, reason, _drains(state, replica)))
        elif engine.told and replica.engine is None:
            # Another actor reported that. As long as the engine runs, its memory must not count as
            # free.
            reason = "the log says that it has ended"
            actions.append(Stop(engine.replica, reason, _drains(state, replica)))
        elif engine.told and replica.engine is not None and replica.engine.killed:
            if not engine.killed and _is_killed(state, replica, replica.engine):
                actions.append(Kill(engine.replica, replica.engine.killed))
        elif engine.ready:
            actions += _adapters(state, replica)
    stopped = {action.replica for action in actions if isinstance(action, Stop)}
    busy = {
        device
        for engine in running.values()
        if engine.ending or not engine.ready or engine.replica in stopped
        for device in engine.devices
    }
    for replica in ordered(wanted.values()):
        if replica.id in running or replica.id in waiting or replica.given_up:
            continue
        devices, pause = set(replica.devices), retry_at.get(replica.id, 0.0) - now
        if not busy & devices and pause <= 0:
            actions.append(Start(replica.id, replica.attempt + 1))
            busy |= devices
        elif starts_soon(replica, pause):
            busy |= devices
    return tuple(actions)


def is_suspected(state: State, node: str) -> bool:
    """Return whether a router asks in the log whether this node is alive."""
    known = state.nodes.get(node)
    return known is not None and bool(known.suspected) and not known.away


def is_out(state: State, node: str) -> bool:
    """Return whether a node that has registered is lost, stopped, or was taken out of the cluster.

    If it is alive, it ends its engines and registers again.
    """
    known = state.nodes.get(node)
    return known is None or known.away


def _is_killed(state: State, replica: Replica, engine: Engine) -> bool:
    """Return whether an engine is to be killed: the request is to the node's present process."""
    node = state.nodes.get(replica.node)
    return node is not None and node.rehearsal and engine.killed > node.registered


def _drains(state: State, replica: Replica | None) -> bool:
    model = state.models.get(replica.model) if replica is not None else None
    return model is not None and not model.unloading


def _adapters(state: State, replica: Replica) -> list[Action]:
    """Return the actions for a ready engine's adapters.

    First load what each name stands for, then later requests; last, unload everything else.
    """
    model = state.models.get(replica.model)
    if model is None:
        return []
    actions: list[Action] = []
    for name, source in model.adapters.items():
        offer, status = model.offers.get(name, Offer()), replica.adapters.get(name)
        answered = status.asked if status is not None else 0
        if answered < offer.served:
            actions.append(LoadAdapter(replica.id, name, offer.source, offer.digest, offer.served))
        elif offer.pending and answered < offer.asked:
            digest = _found(state, model, name, offer)
            actions.append(LoadAdapter(replica.id, name, source, digest, offer.asked))
    for name, status in replica.adapters.items():
        if name not in model.adapters:
            if status.loaded and name not in model.leaving:
                actions.append(UnloadAdapter(replica.id, name))
            continue
        offer = model.offers.get(name, Offer())
        kept = {offer.digest}
        if offer.pending and status.asked == offer.asked:
            kept.add(status.digest)
        actions += [
            UnloadAdapter(replica.id, name, each) for each in status.held if each not in kept
        ]
    return actions


def _found(state: State, model: Model, name: str, offer: Offer) -> str:
    """Return the version that another replica has found for the same request; "" if none has."""
    answers = [each.adapters.get(name) for each in state.replicas_of(model)]
    found = [
        each.digest
        for each in answers
        if each is not None and each.asked == offer.asked and not each.reason
    ]
    return found[0] if found else ""


class Restarts(Struct, frozen=True):
    """Pauses before an engine that ended by itself is started again, in seconds, doubled each time.

    `limit` counts starts in a row that failed: an engine that was ready has shown that it can
    start, so it is never given up, unless `limit` is 1, with which nothing is restarted. Its pauses
    grow all the same. An engine that has served for twice as long as its start took, at least
    `least` and at most `settled` seconds, ends their growth: it failed for another reason.
    """

    limit: int = 3
    pause: float = 1.0
    longest: float = 60.0
    settled: float = 300.0
    least: float = 10.0

    def settles(self, took: float | None) -> float:
        """Return the seconds of service after which pauses are short again.

        `took`: seconds from an engine's start until it was ready; None if unknown.
        """
        return self.settled if took is None else min(max(2 * took, self.least), self.settled)

    def gives_up(self, number: int) -> bool:
        """Return whether an engine is not started again after so many failures in a row."""
        return number >= self.limit

    def after(self, failures: int) -> float:
        """Return the pause after so many failures in a row, those of ready engines included."""
        # A larger exponent is never needed, and would overflow a float.
        return min(self.pause * 2.0 ** min(failures - 1, 64), self.longest)
