"""The router's process: its decisions and its choice of replicas are Nebula's own code.

The order of events around `PendingDecisions`, `Guards` and `Dispatch` is that of
nebula/actors/router/actor.py: what changes there is to be changed here.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from random import Random
from typing import Any

import msgspec
from msgspec.structs import replace

from nebula.actors.placement import decision as placement
from nebula.actors.placement.decision import Decision
from nebula.actors.router.dispatch import Dispatch
from nebula.actors.router.guards import Guards
from nebula.actors.router.observer import Observer
from nebula.actors.router.pending_decisions import PendingDecisions
from nebula.events import subjects
from nebula.events.state import State
from nebula.events.version import VERSION
from nebula.events.vocabulary import ModelUnschedulable
from tests.simulation.clock import Clock, Process, Signal
from tests.simulation.journal import (
    EPOCH,
    SAME,
    Appender,
    Broken,
    Conflict,
    Follower,
    Journal,
    Unavailable,
)
from tests.simulation.machine import Send
from tests.simulation.network import Link

HEARTBEAT = 1.0
OBSERVE = 1.0
TICK = 1.0
"""The real one ticks ten times as often; what waits goes on with every event that matters too."""


class _Checked(PendingDecisions):
    """Now and then it looks whether one that remembers nothing would decide the same."""

    def __init__(self, observer: Observer, dispatch: Dispatch, rng: Random) -> None:
        super().__init__(observer, dispatch.loads)
        self._rng = rng

    def decide(self, state: State) -> tuple[Decision, ...]:
        """Return what the state calls for. Raise Broken."""
        due = super().decide(state)
        if self._rng.random() < 0.05:
            anew = placement.decide(state)
            if list(map(_essence, due)) != list(map(_essence, anew)):
                raise Broken(SAME, f"a router that remembers decides {due}, another one {anew}")
        return due


class Router(Process):
    """One router."""

    def __init__(
        self,
        name: str,
        journal: Journal,
        link: Link,
        rng: Random,
        send: Send,
        stored: Mapping[str, int],
    ) -> None:
        super().__init__(link.clock)
        self.name = name
        self.link = link
        self._journal = journal
        self._rng = rng
        self._send = send
        self._stored = stored
        self.stored_away = 0.0
        self._appender = Appender(journal, link, name)
        self.follower: Follower | None = None
        self.dispatch: Dispatch | None = None
        self.observer: Observer | None = None
        self._wake = Signal(self.clock)
        self._woken = False
        self.spawn(self._run())

    def crash(self) -> None:
        """End in the middle of it."""
        super().crash()
        if self.follower is not None:
            self.follower.close()

    @property
    def listening(self) -> bool:
        """Whether NATS has it as a subscriber."""
        return self.alive and self.dispatch is not None and self.link.up

    def _run(self) -> Generator[Any, Any, None]:
        while not self.link.up:
            yield 0.25
        clock: Clock = self.clock
        follower = self.follower = Follower(self._journal, self.link, self._rng)
        observer = self.observer = Observer(self.name, lambda: clock.now)
        dispatch = self.dispatch = Dispatch(
            self.name,
            self._post,
            lambda: follower.state,
            lambda: clock.now,
            lambda: EPOCH + int(clock.now * 1e9),
            others=observer.others,
        )
        dispatch.addressed = True
        follower.on_record = observer.on_record
        deciding = _Checked(observer, dispatch, self._rng)
        self.spawn(self._tick(dispatch, deciding, observer, follower))
        self.spawn(self._listen(follower))
        while True:
            self._woken = False
            state = follower.state
            dispatch.react()
            due = deciding.due(state, connected=self.link.up)
            if due:
                yield from self._append_all(follower, state, due)
            elif not self._woken:
                yield self._wake

    def _notice(self) -> None:
        self._woken = True
        self._wake.fire()

    def _listen(self, follower: Follower) -> Generator[Any, Any, None]:
        while True:
            yield follower.changed
            self._notice()

    def _look_at_stored(self, observer: Observer, follower: Follower) -> None:
        if self.link.up and self.clock.now >= self.stored_away:
            for node in observer.doubtful(follower.state):
                if node in self._stored:
                    observer.on_stored(node, self._stored[node])

    def _tick(
        self, dispatch: Dispatch, deciding: PendingDecisions, observer: Observer, follower: Follower
    ) -> Generator[Any, Any, None]:
        beats = looks = 0.0
        while True:
            dispatch.react()
            now = self.clock.now
            if dispatch.called() or now >= looks:
                looks = now + OBSERVE
                deciding.look()
                self._notice()
            if now >= beats:
                beats = now + HEARTBEAT
                self._look_at_stored(observer, follower)
                told = observer.tell(follower.state)
                status = replace(dispatch.status(), silent=told, reads=VERSION)
                self._post(subjects.router_status(self.name), b"", msgspec.json.encode(status))
            yield TICK

    def _post(self, subject: str, header: bytes, body: bytes) -> None:
        self._send(self.link, subject, header, body)

    def _append_all(
        self, follower: Follower, state: State, due: tuple[Decision, ...]
    ) -> Generator[Any, Any, None]:
        guards = Guards(state)
        newest = state.seq
        try:
            for decision in due:
                newest = yield from self._append(state, decision, guards)
        except Conflict:
            newest += 1
        except Unavailable:
            return
        yield from follower.until(newest, 1.0)

    def _append(self, state: State, decision: Decision, guards: Guards) -> Generator[Any, Any, int]:
        held = guards.of(decision)
        seq: int = yield from self._appender.append(
            decision.id,
            decision.event,
            guard=held.guard,
            cause=decision.cause,
            basis=state.seq,
            message_id=held.message_id,
        )
        guards.appended(held, seq)
        return max(seq, state.seq + 1)


def _essence(decision: Decision) -> object:
    """Leave out which devices a reason names: of many, those that were looked at first."""
    event = decision.event
    if isinstance(event, ModelUnschedulable):
        return decision.id, event.missing, event.reason.partition(":")[0]
    return decision
