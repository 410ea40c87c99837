"""How an engine fetches a body that its request does not carry, and how a gateway hands it out."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import OutboundBufferLimitError

from nebula.actors.engine import fetching
from nebula.actors.engine.fetching import TRIES, BodyFetcher, BodyLost
from nebula.actors.gateway.large_bodies import CARRIED, LargeBodies
from nebula.events.envelope import HEADER_ROOM
from nebula.events.inference import BodyWanted, Request
from nebula.store.connection import Listener
from nebula.store.wire import Arrival

pytestmark = pytest.mark.anyio

OWN, OTHER = "_INBOX_engine.chat.chat-0.id.token", "_INBOX_engine.poet.poet-0.id.token"


class Nats:
    """A gateway and an engine on one connection, whose messages hold `room` bytes of a body."""

    def __init__(self, room: int) -> None:
        self.max_body = room + HEADER_ROOM
        self.client = self
        self.failures: list[Exception | bytes | None] = []
        self.asked: list[BodyWanted] = []
        self.bodies = LargeBodies(self, "g1", self.gives)  # type: ignore[arg-type]
        self.engine = BodyFetcher(self)  # type: ignore[arg-type]
        self.inbox = OWN
        self.said: list[tuple[bytes, bytes]] = []

    def gives(self, identity: str, reply: str) -> bool:
        assert identity == "r1"
        return reply.startswith(OWN)

    def new_inbox(self) -> str:
        return OWN

    async def listen(self, subject: str, arrival: Arrival) -> None:
        assert subject == f"{OWN}.*"
        self.answered = arrival

    async def listen_for_questions(self, subject: str, arrival: Arrival) -> None:
        assert subject == "nebula.bodies.g1"
        self.wanted = arrival

    def on_reconnect(self, listener: Listener) -> None:
        self.reconnected = listener

    def post(self, subject: str, header: bytes, body: bytes) -> None:
        assert len(body) <= self.max_body - HEADER_ROOM
        self.said.append((header, body))
        self.answered(subject.replace(self.inbox, OWN).encode(), header, body)

    def ask(self, subject: str, reply: str, body: bytes) -> None:
        assert subject == "nebula.bodies.g1"
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            if failure is not None:
                self.answered(reply.encode(), failure, b"")
            return
        self.asked.append(msgspec.json.decode(body, type=BodyWanted))
        self.wanted(reply.replace(OWN, self.inbox).encode(), b"", body)

    async def fetch(self, request: Request) -> bytes:
        await self.bodies.listen()
        await self.engine.listen()
        return await self.engine.fetch(request)


def request(body: bytes, attempt: int = 1) -> Request:
    return Request("r1", "g1", "chat", "/v1/embeddings", body, attempt=attempt)


def sent(body: bytes, attempt: int = 1, size: int | None = None) -> Request:
    """The request as the engine gets it."""
    size = len(body) if size is None else size
    return msgspec.structs.replace(request(body, attempt), body=b"", size=size)


@given(body=st.binary(min_size=1, max_size=300), room=st.integers(1, 400))
async def test_the_parts_are_the_body_and_none_is_larger_than_a_message(
    body: bytes, room: int
) -> None:
    nats = Nats(room)
    nats.bodies.hold(request(body))
    assert await nats.fetch(sent(body)) == body
    assert len(nats.asked) == -(-len(body) // room)
    assert nats.bodies.fits(body), "it fits into one message of any server that is not refused"


@given(length=st.integers(0, 20_000), room=st.integers(8 * 1024, 12 * 1024))
def test_a_body_that_fits_into_a_message_can_travel_in_it(length: int, room: int) -> None:
    assert Nats(room).bodies.fits(bytes(length)) == (length <= room)


@given(length=st.integers(0, 2 * CARRIED), keep=st.booleans(), own=st.booleans())
def test_a_request_carries_its_body_if_it_is_small_or_outlives_its_gateway(
    length: int, keep: bool, own: bool
) -> None:
    asked = msgspec.structs.replace(
        request(bytes(length)), keep=keep, gateway="g1" if own else "nobody"
    )
    room = 3 * CARRIED // 2
    carried = length <= room and (length <= CARRIED or keep or not own)
    assert Nats(room).bodies.carried(asked) == carried


async def test_a_part_that_is_lost_on_its_way_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetching, "PART_PATIENCE", 0.01)
    nats = Nats(2)
    nats.bodies.hold(request(b"12345"))
    nats.failures = [None, OutboundBufferLimitError()]
    assert len(nats.failures) < TRIES
    assert await nats.fetch(sent(b"12345")) == b"12345"


async def test_a_part_that_was_under_way_when_nats_was_lost_is_asked_for_at_once() -> None:
    nats = Nats(8)
    nats.bodies.hold(request(b"12345"))
    nats.failures = [None] * (TRIES + 1)
    fetched = asyncio.create_task(nats.fetch(sent(b"12345")))
    while nats.failures:
        await asyncio.sleep(0)
        if nats.engine._waiting:
            await nats.reconnected()
    assert await fetched == b"12345"


@pytest.mark.parametrize("failures", [[b"NATS/1.0 503\r\n\r\n"], [None] * TRIES])
async def test_the_body_of_a_gateway_that_is_gone_is_lost(
    failures: list[Exception | bytes | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "PART_PATIENCE", 0.01)
    nats = Nats(2)
    nats.bodies.hold(request(b"12345"))
    nats.failures = failures.copy()
    with pytest.raises(BodyLost, match="gateway"):
        await nats.fetch(sent(b"12345"))
    assert not nats.engine._waiting


async def test_an_attempt_that_is_not_wanted_any_more_gets_no_part() -> None:
    nats = Nats(2)
    with pytest.raises(BodyLost, match="does not want it any more"):
        await nats.fetch(sent(b"12345"))
    nats.bodies.hold(request(b"12345", attempt=2))
    with pytest.raises(BodyLost, match="does not want it any more"):
        await nats.fetch(sent(b"12345"))
    assert await nats.fetch(sent(b"12345", attempt=2)) == b"12345"
    nats.bodies.forget("r1")
    with pytest.raises(BodyLost, match="does not want it any more"):
        await nats.fetch(sent(b"12345", attempt=2))


async def test_a_part_goes_to_no_inbox_of_another_engine() -> None:
    nats = Nats(2)
    nats.bodies.hold(request(b"12345"))
    nats.inbox = OTHER
    with pytest.raises(BodyLost, match="does not want it any more"):
        await nats.fetch(sent(b"12345"))


async def test_a_part_goes_to_no_subject_that_is_not_an_inbox() -> None:
    nats = Nats(2)
    nats.bodies.hold(request(b"12345"))
    nats.bodies._gives = lambda *_: True
    await nats.bodies.listen()
    question = msgspec.json.encode(BodyWanted("r1", 1, 0, 2))
    nats.wanted(b"nebula.events.model.chat.ModelLoadRequested", b"", question)
    assert nats.said == []


async def test_a_size_that_was_never_true_ends_the_attempt() -> None:
    nats = Nats(2)
    nats.bodies.hold(request(b"12345"))
    with pytest.raises(BodyLost, match="5 bytes of it, and not 9"):
        await nats.fetch(sent(b"12345", size=9))


@pytest.mark.parametrize("question", [b"", b"{", b'{"request":1}', b'{"offset":-1}'])
async def test_what_is_not_a_question_is_passed_over(question: bytes) -> None:
    nats = Nats(2)
    await nats.bodies.listen()
    nats.wanted(OWN.encode(), b"", question)
    assert nats.said == []
