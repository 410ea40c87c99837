"""Watches a ready engine: its standstill is told, and one that lasts is ended."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from nebula.actors.node.running import NodeEngine
from nebula.actors.node.settings import NodeSettings
from nebula.actors.node.standstill import LOOK, Ended, Standstill
from nebula.events.state import Replica
from nebula.events.vocabulary import Event

log = logging.getLogger(__name__)

HUNG_GRACE = 5.0
"""Seconds that an engine which stands still gets to end by itself, at most."""


async def supervise(
    engine: NodeEngine,
    replica: Replica,
    settings: NodeSettings,
    report: Callable[[Event], Awaitable[object]],
) -> None:
    """Look at a ready engine until it is to end; end it where it has stood still for too long.

    `replica`: as the log has it, which may know that the engine stands still from an earlier
    process of the node. `report` tells the log what the engine does.
    """
    now = asyncio.get_running_loop().time
    known = replica.engine
    told = known is not None and bool(known.stalled) and engine.told
    standstill = Standstill(settings.stall_limit, now(), told=told)
    while engine.process is not None and engine.stop_reason is None:
        match await engine.look(standstill, now):
            case None:
                pass
            case Ended(reason=reason):
                engine.hung = reason
                log.warning("%s is ended: %s", engine.replica, reason)
                await engine.process.end(min(settings.grace, HUNG_GRACE))
                return
            case event:
                log.warning("%s: %s", engine.replica, event)
                await report(event)
        await asyncio.sleep(LOOK)
