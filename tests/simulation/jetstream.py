"""File streams of JetStream in virtual time, and connections to them that lose and delay messages.

Just what limits and usage need of it: guards on the last message of a subject, ids of messages that
are forgotten after two minutes, the last and the next message on a subject.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from nats.errors import Error as NatsError
from nats.js.errors import APIError, NotFoundError

from nebula.events import record as records
from nebula.events import subjects
from nebula.events.usage import UsageRolledUp
from nebula.store import ledger, streams, usage
from nebula.store.batch import CONFLICTS
from nebula.store.connection import Unavailable
from nebula.store.inference_log import StoredMessage
from nebula.store.log import Conflict, Guard
from nebula.store.usage import MESSAGE

IDS = 120.0
"""Seconds for which the server remembers ids of messages."""

GUARD = "Nats-Expected-Last-Subject-Sequence"
PREFIXES = {
    "nebula.ledger.": ledger.STREAM,
    "nebula.usage.": usage.STREAM,
    "nebula.events.": streams.EVENTS,
}


@dataclass
class Message:
    """A stored message."""

    subject: str
    seq: int
    data: bytes
    headers: Mapping[str, str]
    time: datetime


@dataclass
class Stream:
    """One stream: its messages, and the last on each subject."""

    messages: list[Message] = field(default_factory=list)
    last: dict[str, Message] = field(default_factory=dict)


class Server:
    """A NATS server: what it has stored outlives it. `begun`: its clock when time was 0."""

    def __init__(self, begun: float) -> None:
        self.begun = begun
        self.up = True
        self.streams = {name: Stream() for name in PREFIXES.values()}
        self.listeners: list[tuple[Link, Callable[[bytes, bytes, bytes], None]]] = []
        self._ids: dict[str, tuple[int, float]] = {}

    @property
    def wall(self) -> float:
        """Its clock."""
        return self.begun + asyncio.get_running_loop().time()

    def put(self, subject: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Store a message, and return its sequence. Raise APIError if its guard does not hold."""
        now = asyncio.get_running_loop().time()
        identity = headers.get(MESSAGE, "")
        known = self._ids.get(identity)
        if known is not None and now < known[1] + IDS:
            return known[0]
        stream = self.streams[next(PREFIXES[each] for each in PREFIXES if subject.startswith(each))]
        before = stream.last.get(subject)
        if GUARD in headers and int(headers[GUARD]) != (before.seq if before else 0):
            raise APIError(code=400, err_code=CONFLICTS[0], description="wrong last sequence")
        at = datetime.fromtimestamp(self.wall, UTC)
        message = Message(subject, len(stream.messages) + 1, body, dict(headers), at)
        stream.messages.append(message)
        stream.last[subject] = message
        if identity:
            self._ids[identity] = (message.seq, now)
        if subject.startswith("nebula.ledger."):
            for link, heard in tuple(self.listeners):
                if link.connected:
                    heard(subject.encode(), b"", body)
        return message.seq


class Link:
    """The connection of one process: alive until it is killed, and with a bad line at times.

    `loss`: the part of messages that are lost, come late, or lose their acknowledgement, each.
    `troubled`: until when a message may be under way that has had trouble.
    """

    def __init__(self, server: Server, chance: random.Random, loss: float) -> None:
        self.server = server
        self.chance = chance
        self.loss = loss
        self.alive = True
        self.troubled = -1e9

    @property
    def connected(self) -> bool:
        """Whether it reaches the server."""
        if not self.server.up:
            self.troubled = asyncio.get_running_loop().time()
        return self.alive and self.server.up

    @property
    def client(self) -> Link:
        """Itself, in the place of nats-py's client."""
        return self

    def jetstream(self, **_: object) -> Link:
        """Return itself, in the place of nats-py's context."""
        return self

    async def listen(self, _: str, heard: Callable[[bytes, bytes, bytes], None]) -> None:
        """Hear every account that is replaced."""
        self.server.listeners.append((self, heard))

    async def _api_request(self, *_: object, **__: object) -> dict[str, str]:
        self._reach()
        return {"ts": f"{datetime.fromtimestamp(self.server.wall, UTC):%Y-%m-%dT%H:%M:%S.%f}Z"}

    async def stream_info(self, name: str) -> Any:
        """Return what a stream has."""
        self._reach()
        said = self.server.streams[name].messages
        size = sum(len(each.data) for each in said)
        state = SimpleNamespace(first_seq=1, last_seq=len(said), bytes=size)
        created = datetime.fromtimestamp(self.server.begun, UTC)
        return SimpleNamespace(config=None, created=created, state=state)

    async def get_msg(self, stream: str, *, subject: str, seq: int = 0, **_: object) -> Message:
        """Return the last message on a subject, or the first from a sequence on."""
        self._reach()
        held = self.server.streams[stream]
        pattern = subject.rstrip("*>")
        if seq:
            after = held.messages[seq - 1 :]
            found = next((each for each in after if each.subject.startswith(pattern)), None)
        elif pattern == subject:
            found = held.last.get(subject)
        else:
            back = reversed(held.messages)
            found = next((each for each in back if each.subject.startswith(pattern)), None)
        if found is None:
            raise NotFoundError
        return found

    async def publish(self, subject: str, body: bytes, headers: Mapping[str, str]) -> Any:
        """Store a message, unless the line is bad. Raise nats-py's errors."""
        self._reach()
        await asyncio.sleep(0.001)
        self._reach()
        fate = self.chance.random()
        if fate >= 3 * self.loss:
            return SimpleNamespace(seq=self.server.put(subject, body, headers))
        loop = asyncio.get_running_loop()
        late = 0.0
        if fate < self.loss:
            self.server_takes(subject, body, headers)
        elif fate < 2 * self.loss:
            late = self.chance.choice((0.5, 5.0, 12.0))
            loop.call_later(late, self.server_takes, subject, body, headers)
        self.troubled = loop.time() + 4.0
        await asyncio.sleep(3.0)
        raise TimeoutError

    def server_takes(self, subject: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Store a message whose sender does not hear of it."""
        try:
            if self.server.up:
                self.server.put(subject, body, headers)
        except APIError:
            return

    def _reach(self) -> None:
        if not self.connected:
            raise NatsError

    # In the place of Nebula's log, as far as usage needs it

    @property
    def connection(self) -> Link:
        """Itself, in the place of the log's connection."""
        return self

    async def append(self, identity: str, event: UsageRolledUp, *, guard: Guard) -> int:
        """Append an event. Raise Conflict, Unavailable."""
        await asyncio.sleep(0.001)
        if not self.connected:
            raise Unavailable("killed, or without a server")
        last = [
            each.seq
            for each in self.server.streams[streams.EVENTS].messages
            if each.subject.startswith(guard.subject.rstrip(">"))
        ]
        if guard.seq != (last[-1] if last else 0):
            raise Conflict
        subject = records.subject_of(identity, event)
        return self.server.put(subject, records.encode(event), {})


async def read(
    connection: Any, wanted: Sequence[str], *, stream: str, after: int, **_: object
) -> AsyncGenerator[StoredMessage, None]:
    """Stand for `inference_log.read`."""
    assert wanted == [subjects.USAGE]
    for each in connection.server.streams[stream].messages[after:]:
        yield StoredMessage(each.seq, 0, each.subject, b"", each.data, len(each.data))
