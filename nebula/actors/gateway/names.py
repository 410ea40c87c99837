"""The model to which a name in a request leads, by way of an alias or a fallback. Pure.

Requests with the same key always get the same target while an alias's weights stay as they are. If
the weights change, no more keys move than the difference requires.
"""

import hashlib

from msgspec import Struct

from nebula.actors.router import routing
from nebula.events.alias import Alias
from nebula.events.state import Model, NameBinding, State


class Route(Struct, frozen=True, gc=False):
    """What answers a request: `name` is the model name that its engines are sent.

    `mirror`: the name that gets a copy, "" for none. `wake`: the id of the idle model that is to
    be started while its fallback answers, "" for none.
    """

    name: str
    binding: NameBinding
    model: Model
    mirror: str = ""
    wake: str = ""


def resolve(state: State, name: str, key: str) -> Route | None:
    """Return what answers requests for `name`, or None if nothing has that name.

    `key` selects the target of an alias. A fallback's own fallbacks are not followed.
    """
    binding = state.names.get(name)
    if binding is None:
        return None
    mirror = ""
    if binding.alias:
        alias = state.aliases[binding.alias]
        target = _target(state, alias, key)
        if target is None:
            return None
        name, mirror = target, alias.mirror
        binding = state.names[name]
    model = state.models.get(binding.model)
    if model is None:
        return None
    if not model.spec.fallback or routing.served(state, model, binding.adapter):
        return Route(name, binding, model, mirror)
    return _fallback(state, model, mirror) or Route(name, binding, model, mirror)


def shadow(state: State, name: str, route: Route) -> Route | None:
    """Return what gets a copy of a request, or None.

    None if it has no ready replica, does another task, or answers the request itself.
    """
    known = _model(state, name)
    if known is None:
        return None
    binding, model = known
    if model.id == route.model.id and binding.adapter == route.binding.adapter:
        return None
    if model.task != route.model.task or not routing.served(state, model, binding.adapter):
        return None
    return Route(name, binding, model)


def _target(state: State, alias: Alias, key: str) -> str | None:
    """Draw one of an alias's present targets by weight."""
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
    """Draw 64 bits that differ by alias: a user who gets one canary need not get them all."""
    return int.from_bytes(hashlib.blake2b(f"{alias} {key}".encode(), digest_size=8).digest())


def _fallback(state: State, model: Model, mirror: str) -> Route | None:
    """Return the first fallback for the same task that has a ready replica."""
    for name in model.spec.fallback:
        known = _model(state, name)
        if known is None or known[1].id == model.id or known[1].task != model.task:
            continue
        if routing.served(state, known[1], known[0].adapter):
            sleeps = not model.unloading and not model.wanted
            calls = sleeps and (model.asleep or model.spec.autoscale is not None)
            return Route(name, *known, mirror, model.id if calls else "")
    return None


def _model(state: State, name: str) -> tuple[NameBinding, Model] | None:
    """Return the binding and model of a name that is not an alias and is not being unloaded."""
    binding = state.names.get(name)
    model = state.models.get(binding.model) if binding is not None else None
    return None if binding is None or model is None or model.unloading else (binding, model)
