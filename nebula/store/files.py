"""Files of clients in NATS' object store, written and read part by part.

The form is that of the object store (NATS ADR-20), so that `nats object` reads the files too. They
are written here, since nats-py wants a file that blocks, and reads all of it into memory.
"""

import base64
import contextlib
import hashlib
import time
import uuid
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

import msgspec
from msgspec import Struct
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from nebula.events.memory import GIB, MIB
from nebula.events.reading import UNREADABLE
from nebula.store import durable, inference_log
from nebula.store.connection import Connection, Unavailable

BUCKET = "NEBULA_FILES"
STREAM = f"OBJ_{BUCKET}"

LONGEST_LIFE = 30 * 24 * 3600
"""Seconds after which NATS itself drops a file, as OpenAI does with the files of batches."""

ROOM = 4 * GIB
"""Bytes of all files together."""

LARGEST = 512 * MIB
"""Bytes of one file at most."""

_CHUNK = 128 * 1024


class TooLarge(Exception):
    """A file has more bytes than one may have."""


class FileFacts(Struct, frozen=True, kw_only=True):
    """What is known of a file beside its content. Times are in seconds since the epoch."""

    owner: str
    filename: str
    purpose: str
    created: int
    expires: int


class StoredFile(Struct, frozen=True, kw_only=True):
    """A file that is complete. `nuid` names its chunks; `first` is the sequence of the first."""

    id: str
    size: int
    chunks: int
    nuid: str
    first: int
    facts: FileFacts
    notes: dict[str, str] = {}


class _Meta(Struct):
    name: str
    bucket: str = BUCKET
    nuid: str = ""
    size: int = 0
    chunks: int = 0
    digest: str = ""
    mtime: str = ""
    deleted: bool = False
    metadata: dict[str, str] = {}
    options: dict[str, int] = {}


def new_id() -> str:
    """Return a new id that can not be guessed."""
    return f"file-{uuid.uuid4().hex}"


def definition(replicas: int) -> StreamConfig:
    """Return the stream of the bucket."""
    return StreamConfig(
        name=STREAM,
        description="Nebula's files: input and output of batches",
        subjects=[f"$O.{BUCKET}.C.>", f"$O.{BUCKET}.M.>"],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        max_age=LONGEST_LIFE,
        max_bytes=ROOM,
        allow_rollup_hdrs=True,
        allow_direct=True,
        num_replicas=replicas,
        duplicate_window=120,
    )


def _meta_subject(identity: str) -> str:
    return f"$O.{BUCKET}.M.{base64.urlsafe_b64encode(identity.encode()).decode()}"


def _chunk_subject(nuid: str) -> str:
    return f"$O.{BUCKET}.C.{nuid}"


class Files:
    """The files of a cluster, over one connection."""

    def __init__(self, connection: Connection, replicas: int = 1) -> None:
        self.connection = connection
        self._streams = durable.Streams(connection, [definition(replicas)])

    async def upload(self, identity: str = "", *, limit: int = LARGEST) -> "Upload":
        """Begin a file. Raise NoRoom, Unavailable."""
        await self._streams.open()
        return Upload(self.connection, identity or new_id(), limit)

    async def find(self, identity: str) -> StoredFile | None:
        """Return a file, if it is complete and has not expired. Raise Unavailable."""
        found = await durable.last(self.connection, STREAM, _meta_subject(identity))
        return None if found is None else _read(found.data or b"")

    async def owned(self, owner: str) -> list[StoredFile]:
        """Return an owner's files, the oldest first. Raise Unavailable."""
        return [file for file in await self._all() if file.facts.owner == owner]

    async def _all(self) -> list[StoredFile]:
        if not await durable.exists(self.connection, STREAM):
            return []
        metas = inference_log.read(self.connection, [f"$O.{BUCKET}.M.>"], stream=STREAM)
        found = [_read(said.body) async for said in metas]
        files = [file for file in found if file is not None]
        return sorted(files, key=lambda file: (file.facts.created, file.id))

    async def content(self, file: StoredFile) -> AsyncGenerator[tuple[int, bytes], None]:
        """Yield a file's chunks, each with its sequence. Raise Unavailable, also amid the file."""
        seq = file.first
        for _ in range(file.chunks):
            seq, chunk = await self.chunk(file, seq)
            yield seq, chunk
            seq += 1

    async def chunk(self, file: StoredFile, seq: int) -> tuple[int, bytes]:
        """Return a file's first chunk from a sequence on, and that chunk's. Raise Unavailable."""
        subject = _chunk_subject(file.nuid)
        found = await durable.next_on(self.connection, STREAM, subject, seq)
        if found is None or found.seq is None:
            raise Unavailable(f"a part of file {file.id} is gone")
        return int(found.seq), found.data or b""

    async def remove(self, file: StoredFile) -> None:
        """Remove a file. Raise Unavailable."""
        await durable.purge(self.connection, STREAM, _meta_subject(file.id))
        await durable.purge(self.connection, STREAM, _chunk_subject(file.nuid))

    async def remove_expired(self) -> int:
        """Remove the files whose time is over, and return how many. Raise Unavailable."""
        if not await durable.exists(self.connection, STREAM):
            return 0
        gone = 0
        async for said in inference_log.read(self.connection, [f"$O.{BUCKET}.M.>"], stream=STREAM):
            file = _decoded(said.body)
            if file is not None and _over(file):
                await self.remove(file)
                gone += 1
        return gone


class Upload:
    """A file that is being written; it can not be read before `finish`."""

    def __init__(self, connection: Connection, identity: str, limit: int = LARGEST) -> None:
        self.id = identity
        self.size = 0
        self._connection = connection
        self._limit = limit
        self._nuid = uuid.uuid4().hex
        self._digest = hashlib.sha256()
        self._buffer = bytearray()
        self._chunks = 0
        self._first = 0
        self._sealed = False

    async def write(self, data: bytes) -> None:
        """Add bytes. Raise TooLarge, NoRoom, Unavailable."""
        self.size += len(data)
        if self.size > self._limit:
            raise TooLarge(f"a file may have {self._limit} bytes")
        self._buffer += data
        while len(self._buffer) >= _CHUNK:
            await self._store(bytes(self._buffer[:_CHUNK]))
            del self._buffer[:_CHUNK]

    async def _store(self, chunk: bytes) -> None:
        seq = await durable.store(self._connection, _chunk_subject(self._nuid), chunk)
        self._digest.update(chunk)
        self._chunks += 1
        self._first = self._first or seq or 0

    async def finish(self, facts: FileFacts, notes: dict[str, str] | None = None) -> StoredFile:
        """Complete the file. If there is one with this id already, that stays, and is returned.

        Raise NoRoom, Unavailable.
        """
        if self._buffer:
            await self._store(bytes(self._buffer))
            self._buffer.clear()
        digest = base64.urlsafe_b64encode(self._digest.digest()).decode()
        file = StoredFile(
            id=self.id,
            size=self.size,
            chunks=self._chunks,
            nuid=self._nuid,
            first=self._first,
            facts=facts,
            notes=notes or {},
        )
        subject = _meta_subject(self.id)
        body = _written(file, f"SHA-256={digest}")
        self._sealed = True  # it may be stored although no acknowledgement comes
        if await durable.store(self._connection, subject, body, durable.FIRST) is not None:
            return file
        found = await durable.last(self._connection, STREAM, subject)
        there = None if found is None else _decoded(found.data or b"")
        if there is None or there.nuid == self._nuid:
            return file
        await self._purge()
        return there

    async def abandon(self) -> None:
        """Remove what was written, unless it may be complete; NATS drops it later anyway."""
        if not self._sealed:
            await self._purge()

    async def _purge(self) -> None:
        with contextlib.suppress(Unavailable):
            await durable.purge(self._connection, STREAM, _chunk_subject(self._nuid))


def _written(file: StoredFile, digest: str) -> bytes:
    facts = {key: str(value) for key, value in msgspec.to_builtins(file.facts).items()}
    return msgspec.json.encode(
        _Meta(
            name=file.id,
            nuid=file.nuid,
            size=file.size,
            chunks=file.chunks,
            digest=digest,
            mtime=datetime.now(UTC).isoformat(),
            metadata={**facts, "first": str(file.first), "notes": _noted(file.notes)},
            options={"max_chunk_size": _CHUNK},
        )
    )


def _noted(notes: dict[str, str]) -> str:
    return msgspec.json.encode(notes).decode()


def _decoded(data: bytes) -> StoredFile | None:
    """Read a file's description; None for one that was written by other programs, or removed."""
    try:
        meta = msgspec.json.decode(data, type=_Meta)
        if meta.deleted:
            return None
        return StoredFile(
            id=meta.name,
            size=meta.size,
            chunks=meta.chunks,
            nuid=meta.nuid,
            first=int(meta.metadata["first"]),
            facts=msgspec.convert(meta.metadata, FileFacts, strict=False),
            notes=msgspec.json.decode(meta.metadata["notes"], type=dict[str, str]),
        )
    except (*UNREADABLE, KeyError):
        return None


def _over(file: StoredFile) -> bool:
    return file.facts.expires <= time.time()


def _read(data: bytes) -> StoredFile | None:
    file = _decoded(data)
    return None if file is None or _over(file) else file
