"""Every log is of one cluster: the first actor founds it there, and no actor joins another one."""

import asyncio
import logging
import uuid

from nebula.actors.projection import Projection
from nebula.events import subjects
from nebula.events.state import Cluster
from nebula.events.version import VERSION
from nebula.events.vocabulary import ClusterFounded
from nebula.store.connection import Unavailable
from nebula.store.log import Conflict, Guard

log = logging.getLogger(__name__)

_PATIENCE = 4.0


class OtherCluster(Exception):
    """The log is of another cluster than the one that was asked for."""


async def found(projection: Projection, name: str) -> Cluster:
    """Return the cluster that the log is of, founding it as `name` where it is of none.

    `name`: the name or id that it must have; empty: whatever it is. A new log begins with the
    newest cluster version, one of before there were any with 0. Raise OtherCluster.
    """
    while not (known := projection.state.cluster).id:
        await _append(projection, name)
    if name and name not in (known.name, known.id):
        raise OtherCluster(
            f"the log at {projection.log.connection.url} is of cluster {told(known)}, not of "
            f"{name!r}: name that one with --cluster, or use another NATS"
        )
    return known


def told(cluster: Cluster) -> str:
    """Return how a cluster is called, for people."""
    return f"{cluster.name!r} ({cluster.id})" if cluster.name else repr(cluster.id)


async def _append(projection: Projection, name: str) -> None:
    fresh = projection.state.seq == 0
    guard = Guard(subjects.EVENTS if fresh else subjects.CLUSTER_EVENTS, 0)
    event = ClusterFounded(name, VERSION if fresh else 0)
    identity = uuid.uuid4().hex[:12]
    try:
        seq = await projection.log.append(identity, event, guard=guard, patience=_PATIENCE)
        log.info("founded cluster %s", told(Cluster(identity, name)))
        await projection.reached(seq)
    except Conflict:
        # Another actor was first: what it wrote is on its way.
        await asyncio.sleep(0.05)
    except Unavailable as error:
        log.warning("the cluster can't be founded yet: %s", error)
        await asyncio.sleep(0.25)
