"""Every event that Nebula's log can hold, as frozen structs.

An *intent* is an event that anyone may publish (`ModelLoadRequested`); a *fact* is what an actor
reports (`EngineReady`); a *decision* is what a router concludes from the state (`ModelAssigned`).
The id of the aggregate is in the subject and never in the payload. Intents refuse unknown fields,
so that a typing error is answered instead of ignored; facts and decisions tolerate them, so that
an older actor can read a newer one's log.
"""

from typing import Annotated, Literal, TypeAlias, get_args

from msgspec import Meta, Struct

Task: TypeAlias = Literal["chat", "embedding"]
DeviceKind: TypeAlias = Literal["gpu", "cpu"]
Aggregate: TypeAlias = Literal["model", "replica", "node", "log"]
AGGREGATES: tuple[str, ...] = get_args(Aggregate)

PublicName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
Source: TypeAlias = Annotated[str, Meta(min_length=1, max_length=1024)]
Token: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,128}\Z")]
Count: TypeAlias = Annotated[int, Meta(ge=0, lt=2**62)]
Pid: TypeAlias = Annotated[int, Meta(gt=1, lt=2**31)]
Port: TypeAlias = Annotated[int, Meta(ge=0, lt=2**16)]
Replicas: TypeAlias = Annotated[int, Meta(ge=0, le=1024)]
Scalar: TypeAlias = str | int | float | bool | None
OptionValue: TypeAlias = Scalar | list[Scalar] | dict[str, object]


class Adapter(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A LoRA adapter: the `name` that requests use, and its folder or hub id."""

    name: PublicName
    source: Source


class ModelLoadRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Somebody wants this model served as described; a repeated request replaces the last one.

    `source`: a folder on the nodes or a hub id, as vLLM's `--model` takes it.
    `name`: what requests call the model; the aggregate's id when empty.
    `memory`: each replica's share of one device, in bytes or as "6GiB"; a share of the device
    that depends on `task` when absent.
    `lora`: whether engines start with `--enable-lora`; true when there are `adapters`.
    `options`: vLLM's own command-line options without the dashes, `{"max-model-len": 4096}`.
    `env`: environment variables for the engine.
    `max_in_flight`: requests that one replica is given at a time; `max_waiting`: those that may
    wait in each router for their turn, before it refuses more.
    """

    source: Source
    name: Annotated[str, Meta(max_length=256)] = ""
    task: Task = "chat"
    replicas: Replicas = 1
    adapters: tuple[Adapter, ...] = ()
    lora: bool | None = None
    memory: int | str | None = None
    options: dict[str, OptionValue] = {}
    env: dict[str, str] = {}
    max_in_flight: Annotated[int, Meta(ge=1, le=65_536)] = 256
    max_waiting: Annotated[int, Meta(ge=0, le=65_536)] = 1024


class ModelScaleRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Somebody wants another number of replicas."""

    replicas: Replicas


class ModelUnloadRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Somebody wants the model gone, its engines ended and its memory back."""


class AdapterLoadRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Somebody wants an adapter on every replica of a model that was loaded with LoRA."""

    name: PublicName
    source: Source


class AdapterUnloadRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Somebody wants an adapter off every replica of its model."""

    name: PublicName


class NodeDrainRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Somebody wants no new replicas on this node."""


class Assignment(Struct, frozen=True, gc=False):
    """One replica's place: its node, the devices there, and its bytes of each device.

    `version` is that of the plan that last changed this place or what runs there: an engine
    started for an older version is to be replaced.
    """

    replica: Token
    node: Token
    devices: Annotated[tuple[Count, ...], Meta(min_length=1)]
    memory: Count
    version: Count


class ModelAssigned(Struct, frozen=True, gc=False):
    """The placement plan: every replica of the model, replacing the plan before it."""

    version: Count
    replicas: tuple[Assignment, ...]


class ModelUnschedulable(Struct, frozen=True, gc=False):
    """`missing` replicas of the model fit nowhere, and why."""

    reason: str
    missing: int = 1


class ModelUnloaded(Struct, frozen=True, gc=False):
    """The last engine of an unloaded model has ended; the name is free again."""


class EngineStarted(Struct, frozen=True, gc=False):
    """A node has spawned an engine for a replica, as the plan of version `plan` wants it.

    `created` is the process's start time in seconds since the epoch as its kernel tells it: with
    `pid` it names the process beyond doubt, also after pids were used again.
    """

    pid: Pid
    created: float
    port: Port
    log_file: str
    plan: int
    attempt: int = 1


class EngineReady(Struct, frozen=True, gc=False):
    """The engine answers: it has subscribed to its subject and its `/health` is good."""

    engine_version: str = ""
    seconds: float = 0.0


class EngineFailed(Struct, frozen=True, gc=False):
    """An engine ended that should not have, or could not be started.

    `exit_code` is None where it can't be known (the process was adopted); negative for a signal.
    `retry_in` is seconds until the node starts it again; None when it gave up.
    """

    reason: str
    exit_code: int | None = None
    log_tail: tuple[str, ...] = ()
    attempt: int = 1
    retry_in: float | None = None


class EngineStopped(Struct, frozen=True, gc=False):
    """An engine ended because its node ended it, and why."""

    reason: str = ""


class AdapterLoaded(Struct, frozen=True, gc=False):
    """An engine has an adapter in place."""

    name: str
    source: str


class AdapterLoadFailed(Struct, frozen=True, gc=False):
    """An engine refused an adapter, in the engine's own words."""

    name: str
    source: str
    reason: str


class AdapterUnloaded(Struct, frozen=True, gc=False):
    """An engine has let go of an adapter."""

    name: str


class Device(Struct, frozen=True, gc=False):
    """Something that engines run on: a GPU, or the whole of a machine's CPUs. `memory` in bytes."""

    index: Count
    kind: DeviceKind
    name: str
    memory: Count


class NodeRegistered(Struct, frozen=True, gc=False):
    """A node process has started and offers these devices."""

    devices: tuple[Device, ...]
    host: str = ""
    labels: dict[str, str] = {}
    nebula_version: str = ""


class NodeLost(Struct, frozen=True, gc=False):
    """A node has been silent for too long."""

    reason: str = ""


class NodeDeregistered(Struct, frozen=True, gc=False):
    """A node has left for good."""


class EventRejected(Struct, frozen=True, gc=False):
    """The event at the sequence that is this aggregate's id was not acted upon, and why."""

    subject: str
    reason: str


ModelEvent: TypeAlias = (
    ModelLoadRequested
    | ModelScaleRequested
    | ModelUnloadRequested
    | AdapterLoadRequested
    | AdapterUnloadRequested
    | ModelAssigned
    | ModelUnschedulable
    | ModelUnloaded
)
ReplicaEvent: TypeAlias = (
    EngineStarted
    | EngineReady
    | EngineFailed
    | EngineStopped
    | AdapterLoaded
    | AdapterLoadFailed
    | AdapterUnloaded
)
NodeEvent: TypeAlias = NodeRegistered | NodeDrainRequested | NodeLost | NodeDeregistered
Event: TypeAlias = ModelEvent | ReplicaEvent | NodeEvent | EventRejected
Decided: TypeAlias = ModelAssigned | ModelUnschedulable | ModelUnloaded | EventRejected
"""What a router concludes from the state."""

AGGREGATE_OF: dict[str, str] = {
    **{event.__name__: "model" for event in get_args(ModelEvent)},
    **{event.__name__: "replica" for event in get_args(ReplicaEvent)},
    **{event.__name__: "node" for event in get_args(NodeEvent)},
    EventRejected.__name__: "log",
}
TYPES: dict[str, type[Event]] = {event.__name__: event for event in get_args(Event)}
INTENTS = frozenset(
    name for name, event in TYPES.items() if event.__struct_config__.forbid_unknown_fields
)
"""Names of the events that anyone may publish."""
