"""Every event that Nebula's log can hold, by the aggregate that it is about. Pure.

An *intent* is an event that anyone may publish (`ModelLoadRequested`, in `intents`). A *fact* is
what an actor reports (`EngineReady`, in `engine_facts` and `node_facts`). A *decision* is what a
router concludes from the state (`ModelAssigned`, in `decisions`). The id of the aggregate is in the
subject and never in the payload. Facts and decisions tolerate unknown fields, so that an older
actor can read a newer one's log.
"""

from typing import TypeAlias, get_args

from nebula.events.batch_facts import (
    BatchCancelled,
    BatchFinished,
    BatchProgressed,
    BatchStarted,
)
from nebula.events.capture_events import CaptureStarted, CaptureStopped
from nebula.events.decisions import (
    ClusterVersionRaised,
    EventRejected,
    ModelAssigned,
    ModelRolledBack,
    ModelScaled,
    ModelSlept,
    ModelUnloaded,
    ModelUnschedulable,
    ModelWoken,
    NodeLost,
    NodeSuspected,
    ResilienceChanged,
)
from nebula.events.engine_facts import (
    AdapterLoaded,
    AdapterLoadFailed,
    AdapterUnloaded,
    EngineFailed,
    EngineReady,
    EngineResumed,
    EngineStalled,
    EngineStarted,
    EngineStopped,
)
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
from nebula.events.node_facts import (
    ClusterFounded,
    DownloadFailed,
    DownloadFinished,
    DownloadProgressed,
    DownloadStarted,
    DownloadWaits,
    ModelMeasured,
    NodeDeregistered,
    NodeHeard,
    NodeRegistered,
    NodeStopped,
    WeightsRemoved,
)
from nebula.events.usage import UsageRolledUp

__all__ = [
    "AGGREGATES",
    "AGGREGATE_OF",
    "INTENTS",
    "REPORTS",
    "TYPES",
    "AdapterLoadFailed",
    "AdapterLoaded",
    "AdapterUnloaded",
    "AliasEvent",
    "BatchCancelled",
    "BatchEvent",
    "BatchFinished",
    "BatchProgressed",
    "BatchStarted",
    "CaptureEvent",
    "CaptureStarted",
    "CaptureStopped",
    "ClusterEvent",
    "ClusterFounded",
    "ClusterVersionRaised",
    "Decided",
    "DownloadFailed",
    "DownloadFinished",
    "DownloadProgressed",
    "DownloadStarted",
    "DownloadWaits",
    "EngineFailed",
    "EngineKillRequested",
    "EngineReady",
    "EngineResumed",
    "EngineStalled",
    "EngineStarted",
    "EngineStopped",
    "Event",
    "EventRejected",
    "KeyChanged",
    "KeyEvent",
    "KeyIssued",
    "KeyRevoked",
    "LimitsEvent",
    "LimitsSet",
    "ModelAssigned",
    "ModelEvent",
    "ModelMeasured",
    "ModelRolledBack",
    "ModelScaled",
    "ModelSlept",
    "ModelUnloaded",
    "ModelUnschedulable",
    "ModelWoken",
    "NodeDeregistered",
    "NodeEvent",
    "NodeHeard",
    "NodeLost",
    "NodeRegistered",
    "NodeStopped",
    "NodeSuspected",
    "Observed",
    "ReplicaEvent",
    "ResilienceChanged",
    "UsageEvent",
    "UsageRolledUp",
    "WeightsEvent",
    "WeightsRemoved",
]

AGGREGATES = (
    *("model", "replica", "node", "alias", "batch", "key", "limits", "usage"),
    *("log", "cluster", "capture"),
)

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
    | DownloadWaits
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
    | NodeStopped
    | NodeDeregistered
    | WeightsEvent
)
AliasEvent: TypeAlias = AliasRequested | AliasRemoveRequested
BatchEvent: TypeAlias = (
    BatchRequested
    | BatchStarted
    | BatchProgressed
    | BatchCancelRequested
    | BatchFinished
    | BatchCancelled
)
KeyEvent: TypeAlias = KeyIssued | KeyChanged | KeyRevoked
LimitsEvent: TypeAlias = LimitsSet
ClusterEvent: TypeAlias = ClusterFounded | ClusterVersionRaised | ResilienceChanged
CaptureEvent: TypeAlias = CaptureStarted | CaptureStopped
UsageEvent: TypeAlias = UsageRolledUp
Event: TypeAlias = (
    ModelEvent
    | ReplicaEvent
    | EngineKillRequested
    | NodeEvent
    | AliasEvent
    | BatchEvent
    | KeyEvent
    | LimitsEvent
    | CaptureEvent
    | UsageEvent
    | ClusterEvent
    | EventRejected
)
Observed: TypeAlias = (
    ModelScaled | ModelSlept | ModelWoken | NodeSuspected | NodeLost | ClusterVersionRaised
)
"""What a router concludes from what it sees beside the log, which the reason tells."""
Decided: TypeAlias = (
    ModelAssigned
    | ModelUnschedulable
    | ModelUnloaded
    | ModelRolledBack
    | EventRejected
    | ResilienceChanged
    | Observed
)
"""What a router concludes, from the state or from what it sees."""

AGGREGATE_OF: dict[str, str] = {
    **{event.__name__: "model" for event in get_args(ModelEvent)},
    **{event.__name__: "replica" for event in get_args(ReplicaEvent)},
    EngineKillRequested.__name__: "replica",
    **{event.__name__: "node" for event in get_args(NodeEvent)},
    **{event.__name__: "alias" for event in get_args(AliasEvent)},
    **{event.__name__: "batch" for event in get_args(BatchEvent)},
    **{event.__name__: "key" for event in get_args(KeyEvent)},
    LimitsSet.__name__: "limits",
    **{event.__name__: "capture" for event in get_args(CaptureEvent)},
    UsageRolledUp.__name__: "usage",
    **{event.__name__: "cluster" for event in get_args(ClusterEvent)},
    EventRejected.__name__: "log",
}
TYPES: dict[str, type[Event]] = {event.__name__: event for event in get_args(Event)}
REPORTS = frozenset(event.__name__ for event in (*get_args(ReplicaEvent), ModelMeasured))
"""Names of the events that a node writes about something else than itself: their subjects end with
the node's name."""
INTENTS = frozenset(
    name for name, event in TYPES.items() if event.__struct_config__.forbid_unknown_fields
)
"""Names of the events that anyone may publish."""
