"""Finds what a name means (a model, an alias or an adapter), and returns its state and advice.

Pure. If nothing has the name any more, the last event about it decides.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Literal, TypeAlias

from msgspec import Struct

from nebula.actors.placement.planning import plan
from nebula.actors.placement.rebalancing import rebalance
from nebula.events.adapter_status import adapter_status
from nebula.events.advised import command, why
from nebula.events.alias import Alias
from nebula.events.evolve_adapter import short
from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    AliasRequested,
    ModelLoadRequested,
)
from nebula.events.model_status import model_status, replica_detail
from nebula.events.record import Record
from nebula.events.state import Model, Replica, State
from nebula.events.validation import model_by_reference
from nebula.events.vocabulary import AdapterLoaded, AdapterLoadFailed, AdapterUnloaded
from nebula.history.advice import advice
from nebula.history.event_filter import model_of
from nebula.history.load_command import load_words, quoted

Kind: TypeAlias = Literal["model", "alias", "adapter"]


class Subject(Struct, frozen=True):
    """What a question is about: `id` is the id of the aggregate, or of an `adapter`'s model.

    `again`: the words after `nebula` that request it again, if it may be gone.
    """

    kind: Kind
    id: str
    adapter: str = ""
    again: tuple[str, ...] = ()


class Verdict(Struct, frozen=True):
    """The state of a subject: one sentence, the models `behind` it, and what to do."""

    headline: str
    todo: str = ""
    behind: tuple[str, ...] = ()


def log_trouble(refused: str, warning: str) -> str:
    """Return a sentence about a log that takes no events, or soon will not; "" for others."""
    if refused:
        return (
            f"nothing can be changed now, loaded models are served: {refused}; events of this "
            "time are reported when there is room again"
        )
    return f"soon nothing can be changed: {warning}" if warning else ""


def resolve_subject(state: State, reference: str) -> Subject | None:
    """Return what an id or a public name stands for; None if nothing has that name now."""
    model = model_by_reference(state, reference)
    if model is not None:
        return Subject("model", model.id)
    binding = state.names.get(reference)
    if binding is not None and binding.adapter:
        return Subject("adapter", binding.model, binding.adapter)
    alias = binding.alias if binding is not None else reference
    return Subject("alias", alias) if alias in state.aliases else None


def other_than_model(state: State, reference: str) -> str:
    """Return what a reference is that is not a model, and which command to use for it; or ""."""
    binding = state.names.get(reference)
    if binding is not None and binding.adapter:
        return (
            f"{reference} is an adapter of {binding.model}: "
            f"{command('adapters', 'unload', binding.model, binding.adapter)} unloads it, and "
            f"other commands take {binding.model}"
        )
    alias = binding.alias if binding is not None else reference
    if alias in state.aliases:
        return f"{reference} is an alias: `nebula aliases` shows which models it stands for"
    replica = state.replicas.get(reference)
    if replica is not None:
        return f"{reference} is a replica of {model_of(reference, state)}: give that model"
    if reference in state.nodes:
        return f"{reference} is a node: {why(reference)} tells how it stands"
    return ""


def named_by(record: Record) -> Iterator[tuple[str, Subject]]:
    """Yield the subjects that an event names."""
    match record.content:
        case ModelLoadRequested(name=name, adapters=adapters):
            for adapter in adapters:
                yield adapter.name, _adapter_subject(record.id, adapter.name, adapter.source)
            yield name, Subject("model", record.id, again=_again(record))
        case AdapterLoadRequested(name=name, source=source):
            yield name, _adapter_subject(record.id, name, source)
        case AliasRequested(name=name):
            yield name, Subject("alias", record.id, again=_again(record))
    if record.aggregate in ("model", "alias"):
        kind: Kind = "alias" if record.aggregate == "alias" else "model"
        yield record.id, Subject(kind, record.id, again=_again(record))


def later(known: Subject | None, subject: Subject) -> Subject:
    """Return what a name means after another event; what asks for it again is not forgotten."""
    same = known is not None and (known.kind, known.id) == (subject.kind, subject.id)
    return known if known is not None and same and not subject.again else subject


def _adapter_subject(model: str, adapter: str, source: str) -> Subject:
    return Subject("adapter", model, adapter, ("adapters", "load", model, adapter, source))


def _again(record: Record) -> tuple[str, ...]:
    """Return the words that request a model or an alias again; none if a record has none."""
    match record.content:
        case ModelLoadRequested() as event:
            return load_words(record.id, event)
        case AliasRequested(name=name, targets=targets, mirror=mirror):
            copies = (f"--mirror={mirror}",) if mirror else ()
            return ("alias", name, *(f"{each.model}={each.weight}" for each in targets), *copies)
    return ()


def belongs(subject: Subject, record: Record, state: State) -> bool:
    """Return whether a record is about the subject; `state` has the models of replicas."""
    if subject.kind == "alias":
        return record.aggregate == "alias" and record.id == subject.id
    of_model = record.aggregate == "model" and record.id == subject.id
    of_replica = record.aggregate == "replica" and model_of(record.id, state) == subject.id
    if not subject.adapter:
        return of_model or of_replica
    return (of_model or of_replica) and _of_adapter(record, subject.adapter)


def _of_adapter(record: Record, adapter: str) -> bool:
    match record.content:
        case ModelLoadRequested(adapters=adapters):
            return any(each.name == adapter for each in adapters)
        case (
            AdapterLoadRequested(name=name)
            | AdapterUnloadRequested(name=name)
            | AdapterLoaded(name=name)
            | AdapterLoadFailed(name=name)
            | AdapterUnloaded(name=name)
        ):
            return name == adapter
    return False


def verdict(state: State, subject: Subject, now: int | None = None) -> Verdict:
    """Return how a subject stands in `state`; `now` as for `model_status`."""
    if subject.kind == "alias":
        alias = state.aliases.get(subject.id)
        if alias is None:
            again = command(*(subject.again or ("alias", subject.id, "TARGET")))
            return Verdict(f"{subject.id} is no longer an alias", f"Ask for it again: {again}.")
        return _alias(state, alias, now)
    model = state.models.get(subject.id)
    if not subject.adapter:
        return _model(state, subject.id, model, now, subject.again)
    if model is None or subject.adapter not in {**model.leaving, **model.adapters}:
        load = subject.again or ("adapters", "load", subject.id, subject.adapter, "SOURCE")
        again = f"Load it again: {command(*load)}."
        return Verdict(f"{subject.adapter} is no longer an adapter of {subject.id}", again)
    return _adapter(state, model, subject.adapter, now)


def _model(
    state: State,
    identity: str,
    model: Model | None,
    now: int | None,
    again: tuple[str, ...] = (),
) -> Verdict:
    if model is None:
        load = quoted(again or ("load", "SOURCE", "--id", identity))
        return Verdict(f"{identity} does not exist", f"Load it again: {load}.")
    stands = model_status(state, model, now)
    called = f" ({model.name})" if model.name != identity else ""
    detail = f": {_with_room_of(state, model, stands.detail)}" if stands.detail else ""
    ready = f", {stands.ready} of {stands.wanted} replicas serve" if stands.wanted else ""
    ready += " as far as is known" if stands.ready and _on_lost(state, model) else ""
    headline = f"{identity}{called} is {stands.phase}{ready}{detail}"
    together = _together(model)
    if stands.phase == "ready" and together and rebalance(state, identity).moves:
        headline += f"; {together}"
        todo = "Spread them over more nodes: `nebula rebalance` shows where, `--yes` moves them."
        return Verdict(headline, advice(state, model) or todo)
    return Verdict(headline, advice(state, model))


def _with_room_of(state: State, model: Model, detail: str) -> str:
    """Return how a model stands with the room that is left in `state`.

    What was told when it could not be placed is of the room then, and what to do is of the room
    now: side by side their figures would contradict each other.
    """
    told = model.unschedulable
    found = plan(state, model).reason if told else ""
    same = found.partition(":")[0] == told.partition(":")[0]
    return detail.replace(told, found) if found and same else detail


def _together(model: Model) -> str:
    """Return which node has most of a model's replicas; empty if no node has several."""
    many = Counter(place.node for place in model.assignments)
    node, count = max(many.items(), key=lambda each: each[1], default=("", 0))
    return f"{count} of its replicas are together on {node}" if count > 1 else ""


def _on_lost(state: State, model: Model) -> bool:
    return any(
        each.serving and (node := state.nodes.get(each.node)) is not None and node.lost
        for each in state.replicas_of(model)
    )


def _alias(state: State, alias: Alias, now: int | None) -> Verdict:
    """Return the models that may answer, each with its share, and the model that gets copies."""
    whole = sum(target.weight for target in alias.targets)
    share = " ({} of {})" if len(alias.targets) > 1 else ""
    parts = [each.model + share.format(each.weight, whole) for each in alias.targets]
    copies = f", {alias.mirror} gets a copy of each request" if alias.mirror else ""
    names = [each.model for each in alias.targets if each.weight]
    if alias.mirror:
        names.append(alias.mirror)
    verdicts = {name: _target(state, name, now) for name in names}
    todo = next((each.todo for each in verdicts.values() if each.todo), "")
    return Verdict(
        f"{alias.name} is an alias of {', '.join(parts)}{copies}",
        todo,
        tuple(f"{name}: {each.headline}" for name, each in verdicts.items()),
    )


def _target(state: State, name: str, now: int | None) -> Verdict:
    binding = state.names.get(name)
    model = state.models.get(binding.model) if binding is not None else None
    if binding is None or model is None:
        text = "no model has this name: it gets no requests"
        return Verdict(
            text, f"Load it, {command('load', 'SOURCE', '--name', name)}, or move the alias."
        )
    if binding.adapter:
        return _adapter(state, model, binding.adapter, now)
    return _model(state, model.id, model, now)


def _adapter(state: State, model: Model, adapter: str, now: int | None) -> Verdict:
    stands = adapter_status(state, model, adapter)
    below = _model(state, model.id, model, now)
    version = f", version {short(stands.version)}" if stands.version else ""
    headline = f"{adapter} is an adapter of {model.id}{version}, in place on {stands.loaded} of "
    headline += f"{stands.serving} replicas that serve"
    headline += f": {stands.reason}" if stands.reason else ""
    todo = below.todo
    if stands.reason:
        source = model.offers[adapter].refused or stands.source
        again = command("adapters", "load", model.id, adapter, source)
        todo = f"Fix the reason, then load it again: {again}."
    return Verdict(headline, todo, (below.headline,))


def replica_status(state: State, replica: Replica, now: int | None = None) -> str:
    """Return how a replica stands; a reason is why it is not running, not why the previous one was.

    `now`: as for `model_status`.
    """
    node = state.nodes.get(replica.node)
    retired = " and retired" if replica.retired else ""
    where = f"{replica.id} on {replica.node}"
    if node is not None and node.lost:
        said = f"{where} was {replica.phase}{retired} when {node.id} was lost"
        return f"{said}: its current state is unknown" if replica.engine is not None else said
    gone = f", and {replica.node} has left" if node is None else ""
    reason = f": {replica.reason}" if replica.reason and replica.engine is None else ""
    if not replica.retired and not gone and not replica.serving:
        return replica_detail(state, replica, now=now)
    return f"{where} is {replica.phase}{retired}{gone}{reason}"
