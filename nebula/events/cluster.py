"""The cluster in its own state: its name and version, and which nodes it could not lose. Pure."""

from msgspec import Struct

from nebula.events.alike import NAMED
from nebula.events.decisions import NodeRisk


class Risks(Struct, frozen=True, gc=False):
    """What a router last said of the loss of nodes, with the event `changed` at `since` (ns).

    `nodes`: the worst of the `count` nodes whose loss would leave replicas without a place.
    `models`: how many models the loss of some node would leave short.
    """

    nodes: tuple[NodeRisk, ...] = ()
    count: int = 0
    models: int = 0
    changed: int = 0
    since: int = 0


class Cluster(Struct, frozen=True, gc=False):
    """The cluster of the log, and its version; without an id, none was founded yet."""

    id: str = ""
    name: str = ""
    version: int = 0
    changed: int = 0
    risks: Risks = Risks()


def at_risk(risks: Risks) -> str:
    """Return which nodes could not be lost, in words; "" if each could."""
    if not risks.count:
        return ""
    named = ", ".join(each.node for each in risks.nodes[:NAMED])
    more = f" and {risks.count - NAMED} more" if risks.count > NAMED else ""
    models = "1 model" if risks.models == 1 else f"{risks.models} models"
    return f"the loss of {named}{more} would leave replicas of {models} without a place"
