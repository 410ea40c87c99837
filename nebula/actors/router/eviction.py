"""Eviction: which sleeping model is woken, and which one makes room for it. Pure.

The models that requests wait for are considered one after the other: those awake that still lack
room first, then the longest wait first. For each one, the first rule that applies decides:

1. If it needs no room, or its need is not known yet, it is woken.
2. If it fits into room that no earlier model waits for, it is woken; if it is awake, that room is
   reserved for it.
3. If ending `evictable` models would make room, they go to sleep, the least recently used first and
   only as many as needed; the model is woken.
4. If not even ending all of them would make room, it is woken: once it is awake, its state says
   what is missing.

To keep two models from thrashing, a model keeps its place until the queue that it was woken for is
served, or for the length of a turn while requests keep arriving (`_may_go`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from nebula.actors.placement.capacity import Capacity, Place
from nebula.actors.placement.decision import Decision
from nebula.actors.placement.planning import plan
from nebula.events.index import hold
from nebula.events.sources import unmeasured
from nebula.events.state import Model, Replica, State
from nebula.events.values import Assignment
from nebula.events.vocabulary import ModelSlept, ModelWoken

TURN = 20.0
"""Seconds that a model serves at least while requests for it arrive, or as long as its last start
took, so that at most half of the time is spent on starts."""

LINGER = 2.0
"""Seconds without a request after which a model's queue counts as served."""


class ModelUsage(Struct, frozen=True, gc=False, kw_only=True):
    """What a router has seen of one model's requests, including those in other routers.

    `in_flight`: requests in its engines. `waiting`: queued requests, the first of them for
    `longest` seconds. `idle`: seconds since the last request, or since it began to serve.
    `serving`: seconds for which it has served without a break; 0 while it does not. `started`:
    seconds that its last start took, as far as it was seen. `spare`: seconds for which one replica
    fewer than `replicas`, the wanted number, would have sufficed. `asked`: seconds since its last
    request that this router knows of; unlike `idle` it also counts requests from before the router
    was suspended.
    """

    in_flight: int = 0
    waiting: int = 0
    longest: float = 0.0
    idle: float = 0.0
    serving: float = 0.0
    started: float = 0.0
    replicas: int = 0
    spare: float = 0.0
    asked: float = math.inf


def decide_eviction(state: State, uses: Mapping[str, ModelUsage]) -> tuple[Decision, ...]:
    """Return which model to wake, that with the longest wait, and which models make room.

    Models that are awake and wait for room come before sleeping ones: the room is reserved for
    them.
    """
    calling = sorted(
        (
            (model, use)
            for identity, use in uses.items()
            if use.waiting
            and (model := state.models.get(identity)) is not None
            and not (model.unloading or model.assignments)
        ),
        key=lambda each: (each[0].asleep, -each[1].longest, each[0].id),
    )
    if not calling:
        return ()
    capacity, coming = Capacity(), _as_wanted(state)
    taken: set[Place] = set()
    for model, use in calling:
        awake = replace(model, asleep=False)
        wakes = Decision(model.id, ModelWoken(in_line(use)), model.changed)
        woken = (wakes,) if model.asleep else ()
        if not awake.wanted or unmeasured(state, awake):  # rule 1
            if woken:
                return woken
            continue
        places = _places(plan(coming, awake, capacity=capacity).assignments)
        if places and not places & taken:  # rule 2
            if woken:
                return woken
            taken |= places  # the room that it waits for is being cleared
            continue
        evictable = _evictable(state, uses, excluding=model.id)
        may_go = [each for each in evictable if _may_go(state, each, uses[each.id])]
        chosen = _least(coming, awake, may_go, taken, capacity)
        if chosen:  # rule 3
            return (
                *(
                    Decision(
                        each.id, ModelSlept(_makes_room(uses[each.id], model, use)), each.changed
                    )
                    for each in chosen
                ),
                *woken,
            )
        if woken and not places and not _least(coming, awake, evictable, set(), capacity):
            return woken  # rule 4
    return ()


def in_line(use: ModelUsage) -> str:
    """Return in words how many requests wait, and for how long."""
    requests = "1 request waits" if use.waiting == 1 else f"{use.waiting} requests wait"
    return f"{requests}, for {use.longest:.1f} s"


def _makes_room(use: ModelUsage, model: Model, waiting: ModelUsage) -> str:
    busy = f"{use.in_flight} requests in flight, {use.waiting} waiting"
    return (
        f"it makes room for {model.id}, for which {in_line(waiting)}; "
        f"its own last request was {use.idle:.1f} s ago ({busy}), it has served {use.serving:.1f} s"
    )


def _evictable(state: State, uses: Mapping[str, ModelUsage], *, excluding: str) -> list[Model]:
    """Return the models that may be ended, the least recently used first."""
    found = [
        model
        for identity in uses
        if identity != excluding
        and (model := state.models.get(identity)) is not None
        and model.spec.evictable
        and model.assignments
        and not (model.asleep or model.unloading)
    ]
    return sorted(found, key=lambda model: (-uses[model.id].idle, -uses[model.id].asked, model.id))


def _may_go(state: State, model: Model, use: ModelUsage) -> bool:
    """Return whether a model has served for its turn."""
    if not any(replica.serving for replica in state.replicas_of(model)):
        return not use.waiting
    if not use.in_flight and not use.waiting and use.idle >= LINGER:
        return True
    return use.serving >= max(TURN, use.started)


def _least(
    state: State, model: Model, sleepers: Sequence[Model], taken: set[Place], capacity: Capacity
) -> tuple[Model, ...]:
    """Return the fewest of `sleepers`, preferably the first, whose eviction makes room.

    Return None if all of them are not enough.
    """

    def places(chosen: Iterable[Model]) -> set[Place]:
        found = _places(plan(_without(state, chosen), model, capacity=capacity).assignments)
        return set() if found & taken else found

    if not sleepers or not places(sleepers):
        return ()
    few, enough = 0, len(sleepers)
    while enough - few > 1:
        half = (few + enough) // 2
        few, enough = (few, half) if places(sleepers[:half]) else (half, enough)
    chosen = tuple(sleepers[:enough])
    nodes = {node for node, _ in places(chosen)}
    near = tuple(each for each in chosen if nodes & {place.node for place in each.assignments})
    if places(near):
        chosen = near
    for each in reversed(chosen):
        rest = tuple(other for other in chosen if other is not each)
        if rest and places(rest):
            chosen = rest
    return chosen


def _without(state: State, sleepers: Iterable[Model]) -> State:
    """Return the state after these models' engines have ended."""
    models = state.models
    for model in sleepers:
        ended = replace(model, asleep=True, assignments=(), replicas=())
        models = models.insert(model.id, ended)
        state = _ended(state, state.replicas_of(model))
    return replace(state, models=models)


def _as_wanted(state: State) -> State:
    """Return the state after the retired engines have ended."""
    wanted = {identity for identity, model in state.models.items() if model.wanted}
    return _ended(
        state,
        [each for each in state.replicas.values() if each.retired or each.model not in wanted],
    )


def _ended(state: State, ended: Iterable[Replica]) -> State:
    replicas, occupancy = state.replicas, state.occupancy
    for replica in ended:
        replicas = replicas.discard(replica.id)
        occupancy = hold(occupancy, replica, -1)
    return replace(state, replicas=replicas, occupancy=occupancy)


def _places(assignments: Iterable[Assignment]) -> set[Place]:
    return {(place.node, device) for place in assignments for device in place.devices}
