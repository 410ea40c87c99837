"""Every event that Nebula's log can hold, as frozen structs.

An *intent* is an event that anyone may publish (`ModelLoadRequested`, in `intents`); a *fact* is
what an actor reports (`EngineReady`); a *decision* is what a router concludes from the state
(`ModelAssigned`). The id of the aggregate is in the subject and never in the payload. Facts and
decisions tolerate unknown fields, so that an older actor can read a newer one's log.
"""

from typing import TypeAlias, get_args

from msgspec import Struct

from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    AliasRemoveRequested,
    AliasRequested,
    ModelLoadRequested,
    ModelRebalanceRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
    NodeUndrainRequested,
    WeightsPinRequested,
    WeightsRemoveRequested,
)
from nebula.events.values import Assignment, Count, Device, Pid, Port, Replicas, Weights

AGGREGATES = ("model", "replica", "node", "alias", "log", "cluster")


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


class ModelMeasured(Struct, frozen=True, gc=False):
    """A node has looked at a model's files, for a plan to know how much memory it needs.

    `weights`: bytes of its tensors. `cache_per_token`: bytes that one token takes in the KV cache.
    `context`: tokens that a request may have. All 0, and a `reason`, where it can't be told.
    """

    source: str
    weights: Count = 0
    cache_per_token: Count = 0
    context: Count = 0
    reason: str = ""


class ModelScaled(Struct, frozen=True, gc=False):
    """The load calls for another number of replicas, and how it does."""

    replicas: Replicas
    reason: str = ""


class ModelSlept(Struct, frozen=True, gc=False):
    """A model's engines are to end until somebody asks for it again, and why."""

    reason: str = ""


class ModelWoken(Struct, frozen=True, gc=False):
    """Somebody has asked for a model that slept."""

    reason: str = ""


class ModelRolledBack(Struct, frozen=True, gc=False):
    """A changed model did not get ready: it is wanted again as it was when it last was."""

    reason: str = ""


class EngineStarted(Struct, frozen=True, gc=False):
    """A node has spawned an engine for a replica, as the plan of version `plan` wants it.

    Like every report of a replica it names the `node` that makes it: one from where the replica is
    no more, or not any longer, says nothing about the one of this id that there is now.

    `created` is the process's start time in seconds since the epoch. `birth` is the machine's boot
    id and the clock ticks from that boot to the start of the process: with `pid` it names the
    process beyond doubt, also after pids were used again or the clock was stepped.
    """

    pid: Pid
    created: float
    port: Port
    log_file: str
    plan: int
    attempt: int = 1
    node: str = ""
    birth: str = ""


class EngineReady(Struct, frozen=True, gc=False):
    """The engine answers: it has subscribed to its subject and its `/health` is good."""

    engine_version: str = ""
    seconds: float = 0.0
    node: str = ""


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
    node: str = ""


class EngineStopped(Struct, frozen=True, gc=False):
    """An engine ended because its node ended it, and why."""

    reason: str = ""
    node: str = ""


class EngineStalled(Struct, frozen=True, gc=False):
    """A ready engine has work and shows no progress: no token, no step, no answer to a probe.

    `seconds`: for how long. `requests`: those that it has, or that left without an answer.
    `ends_in`: seconds until its node ends it, should that last; None where it never does.
    """

    seconds: float = 0.0
    requests: Count = 0
    ends_in: float | None = None
    reason: str = ""
    node: str = ""


class EngineResumed(Struct, frozen=True, gc=False):
    """An engine that stood still makes progress again.

    `seconds`: how long it stood still; 0 where an earlier process of its node has seen it begin.
    """

    seconds: float = 0.0
    node: str = ""


class AdapterLoaded(Struct, frozen=True, gc=False):
    """An engine has an adapter in place."""

    name: str
    source: str
    node: str = ""


class AdapterLoadFailed(Struct, frozen=True, gc=False):
    """An engine refused an adapter, in the engine's own words."""

    name: str
    source: str
    reason: str
    node: str = ""


class AdapterUnloaded(Struct, frozen=True, gc=False):
    """An engine has let go of an adapter."""

    name: str
    node: str = ""


class NodeRegistered(Struct, frozen=True, gc=False):
    """A node process has started, or is back after it was lost, and offers these devices.

    `weights`: what it has on its disk. `measures`: whether it tells by `ModelMeasured` how much
    memory models need. `reads`: the newest cluster version that it knows.
    """

    devices: tuple[Device, ...]
    host: str = ""
    labels: dict[str, str] = {}
    nebula_version: str = ""
    engine_version: str = ""
    weights: tuple[Weights, ...] = ()
    measures: bool = False
    reads: Count = 0


class DownloadStarted(Struct, frozen=True, gc=False):
    """A node has begun to fetch a source's files, or goes on with it: `done` of `total` bytes."""

    source: str
    revision: str = ""
    files: Count = 0
    done: Count = 0
    total: Count = 0


class DownloadProgressed(Struct, frozen=True, gc=False):
    """A node has `done` of `total` bytes of a source."""

    source: str
    done: Count
    total: Count


class DownloadFinished(Struct, frozen=True, gc=False):
    """A source's files lie on a node, whole and checked."""

    source: str
    bytes: Count
    revision: str = ""
    seconds: float = 0.0


class DownloadFailed(Struct, frozen=True, gc=False):
    """A node could not fetch a source. `retry_in`: seconds until it tries again; None: never."""

    source: str
    reason: str
    retry_in: float | None = None


class WeightsRemoved(Struct, frozen=True, gc=False):
    """A source's files are gone from a node, and why."""

    source: str
    reason: str = ""


class NodeSuspected(Struct, frozen=True, gc=False):
    """A router has not heard a node for long, and asks all who read the log whether it lives."""

    reason: str = ""


class NodeHeard(Struct, frozen=True, gc=False):
    """A suspected node lives: it says so itself, or a router that hears it does."""

    reason: str = ""


class NodeLost(Struct, frozen=True, gc=False):
    """A node has been silent for too long: what it had is placed elsewhere.

    Its engines may still run, which nobody can know. When it is back it ends them, and registers.
    """

    reason: str = ""


class NodeDeregistered(Struct, frozen=True, gc=False):
    """A node has left for good."""


class EventRejected(Struct, frozen=True, gc=False):
    """The event at the sequence that is this aggregate's id was not acted upon, and why."""

    subject: str
    reason: str


class ClusterFounded(Struct, frozen=True, gc=False):
    """The log is the one of the cluster that is this aggregate's id; the first of them counts.

    `name`: what people call it. `version`: the cluster version that it begins with; 0 in a log
    that was there before clusters had ids.
    """

    name: str = ""
    version: Count = 0


class ClusterVersionRaised(Struct, frozen=True, gc=False):
    """All routers and nodes know the next cluster version: events that need it count from now on.

    A Nebula that does not know it stops, as it would read the log otherwise than the others.
    """

    version: Count
    reason: str = ""


ModelEvent: TypeAlias = (
    ModelLoadRequested
    | ModelScaleRequested
    | ModelRebalanceRequested
    | ModelUnloadRequested
    | AdapterLoadRequested
    | AdapterUnloadRequested
    | ModelAssigned
    | ModelUnschedulable
    | ModelUnloaded
    | ModelMeasured
    | ModelScaled
    | ModelSlept
    | ModelWoken
    | ModelRolledBack
)
ReplicaEvent: TypeAlias = (
    EngineStarted
    | EngineReady
    | EngineFailed
    | EngineStopped
    | EngineStalled
    | EngineResumed
    | AdapterLoaded
    | AdapterLoadFailed
    | AdapterUnloaded
)
WeightsEvent: TypeAlias = (
    WeightsPinRequested
    | WeightsRemoveRequested
    | DownloadStarted
    | DownloadProgressed
    | DownloadFinished
    | DownloadFailed
    | WeightsRemoved
)
NodeEvent: TypeAlias = (
    NodeRegistered
    | NodeDrainRequested
    | NodeUndrainRequested
    | NodeSuspected
    | NodeHeard
    | NodeLost
    | NodeDeregistered
    | WeightsEvent
)
AliasEvent: TypeAlias = AliasRequested | AliasRemoveRequested
ClusterEvent: TypeAlias = ClusterFounded | ClusterVersionRaised
Event: TypeAlias = ModelEvent | ReplicaEvent | NodeEvent | AliasEvent | ClusterEvent | EventRejected
Observed: TypeAlias = (
    ModelScaled | ModelSlept | ModelWoken | NodeSuspected | NodeLost | ClusterVersionRaised
)
"""What a router concludes from what it sees beside the log, which the reason tells."""
Decided: TypeAlias = (
    ModelAssigned | ModelUnschedulable | ModelUnloaded | ModelRolledBack | EventRejected | Observed
)
"""What a router concludes, from the state or from what it sees."""

AGGREGATE_OF: dict[str, str] = {
    **{event.__name__: "model" for event in get_args(ModelEvent)},
    **{event.__name__: "replica" for event in get_args(ReplicaEvent)},
    **{event.__name__: "node" for event in get_args(NodeEvent)},
    **{event.__name__: "alias" for event in get_args(AliasEvent)},
    **{event.__name__: "cluster" for event in get_args(ClusterEvent)},
    EventRejected.__name__: "log",
}
TYPES: dict[str, type[Event]] = {event.__name__: event for event in get_args(Event)}
INTENTS = frozenset(
    name for name, event in TYPES.items() if event.__struct_config__.forbid_unknown_fields
)
"""Names of the events that anyone may publish."""
