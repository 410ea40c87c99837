"""What somebody asks about by a name: a model, an alias or an adapter, how it stands, what to do.

Pure. A name may mean what is there no more: then the log's last word on it counts.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Literal, TypeAlias

from msgspec import Struct

from nebula.actors.placement.rebalancing import rebalance
from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    AliasRequested,
    ModelLoadRequested,
)
from nebula.events.objections import model_by_reference
from nebula.events.record import Record
from nebula.events.standing import standing
from nebula.events.state import Alias, Model, Replica, State
from nebula.events.vocabulary import AdapterLoaded, AdapterLoadFailed, AdapterUnloaded
from nebula.history.advice import advice
from nebula.history.selection import model_of

Kind: TypeAlias = Literal["model", "alias", "adapter"]


class Subject(Struct, frozen=True):
    """Who is asked about: `id` is the aggregate's, for an `adapter` its model's."""

    kind: Kind
    id: str
    adapter: str = ""


class Verdict(Struct, frozen=True):
    """How a subject stands: in one sentence, who stands `behind` it, and what to do."""

    headline: str
    todo: str = ""
    behind: tuple[str, ...] = ()


def log_trouble(refused: str, warning: str) -> str:
    """Return what to say of a log that takes no events, or soon will not; "" of any other."""
    if refused:
        return (
            f"nothing can be changed now, what is loaded is served: {refused}; "
            "what happens meanwhile is told when there is room again"
        )
    return f"soon nothing can be changed any more: {warning}" if warning else ""


def meant(state: State, reference: str) -> Subject | None:
    """Say who is meant by an id or a public name; None where nobody is called so now."""
    model = model_by_reference(state, reference)
    if model is not None:
        return Subject("model", model.id)
    named = state.names.get(reference)
    if named is not None and named.adapter:
        return Subject("adapter", named.model, named.adapter)
    alias = named.alias if named is not None else reference
    return Subject("alias", alias) if alias in state.aliases else None


def named_by(record: Record) -> Iterator[tuple[str, Subject]]:
    """Give whom an event gives a name to."""
    match record.content:
        case ModelLoadRequested(name=name, adapters=adapters):
            for adapter in adapters:
                yield adapter.name, Subject("adapter", record.id, adapter.name)
            yield name, Subject("model", record.id)
        case AdapterLoadRequested(name=name):
            yield name, Subject("adapter", record.id, name)
        case AliasRequested(name=name):
            yield name, Subject("alias", record.id)
    if record.aggregate in ("model", "alias"):
        kind: Kind = "alias" if record.aggregate == "alias" else "model"
        yield record.id, Subject(kind, record.id)


def belongs(subject: Subject, record: Record, state: State) -> bool:
    """Say whether a record is about the subject; `state` tells whose its replicas are."""
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


def verdict(state: State, subject: Subject) -> Verdict:
    """Say how a subject stands in `state`."""
    if subject.kind == "alias":
        alias = state.aliases.get(subject.id)
        if alias is None:
            return Verdict(f"{subject.id} is an alias no more", "Ask for it again: `nebula alias`.")
        return _alias(state, alias)
    model = state.models.get(subject.id)
    if not subject.adapter:
        return _model(state, subject.id, model)
    if model is None or subject.adapter not in model.adapters:
        again = f"Load it again: `nebula adapters load {subject.id}`."
        return Verdict(f"{subject.adapter} is no adapter of {subject.id} any more", again)
    return _adapter(state, model, subject.adapter)


def _model(state: State, identity: str, model: Model | None) -> Verdict:
    if model is None:
        return Verdict(f"{identity} is not there", "Load it again: `nebula load`.")
    stands = standing(state, model)
    called = f" ({model.name})" if model.name != identity else ""
    detail = f": {stands.detail}" if stands.detail else ""
    ready = f", {stands.ready} of {stands.wanted} replicas serve" if stands.wanted else ""
    ready += " as far as is known" if stands.ready and _on_lost(state, model) else ""
    headline = f"{identity}{called} is {stands.word}{ready}{detail}"
    together = _together(model)
    if stands.word == "ready" and together and rebalance(state, identity).moves:
        headline += f"; {together}"
        todo = "They would lie better apart: `nebula rebalance` shows where, `--yes` moves them."
        return Verdict(headline, advice(state, model) or todo)
    return Verdict(headline, advice(state, model))


def _together(model: Model) -> str:
    """Say where most of a model's replicas lie together; empty where none do."""
    many = Counter(place.node for place in model.assignments)
    node, count = max(many.items(), key=lambda each: each[1], default=("", 0))
    return f"{count} of its replicas lie together on {node}" if count > 1 else ""


def _on_lost(state: State, model: Model) -> bool:
    return any(
        each.serving and (node := state.nodes.get(each.node)) is not None and node.lost
        for each in state.replicas_of(model)
    )


def _alias(state: State, alias: Alias) -> Verdict:
    """Name all who may answer, each with its share of those that are there, and who gets copies."""
    whole = sum(target.weight for target in alias.targets)
    share = " ({} of {})" if len(alias.targets) > 1 else ""
    parts = [each.model + share.format(each.weight, whole) for each in alias.targets]
    copies = f", {alias.mirror} gets a copy of each request" if alias.mirror else ""
    names = [each.model for each in alias.targets if each.weight] + [alias.mirror] * bool(copies)
    verdicts = {name: _target(state, name) for name in names}
    todo = next((each.todo for each in verdicts.values() if each.todo), "")
    return Verdict(
        f"{alias.name} is an alias of {', '.join(parts)}{copies}",
        todo,
        tuple(f"{name}: {each.headline}" for name, each in verdicts.items()),
    )


def _target(state: State, name: str) -> Verdict:
    named = state.names.get(name)
    model = state.models.get(named.model) if named is not None else None
    if named is None or model is None:
        text = "nobody is called so: it gets no requests"
        return Verdict(text, f"Load it, `nebula load … --name {name}`, or move the alias.")
    if named.adapter:
        return _adapter(state, model, named.adapter)
    return _model(state, model.id, model)


def _adapter(state: State, model: Model, adapter: str) -> Verdict:
    serving = [each for each in state.replicas_of(model) if each.serving]
    there = [status for each in serving if (status := each.adapters.get(adapter)) is not None]
    loaded = sum(status.loaded for status in there)
    refused = next((status.reason for status in there if not status.loaded), "")
    below = _model(state, model.id, model)
    headline = f"{adapter} is an adapter of {model.id}, in place on {loaded} of {len(serving)} "
    headline += "replicas that serve" + (f": {refused}" if refused else "")
    todo = below.todo
    if refused:
        again = f"`nebula adapters load {model.id} {adapter} {model.adapters[adapter]}`"
        todo = f"Mend what its engine says, then ask for it again: {again}."
    return Verdict(headline, todo, (below.headline,))


def replica_standing(state: State, replica: Replica) -> str:
    """Say how a replica stands; a reason is why it is not running, not why the one before was."""
    node = state.nodes.get(replica.node)
    retired = " and retired" if replica.retired else ""
    where = f"{replica.id} on {replica.node}"
    if node is not None and node.lost:
        said = f"{where} was {replica.phase}{retired} when {node.id} was lost"
        return f"{said}: how it is nobody knows" if replica.engine is not None else said
    gone = f", and {replica.node} has left" if node is None else ""
    reason = f": {replica.reason}" if replica.reason and replica.engine is None else ""
    return f"{where} is {replica.phase}{retired}{gone}{reason}"
