"""Works out, beside a router's other work, which nodes could not be lost; see `standing_check`."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from nebula.actors.placement.decision import Decision
from nebula.actors.placement.resilience import NodeLoss, Resilience
from nebula.actors.router.standing_check import LOOK, SHARE, StandingCheck
from nebula.events.state import State

TURN = 0.002
"""Seconds of work after which the router's other work goes on."""


class LossWatch:
    """Runs the standing check. `state`: returns the newest state; `append`: adds to the log.

    `chosen`: returns whether this router is to look at a state now. Other routers would
    find the same, so that one is enough.
    """

    def __init__(
        self,
        state: Callable[[], State],
        chosen: Callable[[State], bool],
        append: Callable[[State, tuple[Decision, ...]], Awaitable[None]],
    ) -> None:
        self._state = state
        self._chosen = chosen
        self._append = append

    async def run(self) -> None:
        """Look for ever."""
        check = StandingCheck(time.monotonic())
        while True:
            await asyncio.sleep(LOOK)
            state = self._state()
            if not self._chosen(state):
                continue
            if check.wanted(state):
                check.take(state, await losses(state), time.monotonic())
            state = self._state()
            due = check.due(state, time.monotonic())
            if due is not None and self._chosen(state):
                await self._append(state, (due,))


async def losses(state: State) -> list[NodeLoss]:
    """Return what the loss of each node would mean, where no decisions are due.

    It takes `SHARE` of the time at most. Where it is certain that everything has a place, nothing
    is decided.
    """
    known = Resilience(state, settle=False)
    found: list[NodeLoss] = []
    began = time.monotonic()

    async def pause() -> None:
        nonlocal began
        worked = time.monotonic() - began
        if worked > TURN:
            await asyncio.sleep(worked * (1 - SHARE) / SHARE)
            began = time.monotonic()

    for node in known.nodes:
        if known.survives(node):
            await pause()
            continue
        steps = known.steps(node)
        while True:
            await pause()
            try:
                next(steps)
            except StopIteration as ended:
                found.append(ended.value)
                break
    return found
