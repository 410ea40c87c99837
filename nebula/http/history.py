"""The past over HTTP: the cluster at any moment, and its events as pages or as a stream."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from litestar import Request, get
from litestar.params import HeaderParameter
from litestar.response import Response, ServerSentEvent, ServerSentEventMessage
from msgspec import Struct

from nebula.actors.gateway.actor import Gateway
from nebula.events.evolve import evolve
from nebula.events.record import Record, read_entry
from nebula.events.state import EMPTY, State
from nebula.events.vocabulary import TYPES
from nebula.history import moments
from nebula.history.moments import BadMoment, Moment
from nebula.history.selection import Selection, Sieve, selection
from nebula.http.errors import ApiError, unavailable
from nebula.http.views import EventView, StateView, event_view, state_view
from nebula.store.connection import Unavailable
from nebula.store.snapshots import Snapshots
from nebula.store.tail import LogReplaced

LARGEST_PAGE = 1000
KEEP_ALIVE = 15.0
"""Seconds after which a silent stream says that it still lives."""

SLICE = 500
"""Events folded in a row before others get their turn: the gateway serves tokens meanwhile."""

_FILTERS = ("aggregate", "type", "node", "cause", "rejected")


class EventPage(Struct, frozen=True):
    """Some events; ask again with `after` = `next` for more, if it is not null.

    `last` is the newest sequence of the log.
    """

    events: list[EventView]
    next: int | None
    last: int


@get("/admin/state")
async def show_state(gateway: Gateway, at: str | None = None) -> StateView:
    """Show the whole cluster, now or `at` a sequence or time."""
    if at is None:
        return state_view(gateway.projection.state)
    return state_view(await _state_at(gateway, _moment(at)))


@get("/admin/events")
async def list_events(
    request: Request[Any, Any, Any],
    gateway: Gateway,
    after: str | None = None,
    limit: str = "100",
    last_event_id: Annotated[str | None, HeaderParameter(name="Last-Event-ID")] = None,
) -> Response[EventPage] | ServerSentEvent:
    """List events after a sequence as a page, or stream them where the client takes that."""
    chosen = _selection(request.query_params)
    if not gateway.able:
        raise unavailable("NATS can't be reached")
    newest = gateway.projection.state.seq
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
        return ServerSentEvent(_stream(gateway, begin, chosen))
    size = _sequence("limit", limit, LARGEST_PAGE, least=1)
    begin = _sequence("after", after, newest)
    return Response(await _page(gateway, begin, size, chosen))


def _moment(text: str) -> Moment:
    try:
        return moments.parse(text, time.time_ns())
    except BadMoment as error:
        raise ApiError(400, f"at: {error}", param="at") from error


def _selection(query: Mapping[str, str]) -> Selection:
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
            raise ApiError(400, f"type: {name!r} is no event type of Nebula", param="type")
    return chosen


def _sequence(name: str, text: str | None, most: int, least: int = 0) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) < 19):
        raise ApiError(400, f"{name}: {text!r} is no whole number", param=name)
    if int(text) < least:
        raise ApiError(400, f"{name}: {text} is less than {least}", param=name)
    if int(text) > most:
        raise ApiError(400, f"{name}: {text} is more than {most}", param=name)
    return int(text)


async def _state_at(gateway: Gateway, wanted: Moment) -> State:
    newest = gateway.projection.state
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
    state = await _begin(gateway, wanted)
    first: Record | None = None
    async with aclosing(_records(gateway, state.seq, newest.seq)) as records:
        async for record in records:
            first = first or record
            if wanted.passed(record.seq, record.time):
                break
            state = evolve(state, record)
    if state.seq == 0:
        begun = "" if first is None else f": it was stored at {moments.clock(first.time)}"
        raise ApiError(400, f"at: that is before the first event{begun}", param="at")
    return state


async def _begin(gateway: Gateway, wanted: Moment) -> State:
    """Give a snapshot at or before a moment; the empty state where there is none."""
    try:
        found = await Snapshots(gateway.log).newest(
            lambda state: not wanted.passed(state.seq, state.time)
        )
    except Unavailable:
        return EMPTY
    return found or EMPTY


async def _records(gateway: Gateway, after: int, until: int) -> AsyncGenerator[Record, None]:
    """Give records one by one, and others their turn in between."""
    try:
        async with aclosing(gateway.log.entries(after, until)) as batches:
            async for batch in batches:
                for number, entry in enumerate(batch):
                    if number % SLICE == SLICE - 1:
                        await asyncio.sleep(0)
                    yield read_entry(entry)
    except (Unavailable, LogReplaced) as error:
        raise unavailable(str(error)) from error


async def _page(gateway: Gateway, after: int, size: int, chosen: Selection) -> EventPage:
    newest = gateway.projection.state.seq
    start = after if chosen.cause is None else min(after, chosen.cause - 1)
    state = await _begin(gateway, Moment(seq=start))
    sieve = Sieve(chosen)
    events: list[EventView] = []
    async with aclosing(_records(gateway, state.seq, newest)) as records:
        async for record in records:
            before, state = state, evolve(state, record)
            if sieve.passes(record, before, state) and record.seq > after:
                events.append(event_view(record))
                if len(events) == size:
                    break
    return EventPage(events, state.seq if state.seq < newest else None, newest)


async def _stream(
    gateway: Gateway, after: int, chosen: Selection
) -> AsyncGenerator[ServerSentEventMessage, None]:
    """Give what is selected, for ever. A client that comes back says which event it had last."""
    start = after if chosen.cause is None else min(after, chosen.cause - 1)
    state = await _begin(gateway, Moment(seq=start))
    sieve = Sieve(chosen)
    async with aclosing(gateway.log.follow(state.seq)) as batches:
        coming = asyncio.ensure_future(anext(batches))
        try:
            while True:
                await asyncio.wait((coming,), timeout=KEEP_ALIVE)
                if not coming.done():
                    yield ServerSentEventMessage(comment="still here")
                    continue
                for record in coming.result():
                    before, state = state, evolve(state, record)
                    if sieve.passes(record, before, state) and record.seq > after:
                        yield ServerSentEventMessage(
                            id=str(record.seq),
                            event=record.type,
                            data=msgspec.json.encode(event_view(record)).decode(),
                        )
                coming = asyncio.ensure_future(anext(batches))
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
