"""What a name in a request leads to: a model, by way of an alias or a fallback. Pure.

Requests with one key always meet the same target while the weights stay as they are. If the weights
change, only as many keys move as the difference calls for.
"""

import hashlib

from msgspec import Struct

from nebula.actors.router import routing
from nebula.events.state import Alias, Model, NameBinding, State


class Destination(Struct, frozen=True, gc=False):
    """What answers a request: `name` is what its engines are asked for.

    `mirror`: the name that gets a copy, "" for none. `awaken`: the id of a model that sleeps
    while its fallback answers in its place, and ought to be woken.
    """

    name: str
    named: NameBinding
    model: Model
    mirror: str = ""
    awaken: str = ""


def resolve(state: State, name: str, key: str) -> Destination | None:
    """Find what answers requests for `name`; None where nothing has that name.

    `key` draws the target of an alias. Fallbacks of a fallback do not count.
    """
    named = state.names.get(name)
    if named is None:
        return None
    mirror = ""
    if named.alias:
        alias = state.aliases[named.alias]
        target = _target(state, alias, key)
        if target is None:
            return None
        name, mirror = target, alias.mirror
        named = state.names[name]
    model = state.models.get(named.model)
    if model is None:
        return None
    if not model.spec.fallback or routing.served(state, model, named.adapter):
        return Destination(name, named, model, mirror)
    return _fallback(state, model, mirror) or Destination(name, named, model, mirror)


def shadow(state: State, name: str, to: Destination) -> Destination | None:
    """Find what gets a copy of a request; None where no replica of it is ready, or it answers."""
    known = _model(state, name)
    if known is None:
        return None
    named, model = known
    if model.id == to.model.id and named.adapter == to.named.adapter:
        return None
    if model.task != to.model.task or not routing.served(state, model, named.adapter):
        return None
    return Destination(name, named, model)


def _target(state: State, alias: Alias, key: str) -> str | None:
    """Draw one of an alias's targets by weight, of those that are there."""
    there = [each for each in alias.targets if each.weight and _model(state, each.model)]
    if len(there) < 2:
        return there[0].model if there else None
    whole = sum(each.weight for each in there)
    point = _draw(alias.id, key) * whole >> 64
    for each in there:
        point -= each.weight
        if point < 0:
            return each.model
    return None


def _draw(alias: str, key: str) -> int:
    """Draw 64 bits, for each alias others: a user who gets one canary need not get them all."""
    return int.from_bytes(hashlib.blake2b(f"{alias} {key}".encode(), digest_size=8).digest())


def _fallback(state: State, model: Model, mirror: str) -> Destination | None:
    """Return the first that has a ready replica, of those that do the same."""
    for name in model.spec.fallback:
        known = _model(state, name)
        if known is None or known[1].id == model.id or known[1].task != model.task:
            continue
        if routing.served(state, known[1], known[0].adapter):
            sleeps = not model.unloading and not model.wanted
            calls = sleeps and (model.asleep or model.spec.autoscale is not None)
            return Destination(name, *known, mirror, model.id if calls else "")
    return None


def _model(state: State, name: str) -> tuple[NameBinding, Model] | None:
    """Find a model or an adapter that is to stay; an alias is none."""
    named = state.names.get(name)
    model = state.models.get(named.model) if named is not None else None
    return None if named is None or model is None or model.unloading else (named, model)
