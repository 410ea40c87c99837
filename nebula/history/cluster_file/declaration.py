"""What a cluster file declares, and the declaration of a state. Pure."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from nebula.events import memory
from nebula.events.alias import Alias
from nebula.events.intents import FilesSource, ModelLoadRequested
from nebula.events.key import Key
from nebula.events.showing import without_secrets
from nebula.events.state import Model, Node, State
from nebula.events.usage_limits import NO_LIMITS, UsageLimits, limits_of
from nebula.events.values import Adapter, Target, Token

_Limits: TypeAlias = dict[Token, UsageLimits]


class DeclaredAlias(Struct, frozen=True, forbid_unknown_fields=True):
    """A name that stands for models."""

    targets: Annotated[
        tuple[Target, ...],
        Meta(min_length=1, max_length=64, description="The models, each with its share."),
    ]
    name: Annotated[
        str, Meta(max_length=256, description="Name in requests; if empty, the id.")
    ] = ""
    mirror: Annotated[
        str,
        Meta(max_length=256, description="Name of a model that gets a copy of each request."),
    ] = ""


class DeclaredNode(Struct, frozen=True, forbid_unknown_fields=True):
    """What operators ask of a node. Its labels are options of its own command line."""

    pinned: Annotated[
        tuple[FilesSource, ...],
        Meta(description="Sources whose files are protected from pruning; no others are."),
    ] = ()
    draining: Annotated[
        bool | None,
        Meta(description="Whether it is to be empty; null leaves that as it is."),
    ] = None


class DeclaredLimits(Struct, frozen=True, forbid_unknown_fields=True):
    """How much may be used."""

    tenants: Annotated[_Limits, Meta(description="Limits of all keys of a tenant, by its id.")] = {}
    models: Annotated[_Limits, Meta(description="Limits of all requests, by the model's id.")] = {}
    keys: Annotated[
        _Limits, Meta(description="Limits of a key, by its id; `nebula key issue ID` makes one.")
    ] = {}


class ClusterFile(Struct, frozen=True, forbid_unknown_fields=True):
    """What a Nebula cluster is to serve; `nebula dump` writes it, `nebula apply` makes it so."""

    version: Annotated[Literal[1], Meta(description="Version of the form of this file.")] = 1
    models: Annotated[
        dict[Token, ModelLoadRequested], Meta(description="Models and their adapters, by id.")
    ] = {}
    aliases: Annotated[
        dict[Token, DeclaredAlias], Meta(description="Names that stand for models, by id.")
    ] = {}
    nodes: Annotated[dict[Token, DeclaredNode], Meta(description="Nodes, by their names.")] = {}
    limits: Annotated[DeclaredLimits, Meta(description="Limits of tenants, models and keys.")] = (
        DeclaredLimits()
    )


Kind: TypeAlias = Literal[
    "models", "aliases", "nodes", "limits.tenants", "limits.models", "limits.keys"
]
Entry: TypeAlias = ModelLoadRequested | DeclaredAlias | DeclaredNode | UsageLimits
Entries: TypeAlias = dict[tuple[Kind, str], Entry]
"""All that is declared, each entry by its kind and its id."""

KIND_OF_AGGREGATE: Mapping[str, tuple[Kind, ...]] = {
    "model": ("models",),
    "alias": ("aliases",),
    "node": ("nodes",),
    "key": ("limits.keys",),
    "limits": ("limits.tenants", "limits.models"),
}


def declared(state: State) -> ClusterFile:
    """Return what a state declares, in the order of ids, with MASK in place of secrets."""
    found = entries_of_state(state)

    def of(kind: Kind) -> dict[str, Any]:
        return {key[1]: without_secrets(found[key]) for key in sorted(found) if key[0] == kind}

    limits = DeclaredLimits(of("limits.tenants"), of("limits.models"), of("limits.keys"))
    return ClusterFile(models=of("models"), aliases=of("aliases"), nodes=of("nodes"), limits=limits)


def entries(file: ClusterFile) -> Entries:
    """Return all that a file declares."""
    groups: tuple[tuple[Kind, Mapping[str, Entry]], ...] = (
        ("models", file.models),
        ("aliases", file.aliases),
        ("nodes", file.nodes),
        ("limits.tenants", file.limits.tenants),
        ("limits.models", file.limits.models),
        ("limits.keys", file.limits.keys),
    )
    return {(kind, each): entry for kind, group in groups for each, entry in group.items()}


def entries_of_state(state: State) -> Entries:
    """Return all that a state declares."""
    found: Entries = {}
    places: tuple[tuple[Kind, Iterator[str]], ...] = (
        ("models", iter(state.models)),
        ("aliases", iter(state.aliases)),
        ("nodes", iter(state.nodes)),
        ("limits.tenants", _limited(state, "tenant")),
        ("limits.models", _limited(state, "model")),
        ("limits.keys", iter(state.keys)),
    )
    for kind, identities in places:
        for identity in identities:
            entry = entry_of_state(state, kind, identity)
            if entry is not None:
                found[kind, identity] = entry
    return found


def _limited(state: State, kind: str) -> Iterator[str]:
    for place in state.limits:
        of, _, identity = place.partition(".")
        if of == kind:
            yield identity


def entry_of_state(state: State, kind: Kind, identity: str) -> Entry | None:
    """Return one entry of what a state declares; None if it does not declare it."""
    match kind:
        case "models":
            return _model(state.models.get(identity))
        case "aliases":
            return _alias(state.aliases.get(identity))
        case "nodes":
            return _node(state.nodes.get(identity))
        case "limits.keys":
            return _key(state.keys.get(identity))
        case _:
            place = limits_of(kind.removeprefix("limits.").removesuffix("s"), identity)
            limits = state.limits.get(place, NO_LIMITS)
            return None if limits.empty else limits


def _model(model: Model | None) -> ModelLoadRequested | None:
    """Return the request that makes a model as it is asked for now, adapters included."""
    if model is None or model.unloading:
        return None
    adapters = tuple(Adapter(name, source) for name, source in sorted(model.adapters.items()))
    spec = model.spec
    lora = spec.lora if spec.lora is not None and spec.lora == model.lora else None
    if lora is None and bool(adapters) != model.lora:
        lora = model.lora
    name = "" if model.name == model.id else model.name
    return replace(spec, name=name, adapters=adapters, lora=lora)


def _alias(alias: Alias | None) -> DeclaredAlias | None:
    if alias is None:
        return None
    return DeclaredAlias(alias.targets, "" if alias.name == alias.id else alias.name, alias.mirror)


def _node(node: Node | None) -> DeclaredNode | None:
    if node is None:
        return None
    pinned = tuple(sorted(source for source, held in node.weights.items() if held.pinned))
    found = DeclaredNode(pinned, True if node.draining else None)
    return None if found == DeclaredNode() else found


def _key(key: Key | None) -> UsageLimits | None:
    if key is None or key.revoked_ns or key.limits.empty:
        return None
    return key.limits


_SPREAD = ("options", "env", "labels")
"""Fields of a model that are compared key by key."""


def values_of(identity: str, entry: Entry) -> dict[str, object]:
    """Return the fields of an entry as they are compared: what means the same is equal."""
    found = {each: getattr(entry, each) for each in entry.__struct_fields__}
    if isinstance(entry, ModelLoadRequested | DeclaredAlias):
        found["name"] = entry.name or identity
    if isinstance(entry, ModelLoadRequested):
        found["lora"] = entry.lora if entry.lora is not None else bool(entry.adapters)
        found["memory"] = _bytes(entry.memory)
        for field in _SPREAD:
            for key, value in found.pop(field).items():
                found[f"{field}.{key}"] = value
        for adapter in found.pop("adapters"):
            found[f"adapters.{adapter.name}"] = adapter.source
    if isinstance(entry, DeclaredNode):
        found["pinned"] = tuple(sorted(set(entry.pinned)))
    return {key: msgspec.to_builtins(value) for key, value in found.items()}


def _bytes(amount: int | str | None) -> int | str | None:
    if amount is None:
        return None
    try:
        return memory.parse(amount)
    except ValueError:  # told when it is to be loaded
        return amount
