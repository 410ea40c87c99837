"""Why a well-formed intent is rejected: one pure answer, however the intent arrives.

The fold turns an objection into a rejection; HTTP and the command line ask first, so that they can
answer without writing to the log.
"""

from collections.abc import Callable
from typing import Any

from nebula.events.brief import brief
from nebula.events.capture import capture_objection
from nebula.events.capture_events import CaptureStarted, CaptureStopped
from nebula.events.clear_secrets import WRITTEN, in_clear
from nebula.events.engine_options import devices_needed
from nebula.events.engine_validation import bad_memory, bad_options
from nebula.events.evolve_batch import batch_objection
from nebula.events.evolve_key import key_objection
from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    AliasRemoveRequested,
    AliasRequested,
    BatchCancelRequested,
    BatchRequested,
    EngineKillRequested,
    ModelLoadRequested,
    ModelRebalanceRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
    NodeUndrainRequested,
    WeightsPinRequested,
    WeightsRemoveRequested,
)
from nebula.events.key_events import KeyChanged, KeyIssued, KeyRevoked
from nebula.events.limit_events import LimitsSet
from nebula.events.sizes import oversized
from nebula.events.sources import is_folder
from nebula.events.state import Model, State
from nebula.events.usage_limits import problem
from nebula.events.values import Adapter
from nebula.events.version import SECRETS, SINCE, SIZES, VALUES_SINCE, premature
from nebula.events.vocabulary import INTENTS, TYPES, Event, ModelAssigned, ModelRolledBack


def rejection_reason(state: State, identity: str, event: Event) -> str | None:
    """Return why `event` is rejected in `state`; None if it is accepted.

    Facts are never objected to: they report what has happened.
    """
    kind, reason = type(event), None
    if kind in _LIMITED:
        reason = premature(state, event, SINCE)
        if reason is None and state.cluster.version >= SIZES:
            reason = oversized(event)
        if reason is None and state.cluster.version >= SECRETS:
            reason = in_clear(event)
    if reason is None and (objection := _OBJECTIONS.get(kind)) is not None:
        reason = objection(state, identity, event)
    return None if reason is None else brief(reason)


def _unknown_model(state: State, identity: str, _: Event) -> str | None:
    return None if identity in state.models else f"there is no model {identity!r}"


def _unknown_node(state: State, identity: str, _: Event) -> str | None:
    return None if identity in state.nodes else f"there is no node {identity!r}"


def _adapter_unload(state: State, identity: str, event: AdapterUnloadRequested) -> str | None:
    model = state.models.get(identity)
    if model is None:
        return f"there is no model {identity!r}"
    if event.name not in model.adapters and event.name not in model.leaving:
        return f"model {identity!r} has no adapter {event.name!r}"
    return None


def _limits(_: State, __: str, event: LimitsSet) -> str | None:
    return problem(event.limits)


def _capture(state: State, identity: str, event: CaptureStarted | CaptureStopped) -> str | None:
    return capture_objection(state.captures, state.keys, state.models, state.time, identity, event)


def _alias_remove(state: State, identity: str, _: AliasRemoveRequested) -> str | None:
    return None if identity in state.aliases else f"there is no alias {identity!r}"


def _rebalance(state: State, identity: str, event: ModelRebalanceRequested) -> str | None:
    model = state.models.get(identity)
    if model is None:
        return f"there is no model {identity!r}"
    planned = {place.replica for place in model.assignments}
    unknown = [each for each in event.replicas if each not in planned]
    return f"model {identity!r} has no replica {unknown[0]!r}" if unknown else None


def _kill(state: State, identity: str, event: EngineKillRequested) -> str | None:
    """Only a node whose own machine allows it kills, and only an engine that it still has."""
    replica = state.replicas.get(identity)
    if replica is None:
        return f"there is no replica {identity!r}"
    node = state.nodes.get(replica.node)
    if node is None or node.away:
        return f"node {replica.node!r} of {identity} is away"
    if not node.rehearsal:
        return f"node {node.id!r} was not started with --rehearsal: it kills no engine on request"
    if replica.engine is None:
        return f"{identity} has no engine now"
    if replica.engine.killed > node.registered:
        return f"the engine of {identity} is killed already: event {replica.engine.killed}"
    if event.pid is not None and event.pid != replica.engine.pid:
        return f"pid: the engine of {identity} is process {replica.engine.pid} by now"
    return None


def _weights(
    state: State, identity: str, event: WeightsPinRequested | WeightsRemoveRequested
) -> str | None:
    """A source may be pinned before it is there, but only be removed or unpinned if it is."""
    node = state.nodes.get(identity)
    if node is None:
        return f"there is no node {identity!r}"
    if isinstance(event, WeightsRemoveRequested) and is_folder(event.source):
        return f"source: {event.source!r} is a folder of the node's own: remove it there"
    held = node.weights.get(event.source)
    if isinstance(event, WeightsPinRequested) and (event.pinned or held is not None):
        return _bad_source(event.source)
    if held is None:
        return f"source: node {identity!r} has no files of {event.source!r}"
    if held.pinned:
        return f"source: {event.source!r} is pinned on node {identity!r}: unpin it first"
    users = [
        replica.id
        for replica in state.replicas.values()
        if replica.node == identity and replica.launch and replica.launch.source == event.source
    ]
    # The order of the map is another one in every process.
    user = min(users, default="")
    return f"source: {event.source!r} is in use by {user} on node {identity!r}" if user else None


def _assigned(state: State, identity: str, event: ModelAssigned) -> str | None:
    """A plan is a decision, but people can publish one too: reject a misleading one."""
    known = state.models.get(identity)
    if known is not None and known.unloading:
        return f"model {identity!r} is being unloaded"
    if known is not None and event.version > known.version + 1:
        return f"version: the next plan of {identity!r} is {known.version + 1}"
    seen: set[str] = set()
    there = known.replicas if known is not None else ()
    for place in event.replicas:
        if place.replica not in there and not _numbers(identity, place.replica):
            return f"replicas: {place.replica!r} is no replica of {identity!r}"
        if place.replica in seen:
            return f"replicas: {place.replica!r} stands twice in this plan"
        seen.add(place.replica)
    return None


def _numbers(model: str, replica: str) -> bool:
    """Return whether a replica has an id of this model, such as `chat-0`."""
    of, _, number = replica.rpartition("-")
    return of == model and number.isdigit() and str(int(number)) == number


def _rolled_back(state: State, identity: str, _: ModelRolledBack) -> str | None:
    """Another model may use the name of the earlier spec by now."""
    model = state.models.get(identity)
    if model is None or model.proven is None:
        return f"there is nothing that {identity!r} could go back to"
    name = model.proven.name or identity
    known = state.names.get(name)
    if known is not None and (known.model != identity or known.adapter):
        return f"name: {name!r}, as {identity!r} was called, is taken by now"
    return None


def _alias(state: State, identity: str, event: AliasRequested) -> str | None:
    """Targets need not exist yet: a name may be moved to a model that is loaded later."""
    name = event.name or identity
    known = state.names.get(name)
    if known is not None and known.alias != identity:
        what = f"an alias, {known.alias!r}" if known.alias else f"a name of model {known.model!r}"
        return f"name: {name!r} is already {what}"
    there = state.aliases.get(identity)
    changed = there.changed if there is not None else 0
    if event.replaces is not None and event.replaces != changed:
        since = f"was changed by event {changed}" if changed else "is not there"
        return f"replaces: alias {identity!r} {since}: look again before you change it"
    return _bad_name("name", name) or _bad_targets(state, name, event)


def _bad_targets(state: State, name: str, event: AliasRequested) -> str | None:
    seen: set[str] = set()
    for target in event.targets:
        if target.model in seen:
            return f"targets: {target.model!r} stands there twice: add its weights up"
        seen.add(target.model)
    stands_for = [("targets", target.model) for target in event.targets]
    for field, each in (*stands_for, ("mirror", event.mirror)):
        known = state.names.get(each)
        if each == name:
            return f"{field}: {each!r} is the alias's own name"
        if known is not None and known.alias:
            return f"{field}: {each!r} is an alias, which can stand for models only"
    if not any(target.weight for target in event.targets):
        return "targets: one at least must have a weight above 0"
    if any(target.weight and target.model == event.mirror for target in event.targets):
        return f"mirror: {event.mirror!r} is a target too: it would answer what is copied to it"
    return None


def _load(state: State, identity: str, event: ModelLoadRequested) -> str | None:
    name = event.name or identity
    return (
        _bad_name("name", name)
        or _taken(state, identity, name, adapter=False)
        or _bad_source(event.source)
        or _bad_adapters(state, identity, event, name)
        or bad_memory(event.memory)
        or bad_options(event)
        or _bad_place(state, event)
        or _bad_life(event)
        or _bad_fallback(state, identity, event, name)
    )


def _bad_place(state: State, event: ModelLoadRequested) -> str | None:
    """Reject only what no node could ever satisfy; for the rest a plan reports what is missing."""
    try:
        needed = devices_needed(event.options)
    except ValueError as error:
        return f"options: {error}"
    if not event.devices:
        return None
    if not event.node:
        return "devices: given without the node that they are of"
    if len(set(event.devices)) != len(event.devices):
        return "devices: one stands there twice"
    node = state.nodes.get(event.node)
    there = {device.index for device in node.devices} if node is not None else set()
    absent = [index for index in event.devices if node is not None and index not in there]
    if absent:
        return f"devices: {event.node} has no device {absent[0]}"
    if len(event.devices) < needed:
        return f"devices: {len(event.devices)} given, and a replica takes {needed} GPUs"
    return None


def _bad_life(event: ModelLoadRequested) -> str | None:
    auto = event.autoscale
    if auto is not None and not auto.least <= auto.most:
        return f"autoscale: least is {auto.least}, more than most, {auto.most}"
    if auto is not None and auto.most == 0:
        return "autoscale: most is 0; scale the model to 0 replicas instead"
    # A request that does not mention replicas has the default of one.
    if auto is not None and event.replicas != 1 and not auto.least <= event.replicas <= auto.most:
        bounds = f"from {auto.least} to {auto.most}"
        return f"replicas: {event.replicas} can't be had with an autoscale {bounds}"
    return None


def _bad_fallback(state: State, identity: str, event: ModelLoadRequested, name: str) -> str | None:
    """Fallbacks need not exist yet; names that could never answer for the model are rejected."""
    adapters = {adapter.name for adapter in event.adapters}
    seen: set[str] = set()
    for each in event.fallback:
        known = state.names.get(each)
        if each == name:
            return f"fallback: {each!r} is the model's own name"
        if each == identity and known is None:
            return f"fallback: {each!r} is the model's own id"
        if each in adapters:
            return f"fallback: {each!r} is an adapter of the model itself"
        if known is not None and known.alias:
            return f"fallback: {each!r} is an alias: name a model or an adapter"
        if each in seen:
            return f"fallback: {each!r} stands there twice"
        seen.add(each)
    return None


def _bad_adapters(
    state: State, identity: str, event: ModelLoadRequested, model_name: str
) -> str | None:
    if event.adapters and event.lora is False:
        return "adapters: given together with lora: false"
    seen = {model_name}
    for adapter in event.adapters:
        if adapter.name in seen:
            return f"adapters: the name {adapter.name!r} stands twice in this request"
        seen.add(adapter.name)
        problem = _bad_adapter(state, identity, adapter)
        if problem:
            return problem
    return None


def _adapter_load(state: State, identity: str, event: AdapterLoadRequested) -> str | None:
    model = state.models.get(identity)
    if model is None or model.unloading:
        return f"there is no model {identity!r}"
    if not model.lora:
        return f"model {identity!r} was loaded without LoRA: load it with lora: true"
    if event.name == model.name:
        return f"name: {event.name!r} is the model's own name"
    return _bad_adapter(state, identity, Adapter(event.name, event.source))


def _bad_adapter(state: State, identity: str, adapter: Adapter) -> str | None:
    return (
        _bad_name("adapter name", adapter.name)
        or _bad_source(adapter.source)
        or _taken(state, identity, adapter.name, adapter=True)
    )


def _bad_name(field: str, name: str) -> str | None:
    if name != name.strip() or not name.isprintable():
        return f"{field}: {name!r} has spaces at its ends or characters that can't be printed"
    if name.startswith("-"):
        return f"{field}: {name!r} begins with '-', so that an engine takes it for an option"
    return None


def _bad_source(source: str) -> str | None:
    if source.startswith("-") or not source.isprintable():
        return f"source: {source!r} is neither a folder nor a hub id"
    return None


def _taken(state: State, identity: str, name: str, *, adapter: bool) -> str | None:
    """A model may keep its own name, and reuse the name of an adapter that it had before."""
    known = state.names.get(name)
    if known is None:
        return None
    if known.alias:
        return f"name: {name!r} is already an alias"
    if known.model != identity:
        what = "an adapter" if known.adapter else "the name"
        return f"name: {name!r} is already {what} of model {known.model!r}"
    if adapter and not known.adapter:
        return f"name: {name!r} is already the model {identity!r}"
    return None


def known_names(state: State) -> list[str]:
    """Return every public name that a request may use, sorted."""
    return sorted(state.names)


def model_by_reference(state: State, reference: str) -> Model | None:
    """Return a model by its id, or else by its public name."""
    model = state.models.get(reference)
    if model is None:
        binding = state.names.get(reference)
        if binding is not None and not binding.adapter:
            model = state.models.get(binding.model)
    return model


_OBJECTIONS: dict[type, Callable[[State, str, Any], str | None]] = {
    ModelLoadRequested: _load,
    ModelScaleRequested: _unknown_model,
    ModelUnloadRequested: _unknown_model,
    ModelRebalanceRequested: _rebalance,
    AdapterLoadRequested: _adapter_load,
    AdapterUnloadRequested: _adapter_unload,
    NodeDrainRequested: _unknown_node,
    NodeUndrainRequested: _unknown_node,
    EngineKillRequested: _kill,
    WeightsPinRequested: _weights,
    WeightsRemoveRequested: _weights,
    AliasRequested: _alias,
    AliasRemoveRequested: _alias_remove,
    BatchRequested: batch_objection,
    BatchCancelRequested: batch_objection,
    **dict.fromkeys((KeyIssued, KeyChanged, KeyRevoked), key_objection),
    LimitsSet: _limits,
    **dict.fromkeys((CaptureStarted, CaptureStopped), _capture),
    ModelAssigned: _assigned,
    ModelRolledBack: _rolled_back,
}
"""What may be wrong with each type of event; about no other type is there anything to say."""

_LIMITED = frozenset(
    kind
    for name, kind in TYPES.items()
    if name in INTENTS or name in SINCE or name in VALUES_SINCE or kind in WRITTEN
)
"""The types that have a largest size, must hold no secrets, or are not known to every Nebula."""
