"""The log as JetStream keeps it, and actors that fold it: each in order, each at its own pace.

The rules are the server's: the guard is looked at before the message id, a message id that it has
seen within two minutes is stored once, and what was stored is told to everybody, sometimes twice.
Every entry goes through its wire form.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from random import Random
from typing import Any

from msgspec import Struct

from nebula.events import record as records
from nebula.events import snapshot, subjects
from nebula.events.evolve import evolve
from nebula.events.record import BASIS_HEADER, CAUSE_HEADER, Record
from nebula.events.state import EMPTY, State
from nebula.events.vocabulary import Event
from nebula.store.log import Guard
from tests.simulation.clock import Clock, Signal
from tests.simulation.network import Link

EPOCH = 1_800_000_000_000_000_000
WINDOW = 120.0
ACK_WAIT = 2.0
SAME = "every actor has the same state after the same event"


class Broken(Exception):
    """Something that must always hold does not: the name of this law, and how it was broken."""

    def __init__(self, law: str, how: str) -> None:
        super().__init__(f"{law}: {how}")
        self.law = law


class Conflict(Exception):
    """The guard of an append no longer held."""


class Unavailable(Exception):
    """The log did not answer in time; the event may be stored all the same."""


class Message(Struct, frozen=True):
    """What is to be stored. `guard`: subjects, and the last sequence on any of them."""

    subject: str
    payload: bytes
    headers: dict[str, str]
    id: str
    guard: Guard | None = None


class Journal:
    """The log, and the one fold of it that all others are compared with.

    `on_append` is called with each record, the state before it and the state after it.
    """

    def __init__(
        self, clock: Clock, on_append: Callable[[Record, State, State], None] | None = None
    ) -> None:
        self.clock = clock
        self.records: list[Record] = []
        self.states: list[State] = [EMPTY]
        self.last_append = 0.0
        self._on_append = on_append
        self._guarded = {subjects.MODEL_EVENTS: 0, subjects.NODE_EVENTS: 0}
        self._ids: dict[str, tuple[int, float]] = {}
        self._last_id: dict[str, tuple[str, int]] = {}
        self._idle: dict[Follower, None] = {}

    @property
    def state(self) -> State:
        """The newest state."""
        return self.states[-1]

    @property
    def seq(self) -> int:
        """The last sequence."""
        return len(self.records)

    def store(self, message: Message) -> int:
        """Store a message as the server does, and give its sequence. Raise Conflict."""
        guard = message.guard
        if guard is not None and guard.seq != self._guarded[guard.subject]:
            raise Conflict
        known = self._ids.get(message.id)
        if known is not None and self.clock.now - known[1] < WINDOW:
            return known[0]
        seq, time = self.seq + 1, EPOCH + int(self.clock.now * 1e9)
        record = records.read(seq, time, message.subject, message.payload, message.headers)
        before = self.state
        after = evolve(before, record)
        self.records.append(record)
        self.states.append(after)
        for subject in self._guarded:
            if message.subject.startswith(subject.removesuffix(">")):
                self._guarded[subject] = seq
        self.last_append = self.clock.now
        self._ids[message.id] = (seq, self.clock.now)
        self._last_id[message.subject] = (message.id, seq)
        if self._on_append is not None:
            self._on_append(record, before, after)
        idle, self._idle = self._idle, {}
        for follower in idle:
            follower.expect()
        return seq

    def stored_last(self, subject: str, identity: str) -> int | None:
        """Return the sequence of the last message on a subject if it has this id."""
        known = self._last_id.get(subject)
        return known[1] if known is not None and known[0] == identity else None

    def wait_for_more(self, follower: Follower) -> None:
        """Tell a follower when there is more."""
        self._idle[follower] = None

    def forget(self, follower: Follower) -> None:
        """Tell a follower nothing more."""
        self._idle.pop(follower, None)


class Follower:
    """One actor's view of the log.

    It begins with a snapshot of some earlier moment, as restarted actors do, folds the rest itself
    and must have come to what everybody else has. From there on it shares their fold.
    """

    def __init__(self, journal: Journal, link: Link, rng: Random) -> None:
        self.journal = journal
        self.link = link
        self._rng = rng
        self.changed = Signal(journal.clock)
        self.on_record: Callable[[Record], None] | None = None
        self._closed = False
        last = journal.seq
        start = rng.randint(0, last) if last else 0
        state = snapshot.load(snapshot.dump(journal.states[start])) if start else EMPTY
        for record in journal.records[start:last]:
            state = evolve(state, record)
        if last and snapshot.canonical(state) != snapshot.canonical(journal.state):
            raise Broken(SAME, f"an actor that began at event {start} has another state at {last}")
        self.state = journal.state
        journal.wait_for_more(self)

    def close(self) -> None:
        """Follow no more."""
        self._closed = True
        self.journal.forget(self)

    def expect(self) -> None:
        """There is more: it arrives after a while."""
        self.journal.clock.after(self.link.delay(), self._deliver)

    def _deliver(self) -> None:
        if self._closed:
            return
        if not self.link.up:
            self.link.when_back(self.expect)
            return
        journal, rng = self.journal, self._rng
        known, last = self.state.seq, journal.seq
        if known < last:
            upto = last if rng.random() < 0.8 else rng.randint(known + 1, last)
            self.state = journal.states[upto]
            if self.on_record is not None:
                for record in journal.records[known:upto]:
                    self.on_record(record)
            if rng.random() < 0.05 and evolve(self.state, journal.records[known]) is not self.state:
                raise Broken(SAME, f"event {known + 1}, delivered twice, counts twice")
            self.changed.fire()
        if self.state.seq < last:
            self.expect()
        else:
            journal.wait_for_more(self)

    def until(self, seq: int, patience: float | None = None) -> Generator[Any, Any, bool]:
        """Wait until an entry is folded; False when that took more than `patience` seconds."""
        end = None if patience is None else self.journal.clock.now + patience
        while self.state.seq < seq:
            if end is None:
                yield self.changed
            elif not (yield (self.changed, max(0.0, end - self.journal.clock.now))):
                return False
        return True


class Appender:
    """One actor's way to append, as `Log.append` does it: a lost acknowledgement is asked for."""

    def __init__(self, journal: Journal, link: Link, actor: str) -> None:
        self._journal = journal
        self._link = link
        self._actor = actor
        self._count = 0

    def append(
        self,
        identity: str,
        event: Event,
        *,
        guard: Guard | None = None,
        cause: int | None = None,
        basis: int | None = None,
        message_id: str | None = None,
        patience: float = 20.0,
        node: str = "",
    ) -> Generator[Any, Any, int]:
        """Append an event and give its sequence. Raise Conflict, Unavailable."""
        self._count += 1
        headers = records.headers_for(event)
        if cause is not None:
            headers[CAUSE_HEADER] = str(cause)
        if basis is not None:
            headers[BASIS_HEADER] = str(basis)
        unique = message_id or f"{self._actor}/{self._journal.clock.now}/{self._count}"
        message = Message(
            records.subject_of(identity, event, node),
            records.encode(event),
            headers,
            unique,
            guard,
        )
        return (yield from self.send(message, patience))

    def send(self, message: Message, patience: float) -> Generator[Any, Any, int]:
        """Store a message, trying again for `patience` seconds. Raise Conflict, Unavailable."""
        clock = self._journal.clock
        end = clock.now + patience
        again = False
        while True:
            if self._link.up:
                reply = _Reply(self._journal, self._link, message, again=again)
                yield (reply.came, ACK_WAIT)
                if reply.conflict:
                    raise Conflict
                if reply.seq:
                    return reply.seq
                again = True
            if clock.now >= end:
                raise Unavailable
            yield 0.1


class _Reply:
    """One try to store a message, which goes on without its sender."""

    def __init__(self, journal: Journal, link: Link, message: Message, *, again: bool) -> None:
        self._journal = journal
        self._link = link
        self._message = message
        self._again = again
        self.came = Signal(journal.clock)
        self.seq = 0
        self.conflict = False
        if not link.loses():
            journal.clock.after(link.delay(), self._arrive)

    def _arrive(self) -> None:
        if not self._link.up:
            return
        seq: int | None
        try:
            seq = self._journal.store(self._message)
        except Conflict:
            seq = None
            if self._again:
                seq = self._journal.stored_last(self._message.subject, self._message.id)
        if not self._link.loses():
            self._journal.clock.after(self._link.delay(), self._answer, seq)

    def _answer(self, seq: int | None) -> None:
        if self._link.up:
            self.seq, self.conflict = seq or 0, seq is None
            self.came.fire()
