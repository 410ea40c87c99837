"""History over HTTP reads so much at a time, says how to go on, and comes to the same at last."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar.datastructures import MultiDict

from nebula.events.evolve import evolve
from nebula.events.record import Entry, read_entry
from nebula.events.state import EMPTY, State
from nebula.history.event_filter import EventFilter, FilterSpec
from nebula.history.moments import Moment
from nebula.http import history, scanning, shown_log, usage
from nebula.http.errors import ApiError
from nebula.http.scanning import Busy, Credit, Scans
from nebula.http.shown_log import GatewayLog
from nebula.store import inference_log, usage_log
from nebula.store.archive import Reader
from nebula.store.inference_log import StoredMessage
from nebula.store.usage import Pace, UsageStore
from nebula.store.usage_log import Usage
from tests.unit.corpus import FOLDER

pytestmark = pytest.mark.anyio

T = TypeVar("T")

with (FOLDER / "lost-node.jsonl").open("rb") as _file:
    ENTRIES: list[Entry] = list(Reader(_file, "lost-node").entries())
RECORDS = [read_entry(entry) for entry in ENTRIES]
SELECTIONS = [
    FilterSpec(),
    FilterSpec(types=("EngineReady", "NodeLost")),
    FilterSpec(("model",)),
    FilterSpec(("poet",)),
    FilterSpec(node="n2"),
    FilterSpec(rejected=True),
    FilterSpec(cause=3),
    FilterSpec(("model",), cause=14),
    FilterSpec(node="n1", cause=2),
]


class Gateway:
    """A gateway whose log is a recorded one, and counts what is read of it."""

    def __init__(self) -> None:
        state = EMPTY
        for record in RECORDS:
            state = evolve(state, record)
        self.projection = SimpleNamespace(state=state)
        self.log = self
        self.read = 0

    async def entries(self, after: int, until: int) -> AsyncGenerator[list[Entry], None]:
        for entry in ENTRIES[after:until]:
            self.read += 1
            yield [entry]


class NoSnapshots:
    def __init__(self, _: object) -> None:
        pass

    async def newest(self, _: object) -> State | None:
        return None


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    monkeypatch.setattr(shown_log, "Snapshots", NoSnapshots)
    monkeypatch.setattr(scanning, "ENTRIES", 7)
    return Gateway()


def passing(chosen: FilterSpec) -> list[int]:
    sieve, state, seqs = EventFilter(chosen), EMPTY, []
    for record in RECORDS:
        before, state = state, evolve(state, record)
        if sieve.passes(record, before, state):
            seqs.append(record.seq)
    return seqs


async def page(gateway: Gateway, scans: Scans, after: int, chosen: FilterSpec) -> Any:
    before = gateway.read
    try:
        return await history._page(GatewayLog(cast("Any", gateway)), scans, after, 5, chosen)
    finally:
        assert gateway.read - before <= 8


async def come_again(asking: Callable[[], Awaitable[T]]) -> T:
    """Ask until it is not told any more that the log is not read so far yet."""
    for _ in range(len(RECORDS)):
        try:
            return await asking()
        except ApiError as error:
            if error.status != 503 or not error.retry_after:
                raise
    return pytest.fail("it is never read")


@pytest.mark.parametrize("chosen", SELECTIONS)
@pytest.mark.parametrize("begin", [0, 3, len(RECORDS) - 3, len(RECORDS)])
async def test_page_after_page_gives_all_that_is_selected(
    gateway: Gateway, chosen: FilterSpec, begin: int
) -> None:
    scans, found, after = Scans(), [], begin
    while after is not None:
        one = await come_again(functools.partial(page, gateway, scans, after, chosen))
        found += [event.seq for event in one.events]
        assert one.next is None or one.next > after
        after = one.next
    assert found == [seq for seq in passing(chosen) if seq > begin]


async def test_the_state_at_a_moment_is_come_by_in_steps(gateway: Gateway) -> None:
    wanted, folded = Moment(seq=20), EMPTY
    asking = functools.partial(history.state_at, GatewayLog(cast("Any", gateway)), Scans(), wanted)
    with pytest.raises(ApiError, match="read up to event 7"):
        await asking()
    for record in RECORDS[:20]:
        folded = evolve(folded, record)
    assert await come_again(asking) == folded


async def test_only_so_many_read_at_a_time(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "PATIENCE", 0.01)
    scans = Scans()
    entered, leaving = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        async with scans.place():
            entered.set()
            await leaving.wait()

    reading = [asyncio.create_task(read()) for _ in range(scanning.PLACES)]
    await entered.wait()
    with pytest.raises(ApiError) as refused:
        await history._page(GatewayLog(cast("Any", gateway)), scans, 0, 5, FilterSpec())
    assert (refused.value.status, refused.value.retry_after) == (503, history.RETRY_READING)
    leaving.set()
    await asyncio.gather(*reading)
    assert (await history._page(GatewayLog(cast("Any", gateway)), scans, 0, 5, FilterSpec())).events


async def test_usage_is_read_within_the_same_places_and_at_the_same_pace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paces: list[Pace] = []

    async def found(_: object, __: int, ___: int, pace: Pace) -> Usage:
        paces.append(pace)
        return Usage((), 0, 0, 0)

    monkeypatch.setattr(usage_log, "usage", found)
    monkeypatch.setattr(scanning, "PATIENCE", 0.01)
    monkeypatch.setattr(usage, "principal_of", lambda _: SimpleNamespace(key=None))
    scans, gateway = Scans(), cast("Any", SimpleNamespace(connection=None))
    asked = cast("Any", SimpleNamespace(query_params=MultiDict({"start_time": "86400"}), scope={}))
    shown = functools.partial(usage._show, asked, gateway, scans, "completions")
    async with AsyncExitStack() as all_places:
        for _ in range(scanning.PLACES):
            await all_places.enter_async_context(scans.place())
        with pytest.raises(ApiError) as refused:
            await shown()
        assert (refused.value.status, paces) == (503, [])
    assert (await shown())["object"] == "page"
    assert len(paces) == 1


async def test_reading_usage_pauses_after_each_message(monkeypatch: pytest.MonkeyPatch) -> None:
    said = [StoredMessage(seq, 0, "", b"", b"{}", 2) for seq in range(1, 6)]
    paused: list[float] = []

    async def messages(*_: object, **__: object) -> AsyncGenerator[StoredMessage, None]:
        for each in said:
            yield each

    async def pace(worked: float) -> None:
        paused.append(worked)

    monkeypatch.setattr(inference_log, "read", messages)
    store = UsageStore(cast("Any", None))
    event = await usage_log.summed(store, 0, 5, whole=True, pace=pace)
    assert (event.until, event.lost, len(paused)) == (5, 0, 5)


def test_only_so_many_streams_run_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "STREAMS", 1)
    scans = Scans()
    scans.check_streams()
    with scans.stream(), pytest.raises(Busy):
        scans.check_streams()
    scans.check_streams()


@given(st.lists(st.tuples(st.floats(0, 0.1), st.floats(0, 1)), max_size=50))
def test_work_takes_no_more_than_its_share_in_the_long_run(
    done: list[tuple[float, float]],
) -> None:
    credit, now, total = Credit(0.25, 0.25, 0.0), 0.0, 0.0
    for worked, idle in done:
        now += worked + idle
        total += worked
        now += credit.spend(worked, now)
        assert total <= 0.25 + 0.25 * now + 1e-6


def test_only_some_states_are_kept() -> None:
    scans, state = Scans(), EMPTY
    for record in RECORDS[:20]:
        state = evolve(state, record)
        scans.keep(state)
        scans.keep_chain(state, EventFilter(FilterSpec(cause=1)))
        scans.keep_chain(state, EventFilter(FilterSpec(cause=2)))
    assert len(scans._states) == len(scans._chains) == scanning.KEPT
    assert scans.state(Moment(seq=15)).seq == 15
    assert scans.state(Moment(seq=5)).seq == 0
    assert scans.chain(FilterSpec(cause=1), 20) is not None
    assert scans.chain(FilterSpec(cause=3), 20) is None


@pytest.mark.parametrize("chosen", [each for each in SELECTIONS if not each.needs_states])
def test_what_needs_no_states_is_the_same_without(chosen: FilterSpec) -> None:
    sieve = EventFilter(chosen)
    found = [record.seq for record in RECORDS if sieve.passes(record, EMPTY, EMPTY)]
    assert found == passing(chosen)
