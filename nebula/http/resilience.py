"""`GET /admin/resilience`: what would have no place if a node were lost, now or at a moment."""

import asyncio
import time

from litestar import get
from msgspec import Struct

from nebula.actors.placement.resilience import NodeLoss, Resilience
from nebula.http.errors import ApiError
from nebula.http.history import read_moment, reading, state_at
from nebula.http.scanning import Scans
from nebula.http.shown_log import ShownLog


class ResiliencePage(Struct, frozen=True):
    """What the loss of each node would mean, after the event `seq`, in the order of their names.

    `next` is null, or the name of the node after which to ask again: a page ends when it took as
    much time as a request may take.
    """

    seq: int
    nodes: list[NodeLoss]
    next: str | None = None


@get("/admin/resilience")
async def show_resilience(
    past: ShownLog,
    scans: Scans,
    at: str | None = None,
    node: str | None = None,
    after: str = "",
) -> ResiliencePage:
    """Show for each node what would have no place if it were lost, now or `at` a moment."""
    state = past.state
    if at is not None:
        state = await state_at(past, scans, read_moment(at))
    if node is not None and node not in state.nodes:
        raise ApiError(404, f"there is no node {node!r}", param="node")
    found: list[NodeLoss] = []
    async with reading(scans) as scan:  # in a thread, as a log may leave much to decide
        began = time.monotonic()
        known = await asyncio.to_thread(Resilience, state)
        for each in known.nodes if node is None else (node,):
            if each <= after and node is None:
                continue
            if scan.over and found:
                return ResiliencePage(state.seq, found, found[-1].node)
            found.append(await asyncio.to_thread(known.loss, each))
            await scan.worked(time.monotonic() - began)
            began = time.monotonic()
    return ResiliencePage(state.seq, found)
