"""In a rehearsal: an engine is killed, as if it had crashed, to see requests go on."""

from typing import Any

from litestar import Request, get, post
from msgspec import Struct

from nebula.actors.gateway.actor import Gateway
from nebula.events.intents import EngineKillRequested
from nebula.http.intents import known, submitted
from nebula.http.views import Accepted


class RehearsalView(Struct, frozen=True):
    """Whether engines may be killed on request: on the nodes that were started for it."""

    rehearsal: bool
    nodes: tuple[str, ...]


@get("/admin/rehearsal")
async def show_rehearsal(gateway: Gateway) -> RehearsalView:
    """Show the nodes that were started for a rehearsal."""
    nodes = gateway.projection.state.nodes
    found = tuple(sorted(node.id for node in nodes.values() if node.rehearsal and not node.away))
    return RehearsalView(bool(found), found)


@post("/admin/replicas/{replica:str}/kill", status_code=202)
async def kill_engine(request: Request[Any, Any, Any], replica: str, gateway: Gateway) -> Accepted:
    """Ask a replica's node to kill its engine; only a node in a rehearsal does.

    Its node reports the end as `EngineFailed`, with this request as the cause.
    """
    replicas = gateway.projection.state.replicas
    found = replicas.get(replica)
    pid = found.engine.pid if found is not None and found.engine is not None else None
    return await submitted(
        request,
        gateway,
        replica,
        EngineKillRequested(pid),
        there=lambda: known("replica", gateway.projection.state.replicas, replica),
    )
