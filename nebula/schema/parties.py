"""Which roles publish on each subject, and which subscribe to it. Pure.

A role is a kind of NATS user. A channel without a row here fails a test, so that nothing new is
open to all roles, or closed to those that need it.
"""

from typing import Literal, TypeAlias, get_args

from msgspec import Struct

from nebula.schema.channel import Channel
from nebula.schema.channels import OTHERS, event_channels, kind_of

RoleName: TypeAlias = Literal[
    "gateway", "router", "node", "engine", "operator", "viewer", "provision", "admin"
]
"""What a NATS user may be.

`operator` is the command line, `viewer` one that only looks. `provision` creates the log and
imports one; `nebula up` has this role for its server. `admin` may do anything: for repairs and
backups with NATS's own tools.
"""

ROLES: tuple[RoleName, ...] = get_args(RoleName)


class Parties(Struct, frozen=True):
    """The roles that publish on a subject, and those that subscribe to it."""

    publish: tuple[RoleName, ...]
    subscribe: tuple[RoleName, ...] = ()


_NODE: tuple[RoleName, ...] = ("node",)
_GATEWAY: tuple[RoleName, ...] = ("gateway",)

_INTENTS: tuple[RoleName, ...] = ("gateway", "operator")
"""HTTP and the command line ask for something with the same events."""

_DECISIONS: dict[str, tuple[RoleName, ...]] = {"ModelAssigned": ("router", "operator")}
"""Decisions that not only a router writes: `nebula revert` returns to earlier plans."""

_FACTS: dict[str, tuple[RoleName, ...]] = {
    "ModelMeasured": _NODE,
    "EngineStarted": _NODE,
    "EngineReady": _NODE,
    "EngineFailed": _NODE,
    "EngineStopped": _NODE,
    "EngineStalled": _NODE,
    "EngineResumed": _NODE,
    "AdapterLoaded": _NODE,
    "AdapterLoadFailed": _NODE,
    "AdapterUnloaded": _NODE,
    "NodeRegistered": _NODE,
    "NodeHeard": ("router", "node"),
    "NodeStopped": _NODE,
    "NodeDeregistered": ("gateway", "operator"),
    "DownloadWaits": _NODE,
    "DownloadStarted": _NODE,
    "DownloadProgressed": _NODE,
    "DownloadFinished": _NODE,
    "DownloadFailed": _NODE,
    "WeightsRemoved": _NODE,
    "BatchStarted": _GATEWAY,
    "BatchProgressed": _GATEWAY,
    "BatchFinished": _GATEWAY,
    "BatchCancelled": _GATEWAY,
    "UsageRolledUp": _GATEWAY,
    "ClusterFounded": ("gateway", "router", "node"),
}
"""The actors that report each fact."""

_OTHERS: dict[str, Parties] = {
    "requests": Parties(("gateway", "router"), ("router",)),
    "routerRequests": Parties(_GATEWAY, ("router",)),
    "replicaRequests": Parties(("router", "gateway"), ("engine",)),
    "pushedBodies": Parties(_GATEWAY, ("engine",)),
    "leasesAsked": Parties(_GATEWAY, ("router",)),
    "leasesGranted": Parties(("router",), _GATEWAY),
    "leasesRecalled": Parties(("router",), ("gateway", "router")),
    "responses": Parties(("engine", "router", "gateway"), _GATEWAY),
    "bundles": Parties(("engine",), _GATEWAY),
    "claims": Parties(_GATEWAY),
    "ledger": Parties(_GATEWAY, _GATEWAY),
    "batchLines": Parties(_GATEWAY),
    "batchResults": Parties(_GATEWAY),
    "batchLeases": Parties(_GATEWAY),
    "usageOfRequests": Parties(_GATEWAY),
    "captured": Parties(_GATEWAY),
    "demand": Parties(("router",)),
    "usageOnce": Parties(_GATEWAY),
    "background": Parties(_GATEWAY),
    "storedResponses": Parties(_GATEWAY),
    "storedKeys": Parties(_GATEWAY),
    "conversations": Parties(_GATEWAY),
    "over": Parties(_GATEWAY, _GATEWAY),
    "cancel": Parties(_GATEWAY, ("router", "engine")),
    "finished": Parties(("engine",), ("router",)),
    "cache": Parties(("engine",), ("router", "gateway")),
    "waiting": Parties(("engine", "gateway"), _GATEWAY),
    "bodies": Parties(("engine",), _GATEWAY),
    "routerStatus": Parties(
        ("router",), ("gateway", "router", "node", "engine", "operator", "viewer")
    ),
    "nodeStatus": Parties(_NODE, ("router", "node", "operator", "viewer")),
    "replicaStatus": Parties(("engine",), ("gateway", "router", "operator", "viewer")),
    "storeStatus": Parties(("provision",), ("gateway", "operator", "viewer")),
    "gatewayMetrics": Parties(_GATEWAY, _GATEWAY),
    "routerMetrics": Parties(_GATEWAY, ("router",)),
    "nodeMetrics": Parties(_GATEWAY, _NODE),
    "inFlight": Parties(("gateway", "operator", "viewer"), ("gateway", "router")),
    "cancelInFlight": Parties(("gateway", "operator"), _GATEWAY),
    "logs": Parties(("gateway", "node", "operator"), _NODE),
}
"""The roles of the other subjects. What a stream keeps is also read through JetStream, for which
`stream_rights` has the permissions."""


def parties(channel: Channel) -> Parties:
    """Return the roles that publish on a channel and subscribe to it. Raise KeyError for none.

    Events are read from the log, never by a subscription.
    """
    if channel.name in _OTHERS:
        return _OTHERS[channel.name]
    kind = kind_of(channel.name)
    if kind == "fact":
        return Parties(_FACTS[channel.name])
    if kind == "decision":
        return Parties(_DECISIONS.get(channel.name, ("router",)))
    return Parties(_INTENTS)


def channels() -> tuple[Channel, ...]:
    """Return every channel, those of events first."""
    return (*event_channels(), *OTHERS)
