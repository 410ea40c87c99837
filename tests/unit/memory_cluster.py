"""A cluster in memory for commands: the real command, projection and snapshots over a `Story`.

Only NATS is played. `reacts` is called after each event that a command appends, as routers and
nodes would answer it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner, Result
from nats.errors import NoRespondersError
from nats.js.errors import BucketNotFoundError, NotFoundError

from nebula.cli import cluster, log_source, transfer
from nebula.cli.main import main
from nebula.events import record, snapshot
from nebula.events.folding import fold
from nebula.events.original import original
from nebula.events.record import Entry, Record
from nebula.events.state import EMPTY, State
from nebula.events.vocabulary import Event
from nebula.store import batch
from nebula.store.batch import CONFLICTS, BatchRefused
from nebula.store.connection import Connection
from nebula.store.log import Conflict, Guard, Log
from tests.unit.story import Story


class Nats:
    """The connection, its client, JetStream and the object store that holds snapshots."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self.connected = True
        self.lacking = ""
        self.trouble = ""
        self.shown = "nats://memory"
        self.max_body = 1 << 20
        self.running: set[str] = set()
        """Nodes that a process runs."""
        self.objects: dict[str, tuple[str, bytes]] = {}
        self.client = self

    def snapshot(self, state: State, slot: str = "state-0") -> None:
        """Store a snapshot."""
        self.objects[slot] = (str(state.seq), snapshot.dump(state))

    async def close(self) -> None:
        pass

    async def request(self, subject: str, body: bytes, timeout: float) -> None:
        if subject.rpartition(".")[2] not in self.running:
            raise NoRespondersError

    def jetstream(self, timeout: float) -> Nats:
        return self

    async def get_last_msg(self, stream: str, subject: str) -> None:
        raise NotFoundError

    async def stream_info(self, stream: str, subjects_filter: str = "") -> Any:
        config = SimpleNamespace(num_replicas=1, max_bytes=0)
        state = SimpleNamespace(last_seq=self._story.state.seq, bytes=0, subjects={})
        return SimpleNamespace(cluster=None, config=config, state=state)

    async def object_store(self, bucket: str) -> Nats:
        if not self.objects:
            raise BucketNotFoundError
        return self

    async def list(self, ignore_deletes: bool) -> list[Any]:
        return [
            SimpleNamespace(name=name, description=text) for name, (text, _) in self.objects.items()
        ]

    async def get(self, name: str) -> Any:
        return SimpleNamespace(data=self.objects[name][1])


class MemoryLog(Log):
    """A log that a story holds: guards are looked at, and a follower sees what is appended."""

    def __init__(self, story: Story) -> None:
        self.nats = Nats(story)
        super().__init__(cast("Connection", self.nats), actor="cli")
        self.story = story
        self.appended: list[tuple[str, Event]] = []
        self.actors: list[str] = []
        self.batches: list[int] = []
        self.meanwhile: list[tuple[str, Event]] = []
        """What others append just before the next event of a command."""
        self.reacts: Callable[[Story], object] = lambda story: None
        self.read_from: list[int] = []
        """After which sequence the log was read, each time."""
        self._followers: list[asyncio.Event] = []

    async def check(self) -> None:
        pass

    async def last_seq(self) -> int:
        return self.story.state.seq

    async def append(self, identity: str, event: Event, **fields: Any) -> int:
        self._look(fields.get("guard"))
        self.story.append(identity, event)
        return self._has([(identity, event)])

    async def append_all(
        self,
        events: Sequence[tuple[str, Event]],
        *,
        guard: Guard,
        actor: str = "",
        by: str = "",
    ) -> int:
        self._look(guard)
        self.batches.append(len(events))
        self.actors.append(actor)
        for identity, event in events:
            self.story.append(identity, event)
        return self._has(events)

    async def open(self, *, patience: float | None = None) -> Log:
        return self

    async def publish(
        self,
        client: object,
        messages: Sequence[tuple[str, bytes, Mapping[str, str]]],
        *,
        guard: Mapping[str, str],
    ) -> int:
        """Take a batch of an import, as the server does."""
        if int(guard["Nats-Expected-Last-Sequence"]) != self.story.state.seq:
            raise BatchRefused(min(CONFLICTS), "wrong last sequence")
        for subject, body, headers in messages:
            self.story.publish(subject, body, headers)
            came = original(self.story.entries[-1])
            self.story.entries[-1] = came
            self.story.log[-1] = record.read_entry(came)
        self.batches.append(len(messages))
        self.story.state = fold(EMPTY, self.story.log)
        return self.story.state.seq

    def _look(self, guard: Guard | None) -> None:
        for identity, event in self.meanwhile:
            self.story.append(identity, event)
            self._grown()
        self.meanwhile = []
        if guard is not None:
            begin = guard.subject.removesuffix(">")
            seqs = [each.seq for each in self.story.entries if each.subject.startswith(begin)]
            if max(seqs, default=0) != guard.seq:
                raise Conflict("wrong last sequence")

    def _has(self, events: Sequence[tuple[str, Event]]) -> int:
        seq = self.story.state.seq
        self.appended += events
        self.reacts(self.story)
        self._grown()
        return seq

    def _grown(self) -> None:
        for each in self._followers:
            each.set()

    async def entries(
        self, after: int = 0, until: int | None = None
    ) -> AsyncGenerator[list[Entry], None]:
        self.read_from.append(after)
        last = self.story.state.seq if until is None else until
        if found := self.story.entries[after:last]:
            yield found

    async def follow(self, after: int = 0) -> AsyncGenerator[list[Record], None]:
        grown = asyncio.Event()
        self._followers.append(grown)
        while True:
            grown.clear()
            batch = [record.read_entry(entry) for entry in self.story.entries[after:]]
            if batch:
                after = batch[-1].seq
                yield batch
            else:
                await grown.wait()

    @property
    def events(self) -> list[Event]:
        """What the command has appended, without the ids."""
        return [event for _, event in self.appended]


def joined(monkeypatch: pytest.MonkeyPatch, story: Story) -> MemoryLog:
    """Have every command talk to a cluster in memory that has come as far as a story."""
    log = MemoryLog(story)

    async def connected(nats: str, name: str, **_: object) -> Nats:
        return log.nats

    for module in (cluster, log_source, transfer):
        monkeypatch.setattr(module, "connected", connected)
        monkeypatch.setattr(module, "Log", lambda connection, **_: log)
    monkeypatch.setattr(batch, "publish", log.publish)
    return log


def says(*arguments: str, answer: str | None = None) -> Result:
    """Run a command, with what a user answers at its prompt. Raises what it lets out."""
    result = CliRunner().invoke(main, arguments, input=answer)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
