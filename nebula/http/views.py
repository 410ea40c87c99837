"""The cluster and its events as JSON, for HTTP and the command line."""

import time
from datetime import UTC, datetime

from msgspec import Struct

from nebula.events.adapter_status import adapter_status
from nebula.events.alias import Alias
from nebula.events.batch import Batch
from nebula.events.cluster import Risks
from nebula.events.heartbeats import QueueLength
from nebula.events.intents import ModelLoadRequested
from nebula.events.key import Key
from nebula.events.model_status import ModelStatus, model_status
from nebula.events.record import Malformed, Record
from nebula.events.showing import shown
from nebula.events.state import EMPTY, CachedSource, Model, Node, Rejection, Replica, State
from nebula.events.usage_limits import UsageLimits
from nebula.events.values import Assignment
from nebula.events.vocabulary import Event
from nebula.history.description import describe


class AdapterView(Struct, frozen=True):
    """An adapter of a model, and how many replicas have loaded the version that answers.

    `version`: the digest of that version; `versions`: the digests that each replica has.
    """

    name: str
    source: str
    loaded: int
    reason: str = ""
    version: str = ""
    versions: dict[str, tuple[str, ...]] = {}


class ModelView(Struct, frozen=True):
    """A model: what was requested, where it was placed, and its state.

    `queue`: the number of requests that wait for it now, which is not in the log.
    """

    id: str
    name: str
    source: str
    task: str
    status: ModelStatus
    replicas: tuple[str, ...]
    adapters: tuple[AdapterView, ...]
    version: int
    plan: tuple[Assignment, ...]
    spec: ModelLoadRequested
    queue: QueueLength | None = None


class KeyView(Struct, frozen=True):
    """A key without its secret: `begins` with the characters by which its holder knows it.

    `state`: `valid`, `expired` or `revoked`. Times are in ISO 8601, "" for none.
    """

    id: str
    name: str
    begins: str
    state: str
    scopes: tuple[str, ...]
    models: tuple[str, ...]
    tenant: str
    limits: UsageLimits
    issued: str
    expires: str
    revoked: str
    reason: str
    changed: int


class Accepted(Struct, frozen=True):
    """An intent is in the log at `seq`; its outcome shows in the model or the alias.

    `weights`: the state of the pinned files on the node; files that arrive later are protected too.
    `changes`: what a load request changes or drops of the previous one, which it replaces as a
    whole.
    """

    id: str
    seq: int
    model: ModelView | None = None
    alias: Alias | None = None
    weights: CachedSource | None = None
    changes: tuple[str, ...] = ()


class ClusterIdentity(Struct, frozen=True):
    """The cluster's id, name and version; without an id, none was founded yet."""

    id: str
    name: str
    version: int


class ClusterView(ClusterIdentity, frozen=True):
    """A cluster, for those that may see it.

    `risks`: the nodes whose loss would leave replicas without a place, as last recorded.
    """

    risks: Risks = Risks()


class StateView(Struct, frozen=True):
    """The whole cluster after the event at `seq`; `time` is when that was stored."""

    seq: int
    time: str
    cluster: ClusterView
    models: list[ModelView]
    replicas: list[Replica]
    nodes: list[Node]
    aliases: list[Alias]
    batches: list[Batch]
    keys: list[KeyView]
    rejections: list[Rejection]


class EventView(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An entry of the log: `event` is its content, `malformed` is why it has no valid content."""

    seq: int
    time: str
    subject: str
    type: str
    aggregate: str
    id: str
    text: str
    event: Event | None = None
    malformed: str = ""
    cause: int | None = None
    basis: int | None = None
    actor: str = ""
    by: str = ""


def model_view(state: State, model: Model, now: int | None = None) -> ModelView:
    """Show a model, without its secrets; `now` as for `model_status`."""
    view = ModelView(
        model.id,
        model.name,
        model.spec.source,
        model.task,
        model_status(state, model, now),
        model.replicas,
        tuple(_adapter(state, model, name) for name in sorted({**model.leaving, **model.adapters})),
        model.version,
        model.assignments,
        model.spec,
    )
    return shown(view)


def cluster_identity(state: State) -> ClusterIdentity:
    """Show the cluster's id, name and version: each client may learn them."""
    known = state.cluster
    return ClusterIdentity(known.id, known.name, known.version)


def cluster_view(state: State) -> ClusterView:
    """Show the cluster's id, name and version, and what it can't lose."""
    known = state.cluster
    return ClusterView(known.id, known.name, known.version, known.risks)


def state_view(state: State, now: int | None = None) -> StateView:
    """Show everything; `now` as for `model_status`."""
    return StateView(
        state.seq,
        moment(state.time),
        cluster_view(state),
        [model_view(state, state.models[identity], now) for identity in sorted(state.models)],
        replica_views(state),
        node_views(state),
        [shown(state.aliases[identity]) for identity in sorted(state.aliases)],
        [state.batches[identity] for identity in sorted(state.batches)],
        [key_view(state.keys[identity], now) for identity in sorted(state.keys)],
        [shown(state.rejections[seq]) for seq in sorted(state.rejections)],
    )


def key_view(key: Key, now: int | None = None) -> KeyView:
    """Show a key as it is at a time (ns since the epoch) [now]."""
    return KeyView(
        key.id,
        key.name,
        key.prefix,
        key.invalid(time.time_ns() if now is None else now) or "valid",
        key.scopes,
        key.models,
        key.tenant,
        key.limits,
        moment(key.issued_ns),
        key.expires,
        moment(key.revoked_ns) if key.revoked_ns else "",
        key.reason,
        key.changed,
    )


def replica_views(state: State) -> list[Replica]:
    """Show all replicas with their engines."""
    return [shown(state.replicas[identity]) for identity in sorted(state.replicas)]


def node_views(state: State) -> list[Node]:
    """Show all nodes with their devices."""
    return [shown(state.nodes[identity]) for identity in sorted(state.nodes)]


def event_view(record: Record, before: State = EMPTY) -> EventView:
    """Show an entry of the log, without its secrets; `before`: the state that it met, if known."""
    content = record.content
    known = None if isinstance(content, Malformed) else content
    view = EventView(
        seq=record.seq,
        time=moment(record.time),
        subject=record.subject,
        type=record.type,
        aggregate=record.aggregate,
        id=record.id,
        text=describe(record, before),
        event=known,
        malformed=content.reason if isinstance(content, Malformed) else "",
        cause=record.cause,
        basis=record.basis,
        actor=record.actor,
        by=record.by,
    )
    return shown(view)


def moment(time: int) -> str:
    """Write nanoseconds since the epoch as ISO 8601, to a microsecond, in UTC."""
    return (
        datetime.fromtimestamp(time // 10**9, UTC)
        .replace(microsecond=time // 1000 % 10**6)
        .isoformat(timespec="microseconds")
    )


def _adapter(state: State, model: Model, name: str) -> AdapterView:
    stands = adapter_status(state, model, name)
    return AdapterView(
        name, stands.source, stands.loaded, stands.reason, stands.version, stands.versions
    )
