"""An actor's view of the cluster: folds the log as it grows, and lets callers await changes.

A state is made when it is asked for: while an actor reads a long log, hardly any is.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from nebula.events.folding import Folding
from nebula.events.record import Record
from nebula.events.state import EMPTY, Rejection, State
from nebula.events.version import too_new
from nebula.store.connection import Unavailable
from nebula.store.log import Log
from nebula.store.snapshots import Snapshots

log = logging.getLogger(__name__)


REMEMBERED = 1000
"""Rejected entries that a projection remembers, for callers that have just written one."""


class NewerCluster(Exception):
    """The cluster has a version that this Nebula does not know; the text says which."""


class Projection:
    """The newest state that this process has folded."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self._folding = Folding(EMPTY)
        self._seen: State = EMPTY
        self._unseen = False
        self._changed = asyncio.Event()
        self._ended: Exception | None = None
        self._refused: dict[int, str] = {}
        self._listeners: list[Callable[[Record], None]] = []

    @property
    def state(self) -> State:
        """The state after all that was folded so far."""
        if self._unseen:
            self._seen = self._folding.state()
            self._unseen = False
        return self._seen

    @state.setter
    def state(self, state: State) -> None:
        self._folding, self._seen, self._unseen = Folding(state), state, False

    @property
    def seq(self) -> int:
        """The sequence of the last entry that was folded, without making a state."""
        return self._folding.seq if self._unseen else self._seen.seq

    @property
    def ended(self) -> bool:
        """Whether the log was replaced by another one, so that nothing changes here any more."""
        return self._ended is not None

    def listen(self, listener: Callable[[Record], None]) -> None:
        """Call `listener` with every entry from now on, before it is folded."""
        self._listeners.append(listener)

    async def restore(self) -> None:
        """Begin with the newest snapshot, or with an empty state if there is no valid one."""
        try:
            found = await Snapshots(self.log).newest()
        except Unavailable as error:
            log.warning("no snapshot to start from: %s", error)
            return
        if found is not None and found.seq > self.seq:
            self.state = found

    async def run(self) -> None:
        """Follow the log for ever. Raise LogReplaced when it is no longer the same log.

        Raise NewerCluster if this Nebula would read it differently from the rest of the cluster.
        """
        try:
            await self._follow()
        except Exception as error:
            self._ended = error
            self._changed.set()
            raise

    async def _follow(self) -> None:
        folding = self._folding
        self._check(folding)  # that of a snapshot: nothing may follow it for long
        async for batch in self.log.follow(folding.seq):
            for listener in self._listeners:
                for record in batch:
                    listener(record)
            self._unseen = False  # if the check fails, the state that was seen last stays
            for rejection in folding.take(batch):
                self._note(rejection)
            self._check(folding)
            self._unseen = True
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    def _check(self, folding: Folding) -> None:
        reason = too_new(folding)
        if reason is not None:
            raise NewerCluster(reason)

    def _note(self, rejection: Rejection) -> None:
        self._refused[rejection.seq] = rejection.reason
        if len(self._refused) > REMEMBERED:
            del self._refused[next(iter(self._refused))]

    def refusal(self, seq: int) -> str | None:
        """Return why a recently folded entry was rejected, None if it was not.

        The state has this only until a router has answered the entry, which may happen at once.
        """
        return self._refused.get(seq)

    def changed(self) -> Coroutine[Any, Any, object]:
        """Return an awaitable for the next folded entries, counted from this call.

        It raises the error that ended `run`, after which nothing changes. It is not a coroutine
        function: as a task, that would begin to wait later and miss entries folded before.
        """
        return self._next(self._changed)

    async def _next(self, changed: asyncio.Event) -> None:
        await changed.wait()
        if self._ended is not None:
            raise self._ended

    async def until(self, predicate: Callable[[State], bool], timeout: float | None = None) -> bool:
        """Wait until the state satisfies `predicate`; return False after `timeout` seconds.

        Raise the error that ended `run`.
        """
        return await self._until(lambda: predicate(self.state), timeout)

    async def _until(self, holds: Callable[[], bool], timeout: float | None) -> bool:
        if holds():
            return True
        try:
            async with asyncio.timeout(timeout):
                while not holds():
                    await self.changed()
        except TimeoutError:
            return False
        return True

    async def reached(self, seq: int, timeout: float | None = None) -> bool:
        """Wait until the entry at `seq` has been folded.

        Return False after `timeout` seconds. Raise the error that ended `run`.
        """
        return await self._until(lambda: self.seq >= seq, timeout)

    async def caught_up(self) -> None:
        """Wait until everything that is now in the log has been folded."""
        await self.reached(await self.log.last_seq())
