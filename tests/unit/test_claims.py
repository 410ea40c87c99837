"""Claims while their stream is away: one budget, then refusals at once, and nothing left behind."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from nats.errors import TimeoutError as NatsTimeout
from nats.js.errors import NoStreamResponseError

from nebula.actors.gateway import claims
from nebula.actors.gateway.failures import NotServed
from nebula.actors.gateway.probing import Probed
from nebula.events.inference import ALL_ATTEMPTS, Request

pytestmark = pytest.mark.anyio

REQUEST = Request("r", "gw", "chat", "/v1/completions", b"{}", keep=True)


class Stream:
    """A gateway whose stream of claims fails with an error, answers, or says nothing."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.silent = False
        self.asked: list[float] = []
        self.dropped: list[tuple[str, int, bytes]] = []
        self.claims = Probed()
        self.connection = SimpleNamespace(connected=True, client=self)
        self.sending = SimpleNamespace(
            drop=lambda request, below, why: self.dropped.append((request.id, below, why))
        )

    def jetstream(self, **_: object) -> Stream:
        return self

    async def publish(self, _: str, __: bytes, *, timeout: float, **___: object) -> None:
        self.asked.append(timeout)
        if self.silent:
            await asyncio.sleep(timeout)
            raise NatsTimeout
        if self.error is not None:
            raise self.error

    async def claim(self) -> object:
        return await claims.claim(cast("Any", self), REQUEST, "f")


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    monkeypatch.setattr(claims, "_PATIENCE", 0.3)
    monkeypatch.setattr(claims, "_TRY", 0.2)
    return Stream()


async def test_the_first_claim_of_an_id_has_it(stream: Stream) -> None:
    assert await stream.claim() is None
    assert len(stream.asked) == 1


@pytest.mark.parametrize("error", [NatsTimeout(), NoStreamResponseError()])
async def test_a_stream_that_does_not_answer_is_asked_until_its_time_is_over(
    stream: Stream, error: Exception
) -> None:
    stream.error = error
    with pytest.raises(NotServed, match=r"does not answer.*ask without X-Resumable") as refused:
        await stream.claim()
    assert refused.value.retry_after == claims.RETRY_AFTER
    assert len(stream.asked) > 1
    assert all(seconds <= 0.2 for seconds in stream.asked)


async def test_what_may_be_claimed_all_the_same_is_noted_as_not_begun(stream: Stream) -> None:
    stream.error = NatsTimeout()
    with pytest.raises(NotServed):
        await stream.claim()
    assert stream.dropped == [("r", ALL_ATTEMPTS, b"not-taken")]


async def test_while_it_is_known_to_be_away_one_asks_and_the_others_are_refused_at_once(
    stream: Stream,
) -> None:
    stream.silent = True
    with pytest.raises(NotServed):
        await stream.claim()
    asked = len(stream.asked)
    asking = asyncio.create_task(stream.claim())
    await asyncio.sleep(0)
    for _ in range(5):
        with pytest.raises(NotServed, match="does not answer"):
            await stream.claim()
    assert len(stream.asked) == asked + 1
    assert len(stream.dropped) == 1
    with pytest.raises(NotServed):
        await asking
    stream.silent = False
    assert await stream.claim() is None
    assert await asyncio.gather(stream.claim(), stream.claim()) == [None, None]


async def test_without_nats_nobody_waits_for_a_claim(stream: Stream) -> None:
    stream.connection.connected = False
    with pytest.raises(NotServed, match="NATS can't be reached"):
        await stream.claim()
    assert stream.asked == []
