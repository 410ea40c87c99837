"""History over HTTP: the cluster at any moment, and its events as pages or as a stream."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any

import msgspec
from litestar import Request, get
from litestar.params import HeaderParameter
from litestar.response import Response, ServerSentEvent, ServerSentEventMessage
from msgspec import Struct
from msgspec.structs import replace

from nebula.events.evolve import evolve
from nebula.events.folding import Folding
from nebula.events.record import Entry, Record, read_entry
from nebula.events.state import EMPTY, State
from nebula.events.vocabulary import TYPES
from nebula.history import moments
from nebula.history.event_filter import EventFilter, FilterSpec, selection
from nebula.history.moments import BadMoment, Moment
from nebula.http.errors import ApiError, unavailable
from nebula.http.lasting_streams import STILL_HERE, error_event, while_allowed
from nebula.http.scanning import Busy, Scan, Scans
from nebula.http.shown_log import ShownLog
from nebula.http.views import EventView, StateView, event_view, state_view
from nebula.store.connection import Unavailable
from nebula.store.tail import LogReplaced

LARGEST_PAGE = 1000
KEEP_ALIVE = 10.0
"""Seconds of silence after which a stream sends a sign of life."""

SLICE = 500
"""Events folded in a row before other tasks run, so that the gateway serves tokens meanwhile."""

BUSY = "as many requests as allowed read the log through this gateway"
RETRY_READING = 5
"""Seconds after which another request may be allowed to read the log."""

_FILTERS = ("aggregate", "type", "node", "cause", "rejected", "by")


class EventPage(Struct, frozen=True):
    """A page of events; for more, ask again with `after` = `next` unless it is null.

    There may be fewer events than requested, or none, if much of the log had to be read; `next`
    continues from there. `last` is the newest sequence of the log.
    """

    events: list[EventView]
    next: int | None
    last: int


@get("/admin/state")
async def show_state(past: ShownLog, scans: Scans, at: str | None = None) -> StateView:
    """Show the whole cluster, now or `at` a sequence or time."""
    if at is None:
        return state_view(past.state, time.time_ns())
    return state_view(await state_at(past, scans, read_moment(at)))


@get("/admin/events")
async def list_events(
    request: Request[Any, Any, Any],
    past: ShownLog,
    scans: Scans,
    after: str | None = None,
    limit: str = "100",
    last_event_id: Annotated[str | None, HeaderParameter(name="Last-Event-ID")] = None,
) -> Response[EventPage] | ServerSentEvent:
    """List events after a sequence as a page, or stream them if the client accepts that."""
    chosen = _selection(request.query_params)
    if not past.able:
        raise unavailable("NATS can't be reached")
    newest = past.state.seq
    if chosen.cause is not None and chosen.cause > newest:
        raise ApiError(
            400,
            f"cause: there is no sequence {chosen.cause} yet: the log ends with {newest}",
            param="cause",
        )
    if "text/event-stream" in request.headers.get("accept", ""):
        begin = _sequence("Last-Event-ID", last_event_id, newest)
        if last_event_id is None:
            begin = _sequence("after", after, newest) if after is not None else newest
        try:
            scans.check_streams()
        except Busy:
            raise unavailable(BUSY, RETRY_READING) from None
        events = _stream(past, scans, begin, chosen)
        return ServerSentEvent(while_allowed(request, events, error_event))
    size = _sequence("limit", limit, LARGEST_PAGE, least=1)
    begin = _sequence("after", after, newest)
    return Response(await _page(past, scans, begin, size, chosen))


def read_moment(text: str) -> Moment:
    """Read a moment. Raise ApiError 400."""
    try:
        return moments.parse(text, time.time_ns())
    except BadMoment as error:
        raise ApiError(400, f"at: {error}", param="at") from error


def _selection(query: Mapping[str, str]) -> FilterSpec:
    unknown = set(query) - {*_FILTERS, "after", "limit"}
    if unknown:
        raise ApiError(
            400,
            f"there is no filter {sorted(unknown)[0]!r}: take {', '.join(_FILTERS)}, after, limit",
            param=sorted(unknown)[0],
        )
    try:
        chosen = selection(query)
    except ValueError as error:
        raise ApiError(400, str(error), param=str(error).partition(":")[0]) from error
    for name in chosen.types:
        if name not in TYPES:
            raise ApiError(400, f"type: {name!r} is not an event type of Nebula", param="type")
    return chosen


def _sequence(name: str, text: str | None, most: int, least: int = 0) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) < 19):
        raise ApiError(400, f"{name}: {text!r} is not a whole number", param=name)
    if int(text) < least:
        raise ApiError(400, f"{name}: {text} is less than {least}", param=name)
    if int(text) > most:
        raise ApiError(400, f"{name}: {text} is more than {most}", param=name)
    return int(text)


async def state_at(past: ShownLog, scans: Scans, wanted: Moment) -> State:
    """Return the state at a moment. Raise ApiError."""
    newest = past.state
    if wanted.seq is not None and wanted.seq > newest.seq:
        raise ApiError(
            400,
            f"at: there is no sequence {wanted.seq} yet: the log ends with {newest.seq}",
            param="at",
        )
    if not wanted.passed(newest.seq, newest.time) and (
        wanted.seq == newest.seq or wanted.time is not None
    ):
        return newest
    async with reading(scans) as scan:
        folding = Folding(await _begin(past, scans, wanted))
        first: Entry | None = None
        async with aclosing(_slices(past, scan, folding.seq, newest.seq)) as slices:
            async for entries in slices:
                first = first or entries[0]
                due = wanted.before(entries)
                folding.take([read_entry(entry) for entry in due])
                if len(due) < len(entries):
                    break
                scan.read += len(entries)
                if scan.over and folding.seq < newest.seq:
                    scans.keep(folding.state())
                    raise _not_yet(folding.seq)
        state = folding.state()
    if state.seq == 0:
        begun = "" if first is None else f": it was stored at {moments.clock(first.time)}"
        raise ApiError(400, f"at: that is before the first event{begun}", param="at")
    return state


@asynccontextmanager
async def reading(scans: Scans) -> AsyncIterator[Scan]:
    """Read within the block. Raise ApiError 503 if as many requests as allowed read already."""
    try:
        async with scans.place() as scan:
            yield scan
    except Busy:
        raise unavailable(BUSY, RETRY_READING) from None


def _not_yet(seq: int) -> ApiError:
    """Return the error for a request that read as much as allowed: the next one continues."""
    return unavailable(f"the log was read up to event {seq}: ask again to continue from there")


async def _begin(past: ShownLog, scans: Scans, wanted: Moment) -> State:
    """Return a known state at or before a moment; the empty state if there is none."""
    return await past.before(wanted, scans.state(wanted))


async def records(
    past: ShownLog, scan: Scan, after: int, until: int
) -> AsyncGenerator[Record, None]:
    """Yield records one by one, and let other tasks run in between."""
    async with aclosing(_slices(past, scan, after, until)) as slices:
        async for entries in slices:
            for entry in entries:
                scan.read += 1
                yield read_entry(entry)


async def _slices(
    past: ShownLog, scan: Scan, after: int, until: int
) -> AsyncGenerator[list[Entry], None]:
    """Yield entries, as many in a row as may be, and let other tasks run in between."""
    try:
        async with aclosing(past.entries(after, until)) as batches:
            async for batch in batches:
                at = 0
                while at < len(batch):
                    began = time.monotonic()
                    end = at + min(SLICE, scan.left)
                    yield batch[at:end]
                    at = end
                    await scan.worked(time.monotonic() - began)
    except (Unavailable, LogReplaced) as error:
        raise unavailable(str(error)) from error


async def _page(
    past: ShownLog, scans: Scans, after: int, size: int, chosen: FilterSpec
) -> EventPage:
    newest = past.state.seq
    events: list[EventView] = []
    async with reading(scans) as scan:
        state, sieve = await _start(past, scans, after, chosen)
        seq = state.seq
        async with aclosing(records(past, scan, seq, newest)) as entries:
            async for record in entries:
                before, seq = state, record.seq
                if chosen.needs_states:
                    state = evolve(state, record)
                if sieve.passes(record, before, state) and seq > after:
                    events.append(event_view(record, before))
                    if len(events) == size:
                        break
                if scan.over:
                    break
        if seq < newest and scan.over:
            if chosen.needs_states:
                scans.keep(state)
            if chosen.cause is not None:
                scans.keep_chain(replace(state, seq=seq), sieve)
            if seq <= after:
                raise _not_yet(seq)
    return EventPage(events, seq if seq < newest else None, newest)


async def _start(
    past: ShownLog, scans: Scans, after: int, chosen: FilterSpec
) -> tuple[State, EventFilter]:
    """Return the state from which to read events after a sequence, and the filter at that point."""
    start = after
    if chosen.cause is not None:
        kept = scans.chain(chosen, after)
        if kept is not None:
            return kept
        start = min(after, chosen.cause - 1)
    if not chosen.needs_states:
        return replace(EMPTY, seq=start), EventFilter(chosen)
    return await _begin(past, scans, Moment(seq=start)), EventFilter(chosen)


async def _stream(
    past: ShownLog, scans: Scans, after: int, chosen: FilterSpec
) -> AsyncGenerator[ServerSentEventMessage, None]:
    """Yield the selected events until the gateway stops.

    A client that reconnects says which event it received last.
    """
    with scans.stream() as scan:
        async with aclosing(_selected(past, scans, scan, after, chosen)) as messages:
            async for message in messages:
                yield message


async def _selected(
    past: ShownLog, scans: Scans, scan: Scan, after: int, chosen: FilterSpec
) -> AsyncGenerator[ServerSentEventMessage, None]:
    state, sieve = await _start(past, scans, after, chosen)
    async with aclosing(past.follow(state.seq)) as batches:
        coming = asyncio.ensure_future(anext(batches))
        leaving = asyncio.ensure_future(past.leaving.wait())
        loop = asyncio.get_running_loop()
        said_at = loop.time()
        try:
            while True:
                left = said_at + KEEP_ALIVE - loop.time()
                await asyncio.wait(
                    (coming, leaving),
                    timeout=max(0.0, left),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if leaving.done():
                    return
                if left <= 0:
                    said_at = loop.time()
                    yield STILL_HERE
                if not coming.done():
                    continue
                worked, began = 0.0, time.monotonic()
                for number, record in enumerate(coming.result()):
                    if number % SLICE == SLICE - 1:
                        await scan.worked(worked + time.monotonic() - began)
                        worked, began = 0.0, time.monotonic()
                    before = state
                    if chosen.needs_states:
                        state = evolve(state, record)
                    if sieve.passes(record, before, state) and record.seq > after:
                        said_at = loop.time()
                        data = msgspec.json.encode(event_view(record, before)).decode()
                        # The time that a client takes to read does not count as work.
                        worked += time.monotonic() - began
                        yield ServerSentEventMessage(
                            id=str(record.seq), event=record.type, data=data
                        )
                        began = time.monotonic()
                await scan.worked(worked + time.monotonic() - began)
                coming = asyncio.ensure_future(anext(batches))
        finally:
            leaving.cancel()
            coming.cancel()
            await asyncio.gather(coming, leaving, return_exceptions=True)
