"""Every log belongs to one cluster: the first actor founds it, and no actor joins another one."""

import asyncio
import logging
import uuid

from nebula.actors.projection import Projection
from nebula.events import subjects
from nebula.events.cluster import Cluster
from nebula.events.log_fields import event_fields
from nebula.events.version import VERSION
from nebula.events.vocabulary import ClusterFounded
from nebula.store.connection import Unavailable
from nebula.store.log import Conflict, Guard

log = logging.getLogger(__name__)

_PATIENCE = 4.0


class OtherCluster(Exception):
    """The log belongs to a different cluster than requested."""


async def found(projection: Projection, name: str) -> Cluster:
    """Return the cluster that the log belongs to; found it as `name` if there is none.

    `name`: the name or id that it must have; empty: any. A new log begins with the newest cluster
    version; a log that is older than cluster versions begins with 0. Raise OtherCluster.
    """
    while not (known := projection.state.cluster).id:
        await _append(projection, name)
    if name and name not in (known.name, known.id):
        raise OtherCluster(
            f"the log at {projection.log.connection.shown} is of cluster {told(known)}, not of "
            f"{name!r}: name that one with --cluster, or use another NATS"
        )
    return known


def told(cluster: Cluster) -> str:
    """Return a cluster's name for people."""
    return f"{cluster.name!r} ({cluster.id})" if cluster.name else repr(cluster.id)


async def _append(projection: Projection, name: str) -> None:
    fresh = projection.state.seq == 0
    guard = Guard(subjects.EVENTS if fresh else subjects.CLUSTER_EVENTS, 0)
    event = ClusterFounded(name, VERSION if fresh else 0)
    identity = uuid.uuid4().hex[:12]
    try:
        seq = await projection.log.append(identity, event, guard=guard, patience=_PATIENCE)
        log.info("founded cluster %s", told(Cluster(identity, name)), extra=event_fields(seq))
        await projection.reached(seq)
    except Conflict:
        # Another actor was first: its event will arrive.
        await asyncio.sleep(0.05)
    except Unavailable as error:
        log.warning("the cluster can't be founded yet: %s", error)
        await asyncio.sleep(0.25)
