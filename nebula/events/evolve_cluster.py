"""The fold of the cluster's own events: its id, name and version, and what it can lose."""

from msgspec.structs import replace

from nebula.events.cluster import Cluster, Risks
from nebula.events.record import Record
from nebula.events.state import State
from nebula.events.version import SINCE, behind, premature
from nebula.events.vocabulary import ClusterEvent, ClusterFounded, ResilienceChanged


def cluster_objection(state: State, identity: str, event: ClusterEvent) -> str | None:
    """Return why an event of a cluster does not count; people may publish one too."""
    known = state.cluster
    if isinstance(event, ClusterFounded):
        return f"this log is of cluster {known.id!r}" if known.id else None
    if identity != known.id:
        return f"this log is of cluster {known.id!r}" if known.id else "no cluster is founded"
    if isinstance(event, ResilienceChanged):
        return premature(state, event, SINCE)
    if event.version != known.version + 1:
        return f"version: the next one is {known.version + 1}"
    late = behind(state, event.version)
    return f"version: node {late[0]!r} does not know {event.version}" if late else None


def fold_cluster(state: State, record: Record, event: ClusterEvent) -> State:
    """Fold a valid event of the cluster."""
    if isinstance(event, ClusterFounded):
        return replace(
            state, cluster=Cluster(record.id, event.name, event.version, changed=record.seq)
        )
    if isinstance(event, ResilienceChanged):
        risks = Risks(event.nodes, event.count, event.models, record.seq, record.time)
        return replace(state, cluster=replace(state.cluster, risks=risks))
    cluster = replace(state.cluster, version=event.version, changed=record.seq)
    return replace(state, cluster=cluster)
