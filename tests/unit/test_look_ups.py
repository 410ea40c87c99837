"""Looking for missed pieces: requests that look at the same time share one reading of bundles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from nebula.actors.gateway.answer import Answer
from nebula.actors.gateway.in_flight import InFlightRequest
from nebula.actors.gateway.look_ups import LookUps
from nebula.events.state import NameBinding
from nebula.store import inference_log, request_log
from nebula.store.connection import Unavailable
from nebula.store.inference_log import StoredMessage
from tests.unit.flights import REQUEST

pytestmark = pytest.mark.anyio

NOW = 100.0
"""The time of the look-ups, in seconds."""


class Stream:
    """The data plane's stream: single pieces have even sequences, those in bundles odd ones."""

    def __init__(self) -> None:
        self.readings: list[tuple[set[str], float]] = []
        self.begun, self.goes_on = asyncio.Event(), asyncio.Event()
        self.goes_on.set()
        self.fails = False

    async def read(self, _: object, wanted: Sequence[str]) -> AsyncIterator[StoredMessage]:
        for seq in (2, 4):
            yield said(seq, wanted[0])

    async def missed(
        self, _: object, gateway: str, requests: Mapping[str, int], seconds: float
    ) -> dict[str, list[StoredMessage]]:
        assert gateway == "gw"
        self.readings.append((set(requests), seconds))
        self.begun.set()
        await self.goes_on.wait()
        if self.fails:
            raise Unavailable("no stream")
        return {each: [said(3, each), said(5, each)] for each in requests}


def said(seq: int, subject: str) -> StoredMessage:
    return StoredMessage(seq, 1, subject, b"", b"", 0)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    made = Stream()
    monkeypatch.setattr(inference_log, "read", made.read)
    monkeypatch.setattr(request_log, "missed", made.missed)
    return made


def flight(identity: str, heard: float = NOW - 3, *, bundled: bool = True) -> InFlightRequest:
    request = replace(REQUEST, id=identity, bundled=bundled)
    return InFlightRequest(
        request=request,
        binding=NameBinding("chat"),
        answer=Answer(request),
        idle=1.0,
        began=heard,
        heard_at=heard,
    )


def searching() -> LookUps:
    connection: Any = None
    return LookUps(connection, "gw", lambda: NOW)


async def test_single_pieces_and_those_in_bundles_are_found_in_their_order(
    stream: Stream,
) -> None:
    found = await searching().find(flight("r"), 5.0)
    assert [each.seq for each in found] == [2, 3, 4, 5]
    assert stream.readings == [({"r"}, 3.0)]


async def test_bundles_are_not_read_for_a_request_whose_pieces_are_in_none(
    stream: Stream,
) -> None:
    found = await searching().find(flight("r", bundled=False), 5.0)
    assert [each.seq for each in found] == [2, 4]
    assert not stream.readings


async def test_requests_that_look_meanwhile_share_the_next_reading(stream: Stream) -> None:
    looking = searching()
    stream.goes_on.clear()
    first = asyncio.ensure_future(looking.find(flight("r0"), 5.0))
    await stream.begun.wait()
    others = [
        asyncio.ensure_future(looking.find(flight(f"r{number}", NOW - number), 5.0))
        for number in range(1, 50)
    ]
    await asyncio.sleep(0)
    stream.goes_on.set()
    found = await asyncio.gather(first, *others)
    assert all([each.seq for each in part] == [2, 3, 4, 5] for part in found)
    assert stream.readings == [({"r0"}, 3.0), ({f"r{n}" for n in range(1, 50)}, 49.0)]


async def test_a_reading_that_fails_leaves_what_was_found_before_and_is_tried_by_the_next(
    stream: Stream,
) -> None:
    looking = searching()
    stream.fails = True
    assert [each.seq for each in await looking.find(flight("r"), 5.0)] == [2, 4]
    stream.fails = False
    assert [each.seq for each in await looking.find(flight("r"), 5.0)] == [2, 3, 4, 5]


async def test_a_look_up_that_takes_too_long_ends(stream: Stream) -> None:
    stream.goes_on.clear()
    assert [each.seq for each in await searching().find(flight("r"), 0.01)] == [2, 4]
