"""What a node has to do next: the difference between its assignments and its engines. Pure."""

from collections.abc import Mapping, Sequence, Set
from typing import TypeAlias

from msgspec import Struct

from nebula.events.state import Replica, State


class Running(Struct, frozen=True):
    """An engine process of this node.

    `ready`: it has answered; `ending`: it was told to end; `told`: the log has it as running.
    """

    replica: str
    version: int
    devices: tuple[int, ...]
    ready: bool = False
    ending: bool = False
    told: bool = False


class Start(Struct, frozen=True):
    """Start an engine for a replica."""

    replica: str
    attempt: int


class Stop(Struct, frozen=True):
    """End a replica's engine, for a reason that is told; `drains`: when its requests have ended."""

    replica: str
    reason: str
    drains: bool = False


class LoadAdapter(Struct, frozen=True):
    """Have a replica's engine load an adapter."""

    replica: str
    name: str
    source: str


class UnloadAdapter(Struct, frozen=True):
    """Have a replica's engine let go of an adapter."""

    replica: str
    name: str


Action: TypeAlias = Start | Stop | LoadAdapter | UnloadAdapter


def reconcile(
    state: State,
    replicas: Sequence[Replica],
    running: Mapping[str, Running],
    retry_at: Mapping[str, float],
    now: float,
    waiting: Set[str] = frozenset(),
) -> tuple[Action, ...]:
    """Give the actions that bring this node's engines in line with its `replicas`.

    Engines that share a device start one after the other, because vLLM measures free memory while
    it starts; for the same reason none starts while another one there still ends. On a lost node
    all of them end. Where a model is still wanted, requests that run may end before their engine
    does: routers send it no more. `retry_at` and `now` are seconds of one monotonic clock.
    `waiting`: replicas whose files are not here yet.
    """
    lost = {replica.node for replica in replicas if is_lost(state, replica.node)}
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
            actions.append(Stop(engine.replica, "its node was lost: its place is elsewhere now"))
        elif replica is None:
            drains = _drains(state, known.get(engine.replica))
            actions.append(Stop(engine.replica, "it is no longer assigned to this node", drains))
        elif replica.version != engine.version:
            reason = f"plan {replica.version} replaces it"
            actions.append(Stop(engine.replica, reason, _drains(state, replica)))
        elif engine.told and replica.engine is None:
            # Somebody else has said so. As long as it runs, nobody may take its room for free.
            reason = "the log says that it has ended"
            actions.append(Stop(engine.replica, reason, _drains(state, replica)))
        elif engine.ready:
            actions += _adapters(state, replica)
    stopped = {action.replica for action in actions if isinstance(action, Stop)}
    busy = {
        device
        for engine in running.values()
        if engine.ending or not engine.ready or engine.replica in stopped
        for device in engine.devices
    }
    for replica in wanted.values():
        if replica.id in running or replica.id in waiting or busy & set(replica.devices):
            continue
        if replica.given_up or retry_at.get(replica.id, 0.0) > now:
            continue
        actions.append(Start(replica.id, replica.attempt + 1))
        busy |= set(replica.devices)
    return tuple(actions)


def is_suspected(state: State, node: str) -> bool:
    """Say whether a router asks in the log whether this node lives."""
    known = state.nodes.get(node)
    return known is not None and bool(known.suspected) and not known.lost


def is_lost(state: State, node: str) -> bool:
    """Say whether routers have given a node up: it ends its engines, then registers again."""
    known = state.nodes.get(node)
    return known is not None and known.lost


def _drains(state: State, replica: Replica | None) -> bool:
    model = state.models.get(replica.model) if replica is not None else None
    return model is not None and not model.unloading


def _adapters(state: State, replica: Replica) -> list[Action]:
    model = state.models.get(replica.model)
    if model is None:
        return []
    actions: list[Action] = []
    for name, status in replica.adapters.items():
        if status.loaded and model.adapters.get(name) != status.source:
            actions.append(UnloadAdapter(replica.id, name))
    for name, source in model.adapters.items():
        known = replica.adapters.get(name)
        if known is None or (not known.loaded and known.source != source):
            actions.append(LoadAdapter(replica.id, name, source))
    return actions


class Restarts(Struct, frozen=True):
    """How an engine that ends by itself is started again: pauses in seconds, growing twofold.

    `limit` counts starts in a row without `settled` seconds of service between them.
    """

    limit: int = 3
    pause: float = 1.0
    longest: float = 60.0
    settled: float = 300.0

    def after(self, attempt: int, served: float) -> tuple[int, float | None]:
        """Give (the number of this failure, the pause before the next start).

        `served` is for how many seconds the engine had been ready. No pause: give up.
        """
        number = 1 if served >= self.settled else attempt
        if number >= self.limit:
            return number, None
        # A power that no pause needs would be too large for a float.
        return number, min(self.pause * 2 ** min(number - 1, 64), self.longest)
