"""The log whose past and present a server shows: that of a gateway's cluster, or of a file."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence

from nebula.actors.gateway.actor import Gateway
from nebula.events.heartbeats import QueueLength
from nebula.events.record import Entry, Record
from nebula.events.state import EMPTY, State
from nebula.history.moments import Moment
from nebula.history.outcome import Coming
from nebula.history.subject import log_trouble
from nebula.http.silence import silent
from nebula.store import usage_log
from nebula.store.aggregate_events import events_of
from nebula.store.connection import Unavailable
from nebula.store.reach import trouble
from nebula.store.snapshots import Snapshots
from nebula.store.usage import Pace, unhurried
from nebula.store.usage_log import Usage


class ShownLog(ABC):
    """A log with the state at its end. `live`: whether it grows; `file`: where it is, if in one."""

    live = True
    file = ""

    @property
    @abstractmethod
    def state(self) -> State:
        """The state at the end of the log."""

    @property
    @abstractmethod
    def able(self) -> bool:
        """Whether the log can be read now."""

    @property
    @abstractmethod
    def leaving(self) -> asyncio.Event:
        """Set once the server stops."""

    def lines(self) -> Mapping[str, QueueLength]:
        """Return how many requests wait for each model now; a log alone does not have that."""
        return {}

    @abstractmethod
    def entries(self, after: int, until: int) -> AsyncGenerator[list[Entry], None]:
        """Yield the entries after one sequence, up to another. Raise Unavailable, LogReplaced."""

    @abstractmethod
    def follow(self, after: int) -> AsyncGenerator[list[Record], None]:
        """Yield every record after a sequence, for ever. Raise LogReplaced."""

    @abstractmethod
    async def silent(self, awaited: Sequence[Coming]) -> str:
        """Return a sentence if all actors that would have to act are silent; "" if not so."""

    @abstractmethod
    async def trouble(self) -> str:
        """Return a sentence about a log that takes no events, or soon will not; "" if none."""

    @abstractmethod
    def events_of(
        self, kind: str, identity: str, until: int, pace: Pace = unhurried, *, only: str = ""
    ) -> AsyncGenerator[Record, None]:
        """Yield the events of one aggregate up to a sequence. Raise Unavailable, LogReplaced.

        `only`: of this type.

        `pace` is awaited after each piece, with the seconds of work that it took.
        """

    @abstractmethod
    async def usage(self, since: int, until: int, pace: Pace = unhurried) -> Usage:
        """Return what was used in the hours from `since` to before `until`. Raise Unavailable."""

    @abstractmethod
    async def used(self, kind: str, identity: str) -> Mapping[str, int] | None:
        """Return what is used of the limits of a key, tenant or model; None if it is unknown."""

    @abstractmethod
    async def before(self, wanted: Moment, known: State) -> State:
        """Return the latest kept state at or before a moment; `known` if none is later."""


class GatewayLog(ShownLog):
    """The log of a gateway's cluster."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    @property
    def state(self) -> State:
        """The state that the gateway has folded."""
        return self._gateway.projection.state

    @property
    def able(self) -> bool:
        """Whether NATS can be reached."""
        return self._gateway.able

    @property
    def leaving(self) -> asyncio.Event:
        """Set once the gateway stops."""
        return self._gateway.leaving

    def lines(self) -> Mapping[str, QueueLength]:
        """Return how many requests wait for each model now, as routers tell it."""
        return self._gateway.heartbeats.lines()

    def entries(self, after: int, until: int) -> AsyncGenerator[list[Entry], None]:
        """Yield the entries after one sequence, up to another. Raise Unavailable, LogReplaced."""
        return self._gateway.log.entries(after, until)

    def follow(self, after: int) -> AsyncGenerator[list[Record], None]:
        """Yield every record after a sequence, for ever. Raise LogReplaced."""
        return self._gateway.log.follow(after)

    async def silent(self, awaited: Sequence[Coming]) -> str:
        """Return a sentence if all actors that would have to act are silent; "" if not so."""
        return await silent(self._gateway.connection, awaited) if awaited else ""

    async def trouble(self) -> str:
        """Return a sentence about a log that takes no events, or soon will not; "" if none."""
        return log_trouble(*await trouble(self._gateway.connection))

    def events_of(
        self, kind: str, identity: str, until: int, pace: Pace = unhurried, *, only: str = ""
    ) -> AsyncGenerator[Record, None]:
        """Yield the events of one aggregate up to a sequence. Raise Unavailable, LogReplaced."""
        return events_of(self._gateway.connection, kind, identity, until, pace, only=only)

    async def usage(self, since: int, until: int, pace: Pace = unhurried) -> Usage:
        """Return what was used in the hours from `since` to before `until`. Raise Unavailable."""
        return await usage_log.usage(self._gateway.connection, since, until, pace)

    async def used(self, kind: str, identity: str) -> Mapping[str, int] | None:
        """Return what is used of the limits of a key, tenant or model; None if it is unknown."""
        try:
            return await self._gateway.limiting.used((kind, identity))
        except Unavailable:
            return None

    async def before(self, wanted: Moment, known: State = EMPTY) -> State:
        """Return the latest snapshot at or before a moment; `known` if none is later."""
        try:
            found = await Snapshots(self._gateway.log).newest(
                lambda state: state.seq > known.seq and not wanted.passed(state.seq, state.time)
            )
        except Unavailable:
            return known
        return found or known
