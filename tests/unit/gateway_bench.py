"""A gateway without NATS: what it publishes is recorded, what it listens to is said by hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, cast

import msgspec
from msgspec import Struct
from nats.aio.msg import Msg

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.delivery import Delivery
from nebula.events import envelope, piece_envelope, subjects
from nebula.events.inference import Piece, Request, StillWanted, UnderWay, Unwanted
from nebula.events.record import parse_headers
from nebula.events.state import NameBinding
from nebula.store.connection import Unavailable
from nebula.store.inference_log import StoredMessage
from tests.unit.flights import REQUEST, serving


class Posted(Struct, frozen=True):
    """What the gateway has published."""

    subject: str
    header: bytes
    body: bytes


class Nats:
    """Stands where the connection and its client stand."""

    def __init__(self) -> None:
        self.client = self
        self.name = "test"
        self.connected = True
        self.server, self.others, self.lacking = "nats:4222", (), "no stream here"
        self.max_body = 2**20
        self.posted: list[Posted] = []
        self.heard: dict[str, Callable[..., Any]] = {}
        self.kept: list[StoredMessage] = []
        self.keeps = True
        self.refuses: Exception | None = None
        self._lost: list[Callable[[], Awaitable[None]]] = []
        self._back: list[Callable[[], Awaitable[None]]] = []

    async def listen(self, subject: str, arrival: Callable[..., Any], queue: str = "") -> None:
        self.heard[subject] = arrival

    async def listen_for_questions(self, subject: str, arrival: Callable[..., Any]) -> None:
        self.heard[subject] = arrival

    async def subscribe(self, subject: str, cb: Callable[..., Any]) -> None:
        self.heard[subject] = cb

    def post(self, subject: str, header: bytes = b"", body: bytes = b"") -> None:
        if self.refuses is not None:
            raise self.refuses
        self.posted.append(Posted(subject, header, body))

    def on_disconnect(self, listener: Callable[[], Awaitable[None]]) -> None:
        self._lost.append(listener)

    def on_reconnect(self, listener: Callable[[], Awaitable[None]]) -> None:
        self._back.append(listener)

    async def dies(self) -> None:
        self.connected = False
        for listener in self._lost:
            await listener()

    async def returns(self) -> None:
        self.connected = True
        for listener in self._back:
            await listener()

    async def read(self, _: object, wanted: Sequence[str]) -> AsyncIterator[StoredMessage]:
        """The stream of the data plane, as far as it is read here."""
        await asyncio.sleep(0)
        if not self.keeps:
            raise Unavailable("no stream")
        for said in self.kept:
            if said.subject in wanted:
                yield said


class Bench:
    """A gateway `gw`, and the actors that talk to it."""

    def __init__(self, *, answer_memory: int = 2**28) -> None:
        self.nats = Nats()
        self.gateway = Gateway(cast("Any", self.nats), "gw", answer_memory=answer_memory)
        self.gateway.projection.state = serving().state

    def says(self, *pieces: Piece, to: str = "r", lost: bool = False) -> None:
        """Let an actor answer; the stream keeps it, and unless it is lost the gateway hears it."""
        subject = subjects.responses("gw", to)
        for piece in pieces:
            header = envelope.block(piece_envelope.headers_of(piece))
            self.nats.kept.append(StoredMessage(1, 1, subject, header, piece.body, len(piece.body)))
            if not lost:
                self.hears(subject, header, piece.body)

    def hears(self, subject: str, header: bytes, body: bytes) -> None:
        self.nats.heard[subjects.responses("gw", "*")](subject.encode(), header, body)

    async def asks(self, replica: str, **under_way: UnderWay) -> dict[str, int]:
        """Let an engine ask which of its requests are wanted; return which are not."""
        body = msgspec.json.encode(StillWanted(replica, under_way))
        message = Msg(cast("Any", None), subjects.waiting("gw"), "_INBOX.x", body)
        before = len(self.nats.posted)
        await self.nats.heard[subjects.waiting("gw")](message)
        replies = [each.body for each in self.nats.posted[before:] if each.subject == "_INBOX.x"]
        return msgspec.json.decode(replies[0], type=Unwanted).requests if replies else {}

    @property
    def requests(self) -> list[Request]:
        """The requests that were sent, in order."""
        found = []
        for each in self.nats.posted:
            if each.subject.startswith("nebula.inference.requests."):
                model = each.subject.split(".")[3]
                request = envelope.read_request(model, parse_headers(each.header), each.body)
                assert request is not None
                found.append(request)
        return found

    @property
    def subjects(self) -> list[str]:
        """Where the gateway has published, in order."""
        return [each.subject.removeprefix("nebula.inference.") for each in self.nats.posted]

    def ask(self, request: Request = REQUEST) -> Delivery:
        return self.gateway.ask(request, NameBinding("chat"))


@contextlib.asynccontextmanager
async def listening(bench: Bench) -> AsyncIterator[Bench]:
    """Let a bench's gateway listen and work; it ends with the context."""
    before = asyncio.all_tasks()
    await bench.gateway.begin()
    started = asyncio.all_tasks() - before
    try:
        yield bench
    finally:
        for task in started:
            task.cancel()
        await asyncio.gather(*started, return_exceptions=True)
