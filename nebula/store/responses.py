"""The stream of stored responses and conversations.

It is of limited size and age: the oldest go first. It is made when it is first needed, and a NATS
server that has no room for it keeps nothing else from working.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace

import msgspec
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from nebula.events import subjects
from nebula.events.memory import GIB
from nebula.events.stored_responses import Asked, Conversation, Deleted, Entry, Key, read
from nebula.store import durable, inference_log
from nebula.store.connection import Connection, Unavailable
from nebula.store.durable import FIRST

STREAM = "NEBULA_RESPONSES"
QUEUE = "background"

KEEP = 30 * 24 * 3600.0
"""Default seconds for which a response is kept, as at OpenAI, and a conversation after its use."""

ROOM = GIB
"""Default bytes of all responses and conversations."""

_ONLY = {"Nats-Rollup": "sub"}
"""Headers of a message that takes the place of all others on its subject."""


class TooLarge(Exception):
    """It is larger than a message on NATS may be. The argument is how large that is, in bytes."""


def definition(replicas: int, keep: float = KEEP, room: int = ROOM) -> StreamConfig:
    """Return the stream."""
    return StreamConfig(
        name=STREAM,
        description="Nebula's stored responses and conversations",
        subjects=[subjects.STORED],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.OLD,
        max_age=keep,
        max_bytes=room,
        num_replicas=replicas,
        duplicate_window=min(120, keep),
        allow_rollup_hdrs=True,
        allow_direct=True,
    )


class ResponseStore:
    """What a cluster stores of responses and conversations, over one connection."""

    def __init__(
        self, connection: Connection, replicas: int = 1, keep: float = KEEP, room: int = ROOM
    ) -> None:
        """`keep`: seconds. `room`: bytes."""
        self.connection = connection
        self.keep = keep
        self._wanted = definition(replicas, keep, room)
        self._streams = durable.Streams(connection, [self._wanted])
        self._made = False
        self._making = asyncio.Lock()

    async def open(self) -> None:
        """Make sure that the stream is there. Raise Unavailable."""
        if self._made:
            if not self.connection.connected:
                raise Unavailable("NATS can't be reached")
            return
        async with self._making:
            if not self._made:
                await self._streams.open()
                await self._resize()
                self._made = True

    async def _resize(self) -> None:
        """Set the stream's age and size as this gateway was told."""
        jetstream = durable.jetstream(self.connection)
        try:
            found = (await jetstream.stream_info(STREAM)).config
            if (found.max_age, found.max_bytes) != (self._wanted.max_age, self._wanted.max_bytes):
                wanted = replace(
                    found,
                    max_age=self._wanted.max_age,
                    max_bytes=self._wanted.max_bytes,
                    duplicate_window=self._wanted.duplicate_window,
                )
                await jetstream.update_stream(wanted)
        except (NatsError, TimeoutError) as error:
            raise Unavailable(f"stream {STREAM} can't be changed: {error!r}") from error

    # Responses

    async def ask(self, asked: Asked) -> None:
        """Store a response that is to be made, once. Raise TooLarge, Unavailable."""
        await self._store(subjects.background(asked.head.id), msgspec.json.encode(asked), FIRST)

    async def append(
        self, identity: str, entry: Entry, after: int, *, patience: float = durable.PATIENCE
    ) -> int | None:
        """Store an entry of a response, and return its sequence.

        Return None if the last entry is not the one with sequence `after`. Raise TooLarge,
        Unavailable.
        """
        guard = {"Nats-Expected-Last-Subject-Sequence": str(after)}
        body = msgspec.json.encode(entry)
        return await self._store(subjects.stored_response(identity), body, guard, patience)

    async def entries(self, identity: str) -> tuple[list[Entry], int]:
        """Return all that is stored of a response, and the sequence of its last entry, 0 for none.

        Without what was asked, which `asked` returns. Raise Unavailable.
        """
        found: list[Entry] = []
        last = 0
        wanted = [subjects.stored_response(identity)]
        async for said in inference_log.read(self.connection, wanted, stream=STREAM):
            last = said.seq
            if (entry := read(said.body)) is not None:
                found.append(entry)
        return found, last

    async def asked(self, identity: str) -> Asked | None:
        """Return what was asked of a response that no client waited for. Raise Unavailable."""
        found = await durable.last(self.connection, STREAM, subjects.background(identity))
        entry = read(found.data or b"") if found is not None else None
        return entry if isinstance(entry, Asked) else None

    async def last(self, identity: str) -> tuple[Entry | None, int]:
        """Return the last entry of a response and its sequence. Raise Unavailable."""
        found = await durable.last(self.connection, STREAM, subjects.stored_response(identity))
        if found is None:
            return None, 0
        return read(found.data or b""), int(found.seq or 0)

    async def follow(self, identity: str) -> AsyncGenerator[Entry | None, None]:
        """Yield what is stored of a response, then None once, then what is added.

        Raise Unavailable.
        """
        wanted = [subjects.stored_response(identity)]
        async with aclosing(
            inference_log.follow(self.connection, wanted, stream=STREAM)
        ) as following:
            async for said in following:
                if said is None:
                    yield None
                elif (entry := read(said.body)) is not None:
                    yield entry

    async def remove(self, identity: str) -> None:
        """Remove a response: nothing can be added to it any more. Raise Unavailable."""
        body = msgspec.json.encode(Deleted())
        await self._store(subjects.stored_response(identity), body, _ONLY)
        await durable.purge(self.connection, STREAM, subjects.background(identity))
        self.tell_over(identity)

    def tell_over(self, identity: str) -> None:
        """Tell the worker that makes a response to leave it."""
        self.connection.client.post(subjects.over(identity))

    # Keys

    async def take_key(self, slot: str, key: Key) -> Key:
        """Return the key that was first stored in a slot, which may be this one.

        Raise Unavailable.
        """
        subject = subjects.stored_key(slot)
        if await self._store(subject, msgspec.json.encode(key), FIRST) is not None:
            return key
        found = await durable.last(self.connection, STREAM, subject)
        if found is None:
            raise Unavailable("an Idempotency-Key was dropped as it was read")
        return msgspec.json.decode(found.data or b"", type=Key)

    # Conversations

    async def conversation(self, identity: str) -> tuple[Conversation | None, int]:
        """Return a conversation, and its sequence. Raise Unavailable."""
        if not subjects.is_token(identity):
            return None, 0
        found = await durable.last(self.connection, STREAM, subjects.conversation(identity))
        if found is None:
            return None, 0
        read = msgspec.json.decode(found.data or b"", type=Conversation)
        return None if read.deleted else read, int(found.seq or 0)

    async def put_conversation(self, conversation: Conversation, after: int) -> bool:
        """Store a conversation that replaces its message with sequence `after`, 0 for none.

        Return False if another was stored meanwhile. Raise TooLarge, Unavailable.
        """
        guard = {**_ONLY, "Nats-Expected-Last-Subject-Sequence": str(after)}
        body = msgspec.json.encode(conversation)
        subject = subjects.conversation(conversation.id)
        return await self._store(subject, body, guard) is not None

    async def _store(
        self,
        subject: str,
        body: bytes,
        headers: Mapping[str, str],
        patience: float = durable.PATIENCE,
    ) -> int | None:
        most = self.connection.max_body - 1024  # the headers count too
        if len(body) > most:
            raise TooLarge(most)
        try:
            return await durable.store(self.connection, subject, body, headers, patience=patience)
        except MaxPayloadError as error:
            raise TooLarge(most) from error
        except Unavailable:
            self._made = False
            raise
