"""An actor's view of the cluster: the log folded as it grows, and a way to await a change of it."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from nebula.events.evolve import evolve
from nebula.events.record import Record
from nebula.events.state import EMPTY, State
from nebula.events.version import too_new
from nebula.store.connection import Unavailable
from nebula.store.log import Log
from nebula.store.snapshots import Snapshots

log = logging.getLogger(__name__)


REMEMBERED = 1000
"""Refused entries that a projection knows of: whoever asks has just written one."""


class NewerCluster(Exception):
    """The cluster goes by a version that this Nebula does not know; the text says which."""


class Projection:
    """The newest state that this process has folded."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.state: State = EMPTY
        self._changed = asyncio.Event()
        self._ended: Exception | None = None
        self._refused: dict[int, str] = {}
        self._listeners: list[Callable[[Record], None]] = []

    @property
    def ended(self) -> bool:
        """Whether the log turned out to be another one: nothing changes here any more."""
        return self._ended is not None

    def listen(self, listener: Callable[[Record], None]) -> None:
        """Have `listener` called with every entry that is folded from now on."""
        self._listeners.append(listener)

    async def restore(self) -> None:
        """Begin with the newest snapshot instead of an empty state. Without a good one, don't."""
        try:
            found = await Snapshots(self.log).newest()
        except Unavailable as error:
            log.warning("no snapshot to start from: %s", error)
            return
        if found is not None and found.seq > self.state.seq:
            self.state = found

    async def run(self) -> None:
        """Follow the log for ever. Raises LogReplaced when it is not the same log any more.

        Raise NewerCluster where this Nebula would read it otherwise than the rest of the cluster.
        """
        try:
            await self._follow()
        except Exception as error:
            self._ended = error
            self._changed.set()
            raise

    async def _follow(self) -> None:
        async for batch in self.log.follow(self.state.seq):
            state = self.state
            for record in batch:
                before, state = state, evolve(state, record)
                if state.rejections is not before.rejections:
                    self._note(state, record.seq)
                for listener in self._listeners:
                    listener(record)
            reason = too_new(state)
            if reason is not None:
                raise NewerCluster(reason)
            self.state = state
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    def _note(self, state: State, seq: int) -> None:
        rejection = state.rejections.get(seq)
        if rejection is None:
            return
        self._refused[seq] = rejection.reason
        if len(self._refused) > REMEMBERED:
            del self._refused[next(iter(self._refused))]

    def refusal(self, seq: int) -> str | None:
        """Say why an entry that was folded lately was not acted upon, None where it was.

        The state tells only until a router has answered it, which may be in the same breath.
        """
        return self._refused.get(seq)

    def changed(self) -> Coroutine[Any, Any, object]:
        """Give what to await for the next entries to be folded, counted from this very call.

        It raises what ended `run`: nothing changes any more then. No coroutine function: one that
        runs as a task would begin to wait only later, and miss what is folded before it does.
        """
        return self._next(self._changed)

    async def _next(self, changed: asyncio.Event) -> None:
        await changed.wait()
        if self._ended is not None:
            raise self._ended

    async def until(self, predicate: Callable[[State], bool], timeout: float | None = None) -> bool:
        """Wait until the state satisfies `predicate`; False when `timeout` seconds were too few.

        Raises what ended `run`.
        """
        if predicate(self.state):
            return True
        try:
            async with asyncio.timeout(timeout):
                while not predicate(self.state):
                    await self.changed()
        except TimeoutError:
            return False
        return True

    async def reached(self, seq: int, timeout: float | None = None) -> bool:
        """Wait until the entry at `seq` has been folded."""
        return await self.until(lambda state: state.seq >= seq, timeout)

    async def caught_up(self) -> None:
        """Wait until everything that is in the log now has been folded."""
        await self.reached(await self.log.last_seq())
