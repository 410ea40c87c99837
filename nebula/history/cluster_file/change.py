"""The intents that make a cluster as a file declares it, tried on the state one by one. Pure."""

from collections.abc import Iterator

from msgspec import Struct, to_builtins
from msgspec.structs import replace

from nebula.events.evolve import evolve
from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    AliasRemoveRequested,
    AliasRequested,
    ModelLoadRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
    NodeUndrainRequested,
    WeightsPinRequested,
)
from nebula.events.limit_events import LimitsSet
from nebula.events.masking import MASK
from nebula.events.record import supposed
from nebula.events.state import State
from nebula.events.usage_limits import NO_LIMITS, UsageLimits
from nebula.events.validation import rejection_reason
from nebula.events.vocabulary import Event
from nebula.history.cluster_file.declaration import (
    ClusterFile,
    DeclaredAlias,
    DeclaredNode,
    Entry,
    Kind,
    entry_of_state,
    values_of,
)
from nebula.history.cluster_file.difference import Comparison, compare
from nebula.history.key_rights import with_changes

Intent = tuple[str, Event]


class FileChange(Struct, frozen=True):
    """The intents to append, in this order.

    `refused`: what is not possible, by its place in the file. `waits`: models that must be gone
    before it may become possible, because they still have their names.
    """

    intents: tuple[Intent, ...]
    refused: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()


def change_to(file: ClusterFile, state: State, *, prune: bool = False) -> FileChange:
    """Return what makes the cluster as the file declares it.

    Only what differs is asked for, so that a second time nothing is left to do.
    """
    found = compare(file, state, prune=prune)
    way = _Way(state)
    wishes = [*_removals(found, state), *_wishes(found, file, state)]
    while wishes:
        left = [each for each in wishes if not way.append(each)]
        if len(left) == len(wishes):
            break
        wishes = left  # a name that was in the way may be free by now
    unloading = tuple(
        sorted(each.id for each in way.state.models.values() if each.unloading and wishes)
    )
    return FileChange(tuple(way.intents), tuple(map(way.reason, wishes)), unloading)


class _Wish(Struct, frozen=True):
    """An intent, and what it is for in the file."""

    path: str
    id: str
    event: Event | None
    problem: str = ""


class _Way:
    """The intents so far, and the state that they lead to."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.intents: list[Intent] = []

    def append(self, wish: _Wish) -> bool:
        """Add an intent, if it would not be rejected."""
        if self._done(wish):
            return True
        if wish.event is None or rejection_reason(self.state, wish.id, wish.event) is not None:
            return False
        seq = self.state.seq + 1
        self.state = evolve(self.state, supposed(seq, self.state.time, wish.id, wish.event))
        self.intents.append((wish.id, wish.event))
        return True

    def _done(self, wish: _Wish) -> bool:
        """Return whether an adapter is not there: a load request takes off what it named before."""
        if not isinstance(wish.event, AdapterUnloadRequested):
            return False
        model = self.state.models.get(wish.id)
        return model is not None and wish.event.name not in model.adapters

    def reason(self, wish: _Wish) -> str:
        """Return why a wish is not possible."""
        reason = wish.problem
        if wish.event is not None:
            reason = rejection_reason(self.state, wish.id, wish.event) or ""
        return f"{wish.path}: {reason}"


def _removals(found: Comparison, state: State) -> Iterator[_Wish]:
    """Yield what removes the entries that the file does not have, names first."""
    gone = [each for each in found.drifts if not each.field and not each.file]
    for each in gone:
        if each.kind == "aliases":
            yield _Wish(each.path, each.id, AliasRemoveRequested())
    for each in gone:
        match each.kind:
            case "models":
                yield _Wish(each.path, each.id, ModelUnloadRequested())
            case "nodes":
                yield from _pins(each.path, each.id, DeclaredNode(), state)
            case "limits.tenants" | "limits.models" | "limits.keys":
                yield _limits(each.path, each.kind, each.id, NO_LIMITS, state)


def _wishes(found: Comparison, file: ClusterFile, state: State) -> Iterator[_Wish]:
    """Yield what makes each entry of the file so that differs."""
    differing = dict.fromkeys(
        (each.kind, each.id) for each in found.drifts if each.field or each.file
    )
    of_kind: tuple[Kind, ...] = ("models", "aliases", "nodes")
    for kind in of_kind:
        for each, identity in differing:
            if each == kind:
                yield from _entry(kind, identity, file, state)
    for each, identity in differing:
        if each not in of_kind:
            group = each.removeprefix("limits.")
            limits: UsageLimits = getattr(file.limits, group)[identity]
            yield _limits(f"{each}.{identity}", each, identity, limits, state)


def _entry(kind: Kind, identity: str, file: ClusterFile, state: State) -> Iterator[_Wish]:
    path = f"{kind}.{identity}"
    if kind == "models":
        have = entry_of_state(state, kind, identity)
        for event in _model(identity, file.models[identity], have):
            yield _Wish(path, identity, event)
    elif kind == "aliases":
        known = state.aliases.get(identity)
        yield _Wish(path, identity, _alias(file.aliases[identity], known.changed if known else 0))
    elif identity not in state.nodes:
        yield _Wish(path, identity, None, f"there is no node {identity!r}")
    else:
        yield from _pins(path, identity, file.nodes[identity], state)
        draining = file.nodes[identity].draining
        if draining is not None and draining != state.nodes[identity].draining:
            event = NodeDrainRequested() if draining else NodeUndrainRequested()
            yield _Wish(path, identity, event)


def _alias(want: DeclaredAlias, changed: int) -> AliasRequested:
    return AliasRequested(want.targets, want.name, want.mirror, replaces=changed)


def _model(identity: str, want: ModelLoadRequested, have: Entry | None) -> Iterator[Event]:
    """Yield what makes a model as wanted: a load request only if no smaller intent does."""
    if not isinstance(have, ModelLoadRequested):
        yield want
        return
    want = _unmasked(want, have)
    wanted, present = values_of(identity, want), values_of(identity, have)
    fields = {
        field.partition(".")[0]
        for field in {*wanted, *present}
        if wanted.get(field) != present.get(field)
    }
    named = {each.name: each.source for each in want.adapters}
    there = {each.name: each.source for each in have.adapters}
    if not fields <= {"replicas", "adapters"} or ("replicas" in fields and want.autoscale):
        yield want
        left = sorted(set(there) - set(named))  # a load request leaves adapters alone
    else:
        if "replicas" in fields:
            yield ModelScaleRequested(want.replicas)
        for name, source in named.items():
            if there.get(name) != source:
                yield AdapterLoadRequested(name, source)
        left = sorted(set(there) - set(named))
    for name in left:
        yield AdapterUnloadRequested(name)


def _unmasked(want: ModelLoadRequested, have: ModelLoadRequested) -> ModelLoadRequested:
    """Return a request with the secrets that the log has in clear, where the file has masks."""
    options = {
        key: have.options.get(key, value) if MASK in str(value) else value
        for key, value in want.options.items()
    }
    env = {
        key: have.env.get(key, value) if MASK in str(value) else value
        for key, value in want.env.items()
    }
    return replace(want, options=options, env=env)


def _pins(path: str, identity: str, want: DeclaredNode, state: State) -> Iterator[_Wish]:
    held = state.nodes[identity].weights
    pinned = {source for source, each in held.items() if each.pinned}
    for source in sorted(set(want.pinned) ^ pinned):
        event = WeightsPinRequested(source, pinned=source in want.pinned)
        yield _Wish(path, identity, event)


def _limits(path: str, kind: Kind, identity: str, limits: UsageLimits, state: State) -> _Wish:
    if kind != "limits.keys":
        of = LimitsSet("tenant" if kind == "limits.tenants" else "model", limits)
        return _Wish(path, identity, of)
    key = state.keys.get(identity)
    if key is None:
        return _Wish(path, identity, None, f"there is no key {identity!r}: issue it first")
    if key.revoked_ns:
        return _Wish(path, identity, None, f"the key {identity!r} is revoked")
    return _Wish(path, identity, with_changes(key, {"limits": to_builtins(limits)}))
