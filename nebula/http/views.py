"""The cluster and its events as JSON shows them, over HTTP and from the command line."""

from datetime import UTC, datetime

from msgspec import Struct

from nebula.events.intents import ModelLoadRequested
from nebula.events.record import Malformed, Record
from nebula.events.standing import Standing, standing
from nebula.events.state import Alias, Model, Node, Rejection, Replica, State
from nebula.events.status import QueueStatus
from nebula.events.values import Assignment
from nebula.events.vocabulary import Event
from nebula.history.telling import told


class AdapterView(Struct, frozen=True):
    """An adapter of a model, and on how many replicas it is in place."""

    name: str
    source: str
    loaded: int
    reason: str = ""


class ModelView(Struct, frozen=True):
    """A model as people ask for it: what was wanted, where it was placed, how it stands.

    `queue`: how many requests wait for it now; the log does not know that.
    """

    id: str
    name: str
    source: str
    task: str
    standing: Standing
    replicas: tuple[str, ...]
    adapters: tuple[AdapterView, ...]
    version: int
    plan: tuple[Assignment, ...]
    spec: ModelLoadRequested
    queue: QueueStatus | None = None


class StateView(Struct, frozen=True):
    """The whole cluster after the event at `seq`, which was stored at `time`."""

    seq: int
    time: str
    models: list[ModelView]
    replicas: list[Replica]
    nodes: list[Node]
    aliases: list[Alias]
    rejections: list[Rejection]


class EventView(Struct, frozen=True, omit_defaults=True):
    """An entry of the log: `event` is what it says, `malformed` why it says nothing."""

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


def model_view(state: State, model: Model) -> ModelView:
    """Show a model."""
    return ModelView(
        model.id,
        model.name,
        model.spec.source,
        model.task,
        standing(state, model),
        model.replicas,
        tuple(_adapter(state, model, name) for name in sorted(model.adapters)),
        model.version,
        model.assignments,
        model.spec,
    )


def state_view(state: State) -> StateView:
    """Show everything."""
    return StateView(
        state.seq,
        moment(state.time),
        [model_view(state, state.models[identity]) for identity in sorted(state.models)],
        [state.replicas[identity] for identity in sorted(state.replicas)],
        [state.nodes[identity] for identity in sorted(state.nodes)],
        [state.aliases[identity] for identity in sorted(state.aliases)],
        [state.rejections[seq] for seq in sorted(state.rejections)],
    )


def event_view(record: Record) -> EventView:
    """Show an entry of the log."""
    content = record.content
    known = None if isinstance(content, Malformed) else content
    return EventView(
        record.seq,
        moment(record.time),
        record.subject,
        record.type,
        record.aggregate,
        record.id,
        told(record),
        known,
        content.reason if isinstance(content, Malformed) else "",
        record.cause,
        record.basis,
        record.actor,
    )


def moment(time: int) -> str:
    """Write nanoseconds since the epoch as ISO 8601, to a microsecond, in UTC."""
    return (
        datetime.fromtimestamp(time // 10**9, UTC)
        .replace(microsecond=time // 1000 % 10**6)
        .isoformat(timespec="microseconds")
    )


def _adapter(state: State, model: Model, name: str) -> AdapterView:
    statuses = [
        status
        for replica in state.replicas_of(model)
        if (status := replica.adapters.get(name)) is not None
    ]
    reasons = [status.reason for status in statuses if not status.loaded]
    return AdapterView(
        name,
        model.adapters[name],
        sum(status.loaded for status in statuses),
        reasons[0] if reasons else "",
    )
