"""Raises the cluster version once all heard routers and all registered nodes know the next one.

Routers report the version that they know in their heartbeats, nodes in their registration. Pure:
times are seconds of the router's own clock.
"""

from collections.abc import Mapping

from nebula.actors.placement.decision import Decision
from nebula.events.state import State
from nebula.events.version import VERSION, behind
from nebula.events.vocabulary import ClusterVersionRaised

HEARD_FOR = 10.0
"""Seconds for which every heard router must have known the version: ten heartbeats."""


class Readers:
    """The versions that other routers know, and when each was last heard."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._reads: dict[str, tuple[float, int]] = {}

    def heard(self, router: str, reads: int, now: float) -> None:
        """Take a router's heartbeat."""
        self._reads[router] = (now, reads)

    def restart(self, now: float) -> None:
        """Start counting now, because nothing could be heard before."""
        self._since = now
        self._reads.clear()

    def known(self, now: float) -> Mapping[str, int] | None:
        """Return which version each heard router knows; None before listening for long enough."""
        self._reads = {
            router: (at, reads)
            for router, (at, reads) in self._reads.items()
            if now - at <= HEARD_FOR
        }
        if now - self._since < HEARD_FOR:
            return None
        return {router: reads for router, (_, reads) in sorted(self._reads.items())}


def decide_raise(
    state: State, readers: Mapping[str, int] | None, version: int = VERSION
) -> Decision | None:
    """Return the next cluster version if all know it; `version`: what this router knows."""
    cluster = state.cluster
    following = cluster.version + 1
    if readers is None or not cluster.id or following > version or behind(state, following):
        return None
    if any(reads < following for reads in readers.values()):
        return None
    nodes = sum(not node.away for node in state.nodes.values())
    reason = (
        f"{len(readers) + 1} routers and {nodes} nodes know version {following}; "
        f"none that does not was heard within {HEARD_FOR:g} s"
    )
    return Decision(cluster.id, ClusterVersionRaised(following, reason), max(cluster.changed, 1))
