"""What a router decides from what it has seen beside the log: loss, sleep, waking, scaling.

Pure: times are seconds of the router's own clock. Observations are not in the log, so every
decision has in its reason the figures that led to it. Once a decision is appended, the same
observation leads to no further decision of its kind.
"""

from collections.abc import Iterator, Mapping

from msgspec import Struct

from nebula.actors.placement.decision import Decision
from nebula.actors.router.eviction import ModelUsage, decide_eviction, in_line
from nebula.actors.router.hearing import Silence
from nebula.actors.router.loss import LOST_AFTER, decide_lost
from nebula.actors.router.raising import decide_raise
from nebula.events.state import Model, State
from nebula.events.version import too_new
from nebula.events.vocabulary import ModelScaled, ModelSlept


class Observation(Struct, frozen=True):
    """What a router has seen: how long each node has been silent, and the use of models.

    Nothing is decided about nodes and models that are not in it. `readers`: the cluster version
    that each other router knows; None before the router has listened long enough.
    """

    silent: Mapping[str, Silence] = {}
    uses: Mapping[str, ModelUsage] = {}
    readers: Mapping[str, int] | None = None


def decide_lifecycle(
    state: State, seen: Observation, *, lost_after: float = LOST_AFTER
) -> tuple[Decision, ...]:
    """Return the most urgent decisions that follow from an observation; fold them, then ask again.

    `lost_after`: seconds; 0: no node is ever lost. Return nothing if this Nebula can't read the
    log.
    """
    if too_new(state) is not None:
        return ()
    return (
        tuple(decide_lost(state, seen.silent, lost_after))
        or tuple(_asleep(state, seen))
        or tuple(_scaled(state, seen))
        or decide_eviction(state, seen.uses)
        or tuple(filter(None, (decide_raise(state, seen.readers),)))
    )


def _asleep(state: State, seen: Observation) -> Iterator[Decision]:
    """Put idle models to sleep; a model that has not served yet does not count as idle."""
    for model, use in _awake(state, seen):
        after = model.spec.idle_after
        if after is None or use.in_flight or use.waiting or use.idle < after:
            continue
        if any(replica.serving for replica in state.replicas_of(model)):
            reason = f"no request for {use.idle:.1f} s: it sleeps after {after:g} s"
            yield Decision(model.id, ModelSlept(reason), model.changed)


def _scaled(state: State, seen: Observation) -> Iterator[Decision]:
    for model, use in _awake(state, seen):
        if model.spec.autoscale is not None and (scaled := _scale(state, model, use)) is not None:
            yield Decision(model.id, scaled, model.changed)


def _scale(state: State, model: Model, use: ModelUsage) -> ModelScaled | None:
    """Scale by one replica: up if all replicas serve, down if one fewer would have sufficed."""
    auto, wanted = model.spec.autoscale, model.wanted
    if auto is None:
        return None
    if wanted == 0:
        return ModelScaled(1, f"{in_line(use)}, and it has no replica") if use.waiting else None
    serving = sum(replica.serving for replica in state.replicas_of(model))
    if wanted < auto.most and serving >= wanted:
        each = use.in_flight / serving
        if each > auto.in_flight:
            reason = f"{use.in_flight} requests in flight are {each:.1f} for each of {serving}"
            return ModelScaled(wanted + 1, f"{reason}, more than {auto.in_flight:g}")
        if use.waiting and use.longest > auto.wait:
            return ModelScaled(wanted + 1, f"{in_line(use)}, more than {auto.wait:g} s")
    enough = not use.waiting and use.in_flight <= auto.in_flight * (wanted - 1)
    calm = use.replicas == wanted and use.spare >= auto.calm
    if wanted > auto.least and enough and calm:
        reason = f"for {use.spare:.1f} s, {auto.calm:g} s at least, {wanted - 1} would have done"
        return ModelScaled(wanted - 1, f"{reason}; {use.in_flight} requests are in flight")
    return None


def _awake(state: State, seen: Observation) -> Iterator[tuple[Model, ModelUsage]]:
    for identity, use in sorted(seen.uses.items()):
        model = state.models.get(identity)
        if model is not None and not (model.asleep or model.unloading):
            yield model, use
