"""A state as bytes and back: equal states have equal bytes, so the hash identifies the state.

A snapshot is a shortcut and never a source: if it is damaged, or was made by a different fold, the
log is folded instead.
"""

import hashlib

import msgspec
from msgspec import Struct
from rpds import HashTrieMap

from nebula.events.alias import Alias
from nebula.events.batch import Batch
from nebula.events.capture import Capture
from nebula.events.cluster import Cluster
from nebula.events.index import indexed
from nebula.events.key import Key
from nebula.events.reading import UNREADABLE
from nebula.events.state import Model, NameBinding, Node, Rejection, Replica, State
from nebula.events.usage_limits import UsageLimits

FORMAT = 1
"""Version of the format of these bytes."""

FOLD = 25
"""Version of `evolve`; it grows when the same log folds to a different state. A test checks
that."""


class Unusable(Exception):
    """These bytes are not a snapshot that this Nebula can start from; the text says why."""


class _Head(Struct, frozen=True):
    """The first line of a snapshot: `digest` is the SHA-256 of all that follows it."""

    format: int
    fold: int
    seq: int
    digest: str


class _Body(Struct, frozen=True, kw_only=True):
    seq: int
    time: int
    models_seq: int
    nodes_seq: int
    capacity_seq: int
    models: dict[str, Model]
    replicas: dict[str, Replica]
    nodes: dict[str, Node]
    aliases: dict[str, Alias]
    names: dict[str, NameBinding]
    rejections: list[Rejection]
    cluster: Cluster = Cluster()
    batches_seq: int = 0
    batches: dict[str, Batch] = {}
    keys_seq: int = 0
    keys: dict[str, Key] = {}
    limits: dict[str, UsageLimits] = {}
    captures: dict[str, Capture] = {}


_encoder = msgspec.json.Encoder(order="deterministic")
_heads = msgspec.json.Decoder(_Head)
_bodies = msgspec.json.Decoder(_Body)


def canonical(state: State) -> bytes:
    """Return the canonical form of a state: JSON with sorted maps."""
    return _encoder.encode(
        _Body(
            seq=state.seq,
            time=state.time,
            models_seq=state.models_seq,
            nodes_seq=state.nodes_seq,
            capacity_seq=state.capacity_seq,
            models=dict(state.models),
            replicas=dict(state.replicas),
            nodes=dict(state.nodes),
            aliases=dict(state.aliases),
            names=dict(state.names),
            rejections=[state.rejections[seq] for seq in sorted(state.rejections)],
            cluster=state.cluster,
            batches_seq=state.batches_seq,
            batches=dict(state.batches),
            keys_seq=state.keys_seq,
            keys=dict(state.keys),
            limits=dict(state.limits),
            captures=dict(state.captures),
        )
    )


def digest(state: State) -> str:
    """Return the SHA-256 of a state, as hexadecimal digits."""
    return hashlib.sha256(canonical(state)).hexdigest()


def dump(state: State) -> bytes:
    """Write a snapshot."""
    body = canonical(state)
    head = _Head(FORMAT, FOLD, state.seq, hashlib.sha256(body).hexdigest())
    return _encoder.encode(head) + b"\n" + body


def load(data: bytes) -> State:
    """Read a snapshot. Raise Unusable if it is damaged or of an unknown version."""
    first, _, body = data.partition(b"\n")
    try:
        head = _heads.decode(first)
    except UNREADABLE as error:
        raise Unusable(f"it does not begin as a snapshot does: {error}") from error
    if (head.format, head.fold) != (FORMAT, FOLD):
        raise Unusable(
            f"it is of format {head.format}, fold {head.fold}; "
            f"this Nebula knows format {FORMAT}, fold {FOLD}"
        )
    if hashlib.sha256(body).hexdigest() != head.digest:
        raise Unusable("it is damaged: its hash is not the one it was written with")
    try:
        found = _bodies.decode(body)
    except UNREADABLE as error:
        raise Unusable(f"it can't be read: {error}") from error
    read = State(
        seq=found.seq,
        time=found.time,
        models_seq=found.models_seq,
        nodes_seq=found.nodes_seq,
        capacity_seq=found.capacity_seq,
        models=HashTrieMap(found.models),
        replicas=HashTrieMap(found.replicas),
        nodes=HashTrieMap(found.nodes),
        aliases=HashTrieMap(found.aliases),
        names=HashTrieMap(found.names),
        rejections=HashTrieMap({rejection.seq: rejection for rejection in found.rejections}),
        cluster=found.cluster,
        batches_seq=found.batches_seq,
        batches=HashTrieMap(found.batches),
        keys_seq=found.keys_seq,
        keys=HashTrieMap(found.keys),
        limits=HashTrieMap(found.limits),
        captures=HashTrieMap(found.captures),
        valid_keys=sum(not key.revoked_ns for key in found.keys.values()),
    )
    return indexed(read)
