"""The cluster version: the rules by which a log is read, and what it may contain. Pure.

It is recorded in the log, so that the meaning of an event never depends on which Nebula folds it.
Version 0 is Nebula before there were cluster versions. It is raised by one once all routers and
nodes know the next one.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from nebula.events.cluster import Cluster
from nebula.events.intents import ModelLoadRequested
from nebula.events.record import Record
from nebula.events.state import State
from nebula.events.values import SecretReference
from nebula.events.vocabulary import REPORTS, Event

VERSION = 5
"""The newest cluster version that this Nebula knows."""

SIZES = 1
"""The version from which intents are bounded in size."""

ADAPTERS_STAY = 2
"""The version from which a load request leaves adapters alone that were loaded at run time, and
those that it no longer names answer until its replicas serve."""

BATCHES = 4
"""The version from which a log may contain batches."""

LOCKS = 5
"""The version from which a log may contain API keys and what was used, and reports of nodes
have the node in their subject."""
CAPTURES = 5
"""The version from which a log may contain captures of requests."""
SECRETS = 5
"""The version from which variables may be secrets by name, and what looks like a secret in clear is
refused."""

RESILIENCE = 5
"""The version from which a log may say which nodes' loss would leave replicas without a place."""

REHEARSALS = 5
"""The version from which a log may ask a node to kill an engine."""

SINCE: Mapping[str, Mapping[str, int]] = {
    "NodeStopped": {"": 2},
    "BatchRequested": {"": BATCHES},
    "BatchStarted": {"": BATCHES},
    "BatchProgressed": {"": BATCHES},
    "BatchCancelRequested": {"": BATCHES},
    "BatchFinished": {"": BATCHES},
    "BatchCancelled": {"": BATCHES},
    "KeyIssued": {"": LOCKS},
    "KeyChanged": {"": LOCKS},
    "KeyRevoked": {"": LOCKS},
    "LimitsSet": {"": LOCKS},
    "UsageRolledUp": {"": LOCKS},
    "ResilienceChanged": {"": RESILIENCE},
    "CaptureStarted": {"": CAPTURES},
    "CaptureStopped": {"": CAPTURES},
    "EngineKillRequested": {"": REHEARSALS},
}
"""By type of event: the version that introduced a field or, with "" as the field, the type; older
ones are not listed. It lists everything that was added to an intent, and everything that older
routers would decide differently upon."""

VALUES_SINCE: Mapping[str, Mapping[str, Mapping[object, int]]] = {
    "ModelLoadRequested": {
        "task": dict.fromkeys(("classify", "score", "pooling", "transcription"), 3)
    }
}
"""By type of event and field: the version that introduced a value of an older field."""

_NONE: Mapping[str, int] = {}
_NO_VALUES: Mapping[str, Mapping[object, int]] = {}


class Clustered(Protocol):
    """A state, or one in the making, which tells its cluster."""

    @property
    def cluster(self) -> Cluster:
        """The cluster of the log."""


def too_new(state: Clustered) -> str | None:
    """Return why this Nebula must not act upon a log; None if it may."""
    version = state.cluster.version
    if version <= VERSION:
        return None
    return (
        f"this cluster goes by version {version}, and this Nebula knows up to {VERSION}: "
        "it would read the log otherwise than the others; run the version that they run"
    )


def premature(state: State, event: Event, since: Mapping[str, Mapping[str, int]]) -> str | None:
    """Return why an event can't count yet: not every actor would understand it."""
    name = type(event).__name__
    if name not in since and name not in VALUES_SINCE:
        return None
    version = state.cluster.version
    for what, needed in _needs(event, since):
        if needed > version:
            return (
                f"{what} needs cluster version {needed}, and this cluster goes by {version} until "
                "all of its routers and nodes run a Nebula that knows it"
            )
    return None


def reporter(state: State, event: Event, node: str) -> str:
    """Return the node for the subject of an event that it writes; "" if it has no place there.

    It has none in events about the node itself, and in reports before the version `LOCKS`, which
    older routers would not understand.
    """
    return node if state.cluster.version >= LOCKS and type(event).__name__ in REPORTS else ""


def came_late(state: State, event: Event, seq: int) -> bool:
    """Return whether a report without its node in the subject was stored too late to count.

    Its writer did not know yet that the version was raised.
    """
    cluster = state.cluster
    late = cluster.version >= LOCKS and cluster.changed < seq
    return late and type(event).__name__ in REPORTS


def unnamed(state: State, record: Record) -> str | None:
    """Return why a report does not count whose subject does not name the node; None if it does.

    NATS lets a node publish only subjects with its own name, so that the subject proves whose
    report it is.
    """
    if record.node or state.cluster.version < LOCKS or record.type not in REPORTS:
        return None
    return f"a report ends with its node from cluster version {LOCKS} on: {record.subject}.<node>"


def behind(state: State, version: int) -> list[str]:
    """Return the nodes that run, for all that is known, and do not know a version."""
    return [
        identity
        for identity, node in sorted(state.nodes.items())
        if not node.away and node.reads < version
    ]


def _needs(event: Event, since: Mapping[str, Mapping[str, int]]) -> Iterator[tuple[str, int]]:
    kind: Any = type(event)
    name = kind.__name__
    for field, needed in since.get(name, _NONE).items():
        if not field:
            yield name, needed
        elif getattr(event, field) != getattr(kind(*_required(event)), field):
            yield f"{field}: it", needed
    for field, values in VALUES_SINCE.get(name, _NO_VALUES).items():
        if (value := getattr(event, field)) in values:
            yield f"{field} {value}: it", values[value]
    if isinstance(event, ModelLoadRequested):
        for variable, value in event.env.items():
            if isinstance(value, SecretReference):
                yield f"env: {variable} as a secret by name: it", SECRETS


def _required(event: Event) -> list[object]:
    fields = event.__struct_fields__
    without = len(fields) - len(event.__struct_defaults__)
    return [getattr(event, field) for field in fields[:without]]
