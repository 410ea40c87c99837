"""How an engine fetches a body that is larger than a message, and how a gateway hands it out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout

from nebula.actors.engine.fetching import TRIES, BodyLost, fetch
from nebula.actors.gateway.large_bodies import LargeBodies
from nebula.events.envelope import HEADER_ROOM
from nebula.events.inference import BodyWanted, Request
from nebula.events.record import parse_headers

pytestmark = pytest.mark.anyio

OWN, OTHER = "_INBOX_engine.chat.chat-0.id.token", "_INBOX_engine.poet.poet-0.id.token"


class Nats:
    """A gateway and an engine on one connection, whose messages hold `room` bytes of a body."""

    def __init__(self, room: int) -> None:
        self.max_body = room + HEADER_ROOM
        self.client = self
        self.failures: list[Exception] = []
        self.asked: list[BodyWanted] = []
        self.bodies = LargeBodies(self, "g1", self.gives)  # type: ignore[arg-type]
        self.inbox = OWN
        self._reply: tuple[bytes, bytes] = (b"", b"")

    def gives(self, identity: str, reply: str) -> bool:
        assert identity == "r1"
        return reply == OWN

    def post(self, subject: str, header: bytes, body: bytes) -> None:
        assert len(body) <= self.max_body - HEADER_ROOM
        self._reply = header, body

    async def request(self, subject: str, body: bytes, timeout: float) -> Any:
        assert subject == "nebula.bodies.g1"
        if self.failures:
            raise self.failures.pop(0)
        self.asked.append(msgspec.json.decode(body, type=BodyWanted))
        message = SimpleNamespace(data=body, reply=self.inbox)
        await self.bodies._on_wanted(message)  # type: ignore[arg-type]
        header, part = self._reply
        return SimpleNamespace(data=part, headers=parse_headers(header) if header else None)


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
    assert await fetch(nats, sent(body)) == body  # type: ignore[arg-type]
    assert len(nats.asked) == -(-len(body) // room)
    assert nats.bodies.fits(body), "it fits into one message of any server that is not refused"


@given(length=st.integers(0, 20_000), room=st.integers(8 * 1024, 12 * 1024))
def test_a_body_that_fits_into_a_message_is_not_fetched(length: int, room: int) -> None:
    assert Nats(room).bodies.fits(bytes(length)) == (length <= room)


async def test_a_part_that_is_lost_on_its_way_is_asked_for_again() -> None:
    nats = Nats(2)
    nats.bodies.hold(request(b"12345"))
    nats.failures = [NatsTimeout()] * (TRIES - 1)
    assert await fetch(nats, sent(b"12345")) == b"12345"  # type: ignore[arg-type]


@pytest.mark.parametrize("failures", [[NoRespondersError()], [NatsTimeout()] * TRIES])
async def test_the_body_of_a_gateway_that_is_gone_is_lost(failures: list[Exception]) -> None:
    nats = Nats(2)
    nats.bodies.hold(request(b"12345"))
    nats.failures = failures
    with pytest.raises(BodyLost, match="gateway"):
        await fetch(nats, sent(b"12345"))  # type: ignore[arg-type]


async def test_an_attempt_that_is_not_wanted_any_more_gets_no_part() -> None:
    nats = Nats(2)
    with pytest.raises(BodyLost, match="does not want it any more"):
        await fetch(nats, sent(b"12345"))  # type: ignore[arg-type]
    nats.bodies.hold(request(b"12345", attempt=2))
    with pytest.raises(BodyLost, match="does not want it any more"):
        await fetch(nats, sent(b"12345"))  # type: ignore[arg-type]
    assert await fetch(nats, sent(b"12345", attempt=2)) == b"12345"  # type: ignore[arg-type]
    nats.bodies.forget("r1")
    with pytest.raises(BodyLost, match="does not want it any more"):
        await fetch(nats, sent(b"12345", attempt=2))  # type: ignore[arg-type]


async def test_a_part_goes_to_no_inbox_of_another_engine() -> None:
    nats = Nats(2)
    nats.bodies.hold(request(b"12345"))
    nats.inbox = OTHER
    with pytest.raises(BodyLost, match="does not want it any more"):
        await fetch(nats, sent(b"12345"))  # type: ignore[arg-type]


async def test_a_part_goes_to_no_subject_that_is_not_an_inbox() -> None:
    nats = Nats(2)
    nats.bodies.hold(request(b"12345"))
    nats.inbox = "nebula.events.model.chat.ModelLoadRequested"
    nats.gives = lambda *_: True  # type: ignore[method-assign]
    with pytest.raises(BodyLost):
        await fetch(nats, sent(b"12345"))  # type: ignore[arg-type]


async def test_a_size_that_was_never_true_ends_the_attempt() -> None:
    nats = Nats(2)
    nats.bodies.hold(request(b"12345"))
    with pytest.raises(BodyLost, match="5 bytes of it, and not 9"):
        await fetch(nats, sent(b"12345", size=9))  # type: ignore[arg-type]


@pytest.mark.parametrize("question", [b"", b"{", b'{"request":1}', b'{"offset":-1}'])
async def test_what_is_not_a_question_is_passed_over(question: bytes) -> None:
    nats = Nats(2)
    message = SimpleNamespace(data=question, reply=OWN)
    await nats.bodies._on_wanted(message)  # type: ignore[arg-type]
    assert nats._reply == (b"", b"")
    assert isinstance(message, SimpleNamespace | Msg)
