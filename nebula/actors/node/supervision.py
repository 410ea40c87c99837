"""Watches a ready engine: reports a stall, and ends the engine if the stall lasts."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from nebula.actors.node.managed_engine import ManagedEngine
from nebula.actors.node.settings import NodeSettings
from nebula.actors.node.standstill import LOOK, Ended, Standstill
from nebula.events.state import Replica
from nebula.events.vocabulary import Event

log = logging.getLogger(__name__)

HUNG_GRACE = 5.0
"""Seconds that a stalled engine gets to end by itself, at most."""


async def supervise(
    engine: ManagedEngine,
    replica: Replica,
    settings: NodeSettings,
    report: Callable[[Event], Awaitable[object]],
) -> None:
    """Watch a ready engine until it is to end; end it if it has stalled for too long.

    `replica`: from the log, which may hold a stall that an earlier process of the node reported.
    `report` appends the engine's events.
    """
    now = asyncio.get_running_loop().time
    known = replica.engine
    told = known is not None and bool(known.stalled) and engine.told
    standstill = Standstill(settings.stall_limit, now(), told=told)
    while engine.process is not None and engine.stop_reason is None:
        engine.seen(engine.process, now())
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
