"""On a rehearsal cluster: an engine is killed, as if it had crashed, to see requests go on."""

import logging
import os
import signal
import socket
from typing import Any

from litestar import Request, get, post
from msgspec import Struct

from nebula.actors.gateway.actor import Gateway
from nebula.actors.node.identity import birth
from nebula.events.advised import command
from nebula.http.errors import ApiError
from nebula.http.intents import known
from nebula.http.origins import Doors
from nebula.http.principals import principal_of

log = logging.getLogger(__name__)


class RehearsalView(Struct, frozen=True):
    """Whether engines may be killed through this gateway."""

    rehearsal: bool


class Killed(Struct, frozen=True):
    """The engine of a replica was killed; its node reports its end as `EngineFailed`."""

    replica: str
    pid: int


@get("/admin/rehearsal")
async def show_rehearsal(doors: Doors) -> RehearsalView:
    """Show whether this gateway was started for a rehearsal."""
    return RehearsalView(doors.rehearsal)


@post("/admin/replicas/{replica:str}/kill", status_code=202)
async def kill_engine(
    request: Request[Any, Any, Any], replica: str, gateway: Gateway, doors: Doors
) -> Killed:
    """Kill a replica's engine on this gateway's machine; only in a rehearsal."""
    if not doors.rehearsal:
        run = command("up", "--rehearsal")
        text = f"this is not a rehearsal: engines are killed only where {run} was said"
        raise ApiError(409, text, code="no_rehearsal")
    state = gateway.projection.state
    found = known("replica", state.replicas, replica)
    node = state.nodes.get(found.node)
    if node is None or node.host != socket.gethostname():
        text = f"{replica} runs on {found.node}, which is another machine than this gateway's"
        raise ApiError(409, text, param="replica", code="refused")
    engine = found.engine
    # The birth tells the engine from another process that has its number by now.
    if engine is None or not engine.birth or birth(engine.pid) != engine.birth:
        text = f"{replica} has no engine now that this gateway can see"
        raise ApiError(409, text, param="replica", code="refused")
    by = principal_of(request.scope).name
    log.warning("rehearsal: %s kills the engine of %s, process %d", by, replica, engine.pid)
    try:
        os.kill(engine.pid, signal.SIGKILL)
    except OSError as error:
        text = f"process {engine.pid} can't be killed: {error.strerror}"
        raise ApiError(409, text, param="replica", code="refused") from error
    return Killed(replica, engine.pid)
