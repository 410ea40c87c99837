"""`nebula top` in a terminal that a test reads: what is on it, and what is pressed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from textual.pilot import Pilot

from nebula.cli.top.app import Top
from nebula.cli.top.source import Source
from nebula.events.state import State


class Screen:
    """What is on the terminal, and what is pressed."""

    def __init__(self, app: Top, pilot: Pilot[str]) -> None:
        self.app = app
        self.pilot = pilot

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    @property
    def lines(self) -> list[str]:
        strips = self.app.screen._compositor.render_strips()
        return ["".join(segment.text for segment in strip).rstrip() for strip in strips]

    async def sees(self, *words: str) -> list[str]:
        """Wait until all words are on the terminal; return its lines."""
        try:
            async with asyncio.timeout(30):
                while not all(word in "\n".join(self.lines) for word in words):
                    await self.pilot.pause(0.02)
        except TimeoutError:
            shown = "\n".join(self.lines)
            raise AssertionError(f"{words} is not what is seen:\n{shown}") from None
        return self.lines


@asynccontextmanager
async def opened_top(
    source: Source, state: State | None = None, size: tuple[int, int] = (80, 24)
) -> AsyncIterator[Screen]:
    app = Top(source, "a log", state)
    async with app.run_test(size=size) as pilot:
        yield Screen(app, pilot)
