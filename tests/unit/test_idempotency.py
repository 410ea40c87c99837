"""Claims while their stream is away: one budget, then refusals at once, and nothing left behind."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace
from nats.errors import TimeoutError as NatsTimeout
from nats.js.api import DiscardPolicy, RawStreamMsg
from nats.js.errors import APIError, NoStreamResponseError

from nebula.actors.gateway import idempotency
from nebula.actors.gateway.not_served import NotServed
from nebula.actors.gateway.probing import Probed
from nebula.actors.gateway.shares import Shares
from nebula.events import envelope
from nebula.events.inference import ALL_ATTEMPTS, Request
from nebula.store.streams import definitions

pytestmark = pytest.mark.anyio

REQUEST = Request(
    "r", "gw", "chat", "/v1/completions", b"x" * 4_000_000, prefix=("a",) * 9, user="k/u", keep=True
)


class Stream:
    """A gateway whose stream of claims fails with an error, answers, or says nothing."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.silent = False
        self.asked: list[float] = []
        self.sizes: list[int] = []
        self.dropped: list[tuple[str, int, bytes]] = []
        self.claims_stream = Probed()
        self.claim_shares = Shares()
        self.connection = SimpleNamespace(connected=True, client=self)
        self.sending = SimpleNamespace(
            drop=lambda request, below, why: self.dropped.append((request.id, below, why))
        )

    def jetstream(self, **_: object) -> Stream:
        return self

    async def publish(self, _: str, body: bytes, *, timeout: float, **___: object) -> None:
        self.asked.append(timeout)
        self.sizes.append(len(body))
        if self.silent:
            await asyncio.sleep(timeout)
            raise NatsTimeout
        if self.error is not None:
            raise self.error

    async def claim(self) -> object:
        return await idempotency.claim(cast("Any", self), REQUEST, "f")


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    monkeypatch.setattr(idempotency, "_PATIENCE", 0.3)
    monkeypatch.setattr(idempotency, "_TRY", 0.2)
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
    assert refused.value.retry_after == idempotency.RETRY_AFTER
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
    first, second = await asyncio.gather(stream.claim(), stream.claim())
    assert first is None
    assert second is None


async def test_without_nats_no_request_waits_for_a_claim(stream: Stream) -> None:
    stream.connection.connected = False
    with pytest.raises(NotServed, match="NATS can't be reached"):
        await stream.claim()
    assert stream.asked == []


async def test_a_claim_is_small_whatever_was_asked(stream: Stream) -> None:
    assert await stream.claim() is None
    assert stream.sizes == [0]
    assert 0 < stream.claim_shares._taken["k"] < 600


async def test_an_owner_claims_no_more_than_its_share(stream: Stream) -> None:
    stream.claim_shares = Shares(most=500)
    assert await stream.claim() is None
    with pytest.raises(idempotency.TooManyClaims, match="for this API key") as refused:
        await stream.claim()
    assert refused.value.retry_after == 300
    assert len(stream.asked) == 1


async def test_a_full_stream_is_told_and_pushes_out_nothing(stream: Stream) -> None:
    stream.error = APIError(code=503, err_code=10077, description="maximum bytes exceeded")
    with pytest.raises(NotServed, match="no more answers can be kept") as refused:
        await stream.claim()
    assert refused.value.retry_after == idempotency.FULL_RETRY
    assert stream.dropped == []
    assert len(stream.asked) == 1
    assert definitions()[3].discard == DiscardPolicy.NEW


@pytest.mark.parametrize(
    ("identity", "owner", "found"),
    [("r", "k", True), ("r", "", False), ("r", "other", False), ("x-r", "k", False)],
)
async def test_a_claim_is_found_by_its_owner_under_its_whole_id_alone(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, identity: str, owner: str, found: bool
) -> None:
    headers = envelope.request_headers(replace(REQUEST, prefix=()))
    said = RawStreamMsg(
        headers={**headers, envelope.MODEL: "chat"}, data=b"", time=datetime.now(UTC)
    )

    async def last(*_: object) -> RawStreamMsg:
        return said

    monkeypatch.setattr(idempotency, "_last", last)
    claim = await idempotency.find_claim(cast("Any", stream), identity, owner)
    assert (claim is not None) == found
    if claim is not None:
        assert (claim.request.id, claim.owner, claim.stream) == ("r", "k", False)


def test_an_id_can_not_be_computed_from_its_key_and_its_claim_is_found_by_it() -> None:
    ids = {idempotency.keyed_id("user", 0, b"order-1") for _ in range(100)}
    assert len(ids) == 100
    assert {len(each) for each in ids} == {32}
    assert len({idempotency._subject(each) for each in ids}) == 1
    others = (("else", 0, b"order-1"), ("user", 1, b"order-1"), ("user", 0, b"order-2"))
    slots = {idempotency._subject(idempotency.keyed_id(*each)) for each in others}
    assert len(slots | {idempotency._subject(each) for each in ids}) == 4
