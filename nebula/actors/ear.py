"""Notes which heartbeats an actor hears, and moves its connection to where it hears more.

The decisions are in `deafness.py`. A process has one ear and one connection that moves.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Set

from nebula.actors import deafness
from nebula.actors.deafness import ANY_ROUTER, Heard, Past
from nebula.events import subjects
from nebula.events.state import EMPTY, State
from nebula.store import elsewhere
from nebula.store.connection import Connection
from nebula.store.reach import reach
from nebula.store.wire import Arrival

log = logging.getLogger(__name__)

LOOK = 1.0
"""Seconds between two checks of which actors are missed."""

ABSENT = 3.0
"""Seconds between two looks after which this process itself has stood still."""

ROUTER_KEPT = 60.0
"""Seconds for which a router is missed that was heard before: the log does not tell which routers
live."""

MOST_SERVERS = 8
"""Servers at which an actor listens at once."""


class Ear:
    """Notes heartbeats on their way to their receivers.

    Args:
        connection: what it hears through, and what it moves.
        state: returns the folded log.
        expected: returns the heartbeat subjects that should be heard, by the log.
        each_router: whether each router that was heard is expected to be heard again.
        any_router: whether some router is.
        own: the subject of the actor's own heartbeats, where it hears them.
    """

    def __init__(
        self,
        connection: Connection,
        state: Callable[[], State] = lambda: EMPTY,
        expected: Callable[[State], Iterable[bytes]] = lambda _: (),
        *,
        each_router: bool = False,
        any_router: bool = True,
        own: str = "",
    ) -> None:
        self._connection = connection
        self._state = state
        self._expected = expected
        self._living: tuple[State | None, frozenset[bytes]] = (None, frozenset())
        self._each_router = each_router
        self._any_router = any_router
        self._own = own.encode()
        self._patterns: list[str] = []
        self._heard: dict[bytes, float] = {}
        self._since = self._looked = 0.0
        self._past = Past()
        self._missing: frozenset[bytes] = frozenset()
        self._alone = False

    def noting(self, pattern: str, arrival: Arrival | None = None) -> Arrival:
        """Return what to call for each heartbeat on a pattern, in place of `arrival`."""
        self._patterns.append(pattern)
        heard, now = self._heard, asyncio.get_running_loop().time

        def noted(subject: bytes, header: bytes, body: bytes) -> None:
            heard[subject] = now()
            if arrival is not None:
                arrival(subject, header, body)

        return noted

    def told(self) -> str:
        """Return in words which actors are missed and not heard elsewhere either; "" if none."""
        if not self._missing:
            return ""
        return f"not heard at {self._connection.server}: {deafness.told(self._missing)}"

    async def run(self) -> None:
        """Look for ever."""
        self._connection.on_reconnect(self._restart)
        await self._restart()
        while True:
            await asyncio.sleep(LOOK)
            try:
                await self._look()
            except Exception:
                log.exception("%s: can't look for another NATS server", self._connection.name)

    async def _restart(self) -> None:
        """Count every silence from now on: nothing could be heard until now."""
        self._since = self._looked = asyncio.get_running_loop().time()
        self._missing = frozenset()

    async def _look(self) -> None:
        now, before = asyncio.get_running_loop().time(), self._looked
        self._looked = now
        if now - before > ABSENT or not self._connection.connected:
            await self._restart()
            return
        self._missing = deafness.missed(self._wanted(now), self._heard, self._since, now)
        if not self._missing:
            self._past = deafness.heard_all(self._past, now)
        elif deafness.due(self._missing, self._past, now):
            self._past = deafness.listened(self._missing, self._past, now)
            await self._listen(self._missing)
            self._looked = asyncio.get_running_loop().time()

    def _wanted(self, now: float) -> set[bytes]:
        """Return the actors that should be heard; the time of a new one starts now."""
        state = self._state()
        if self._living[0] is not state:
            self._living = state, frozenset(self._expected(state))
        wanted = set(self._living[1])
        newest = self._since
        for subject, at in tuple(self._heard.items()):
            if subject.startswith(_ROUTERS) and subject != self._own:
                newest = max(newest, at)
                if self._each_router and now - at <= ROUTER_KEPT:
                    wanted.add(subject)
            if subject not in wanted and now - at > ROUTER_KEPT:
                del self._heard[subject]
        if self._any_router:
            wanted.add(ANY_ROUTER)
            self._heard[ANY_ROUTER] = newest
        for subject in wanted:
            self._heard.setdefault(subject, now)
        return wanted

    async def _listen(self, missing: frozenset[bytes]) -> None:
        """Listen at the other servers, and move where more is heard there."""
        connection = self._connection
        servers = connection.others[:MOST_SERVERS]
        if not servers:
            if not self._alone and connection.client.in_cluster:
                log.warning("%s: %s, and no other server is known", connection.name, self.told())
            self._alone = True
            return
        since, wanted = self._since, self._here() | missing
        asking = asyncio.create_task(reach(connection))
        listening = {asyncio.create_task(self._at(server, wanted)) for server in servers}
        there: dict[str, Heard] = {}
        pending = set(listening)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                there.update(pair for task in done if (pair := task.result()) is not None)
                if any(
                    each.log and deafness.covered(wanted, each.subjects) for each in there.values()
                ):
                    break  # nothing better can come
            found = await asking
            if connection.connected and self._since == since:
                await self._go(Heard(self._here(), not found.refused), there)
        finally:
            for task in (asking, *pending):
                task.cancel()

    async def _at(self, server: str, wanted: frozenset[bytes]) -> tuple[str, Heard] | None:
        def enough(heard: Set[bytes]) -> bool:
            return deafness.covered(wanted, heard)

        found = await elsewhere.listen(self._connection, server, self._patterns, enough)
        if found is None:
            return None
        heard, answers = found
        return server, Heard(heard - {self._own}, answers)

    def _here(self) -> frozenset[bytes]:
        """Return the actors that are heard now."""
        oldest = max(asyncio.get_running_loop().time() - deafness.SILENT, self._since)
        return frozenset(
            subject
            for subject, at in self._heard.items()
            if at >= oldest and subject not in (self._own, ANY_ROUTER)
        )

    async def _go(self, here: Heard, there: dict[str, Heard]) -> None:
        name, server = self._connection.name, deafness.better(here, there)
        if server is None:
            log.info("%s: %s, nor elsewhere: %s", name, self.told(), ", ".join(there) or "-")
            return
        now = asyncio.get_running_loop().time()
        self._past = deafness.moved(self._past, now, random.random())
        await self._connection.move(server, f"more is heard there than here, where {self.told()}")


_ROUTERS = subjects.router_status("").encode()


def serving(state: State) -> list[bytes]:
    """Return the subjects of heartbeats of all engines that serve."""
    return [
        subjects.replica_status(replica.model, replica.id).encode()
        for replica in state.replicas.values()
        if replica.serving and replica.engine is not None
    ]


def living(state: State) -> list[bytes]:
    """Return the subjects of heartbeats of all nodes that are not lost."""
    return [
        subjects.node_status(node.id).encode() for node in state.nodes.values() if not node.lost
    ]
