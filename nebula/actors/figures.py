"""What an actor tells at a scrape: its figures, collected when they are asked for.

What changes under way is read at once, on the event loop; what follows from the folded state, and
the text, is made in a thread, so that a large cluster does not delay the actor's work.
"""

import asyncio
import time
from importlib.metadata import version
from typing import ClassVar

from nebula.actors.actor import Actor
from nebula.events.state import State
from nebula.metrics.exposition import Exposition, of_actor
from nebula.metrics.metric import ActorKind
from nebula.metrics.sheet import Sheet
from nebula.store.connection import Unavailable

PATIENCE = 2.0
"""Seconds that a scrape waits for what it asks NATS."""


class Figures:
    """The figures of one actor; for each kind of actor there is a subclass.

    `identity`: the labels that say which actor it is. `address`: HOST:PORT at which they can be
    scraped; empty for nowhere.
    """

    kind: ClassVar[ActorKind]

    def __init__(self, actor: Actor, **identity: str) -> None:
        self.actor = actor
        self._identity = identity
        self.address = ""
        self._reconnects = 0
        self._version = version("nebula-serving")
        self._scraping = asyncio.Lock()
        actor.connection.on_reconnect(self._on_reconnect)

    async def scrape(self, accept: str = "") -> Exposition:
        """Return all figures, in the form that a scraper's `Accept` asks for."""
        async with self._scraping:
            sheet = Sheet(self.kind, self._identity)
            await asyncio.gather(self._look_at_log(sheet), self.look(sheet))
            self._own(sheet)
            self.now(sheet)
            state = self.actor.projection.state
            return await asyncio.to_thread(self._text, sheet, state, accept)

    async def look(self, sheet: Sheet) -> None:
        """Add what has to be asked of NATS."""

    def now(self, sheet: Sheet) -> None:
        """Add what the actor itself has and has counted."""

    def folded(self, sheet: Sheet, state: State) -> None:
        """Add what follows from the folded state. It runs in a thread."""

    def _text(self, sheet: Sheet, state: State, accept: str) -> Exposition:
        self.folded(sheet, state)
        return of_actor(sheet, accept)

    async def _look_at_log(self, sheet: Sheet) -> None:
        actor = self.actor
        try:
            async with asyncio.timeout(PATIENCE):
                last = await actor.log.last_seq()
        except (Unavailable, TimeoutError):
            return
        sheet.add("nebula_log_sequence", last)
        sheet.add("nebula_fold_lag_events", max(0, last - actor.projection.state.seq))

    def _own(self, sheet: Sheet) -> None:
        actor, state = self.actor, self.actor.projection.state
        sheet.add("nebula_build_info", 1, self.kind, self._version)
        sheet.add("nebula_nats_connected", int(actor.connection.connected))
        sheet.add("nebula_nats_reconnects_total", self._reconnects)
        sheet.add("nebula_folded_sequence", state.seq)
        if state.time:
            age = max(0.0, (time.time_ns() - state.time) / 1e9)
            sheet.add("nebula_event_age_seconds", age)

    async def _on_reconnect(self) -> None:
        self._reconnects += 1
