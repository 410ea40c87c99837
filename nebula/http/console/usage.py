"""What the console shows of usage: how many tokens were used, and what is left of which limit."""

import csv
import io
from typing import Any

from litestar import Request, Response, get
from msgspec import Struct

from nebula.events.showing import shown
from nebula.events.state import State
from nebula.history import bill, moments
from nebula.history.limits import present_limits
from nebula.history.moments import BadMoment
from nebula.http.console import paging
from nebula.http.console.limit_rows import LimitRow, limit_rows
from nebula.http.console.shown_moment import (
    Shown,
    moment_fields,
    reader_time,
    state_shown,
)
from nebula.http.errors import ApiError, unavailable
from nebula.http.history import reading
from nebula.http.principals import tenant_of
from nebula.http.scanning import Scans
from nebula.http.shown_log import ShownLog
from nebula.http.views import moment
from nebula.store.connection import Unavailable
from nebula.store.usage_log import Usage

LINES = 200
"""Lines that are listed, at most; the file with all of them is CSV."""

LIMITS = 100
"""Keys, tenants and models of a page of limits, at most: each is looked up."""

_SECOND = 10**9


class Account(Shown, frozen=True, kw_only=True):
    """Usage from one hour to before another: the largest `lines` first, and all of it `together`.

    `more`: lines that are not listed. `over_time`: by hours, or by days if there are many.
    `lost`, `dropped`: messages and records that are missing in it.
    """

    since: str
    until: str
    by: tuple[str, ...]
    groups: tuple[str, ...]
    lines: list[dict[str, str | int]]
    more: int
    together: dict[str, str | int]
    over_time: list[dict[str, str | int]]
    lost: int
    dropped: int


class LimitPage(Shown, frozen=True, kw_only=True):
    """A page of limits: the next one begins with `after` = `next`, unless that is null."""

    rows: list[LimitRow]
    next: int | None
    total: int


class _Asked(Struct, frozen=True):
    """What a query asks for; hours in seconds since 1970."""

    by: tuple[str, ...]
    since: int
    until: int


@get("/admin/usage")
async def show_usage(
    request: Request[Any, Any, Any],
    past: ShownLog,
    scans: Scans,
    by: str = "key,model",
    since: str = "7d",
    at: str | None = None,
) -> Account:
    """Show how many tokens were used in the time before a moment, told apart by what you ask for.

    A key that belongs to a tenant sees what that tenant used.
    """
    state = await state_shown(past, scans, at)
    asked = _asked(by, since, _end(past, state, at))
    found = await _used(request, past, scans, asked)
    lines = sorted(bill.lines(found.sums, asked.by), key=lambda each: -each.total)
    width = bill.time_group(asked.since, asked.until)
    (together,) = bill.lines(found.sums, ()) or (bill.Line(()),)
    return Account(
        **moment_fields(past, state),  # type: ignore[arg-type]
        since=moment(asked.since * _SECOND),
        until=moment(asked.until * _SECOND),
        by=asked.by,
        groups=bill.GROUPS,
        lines=[dict(bill.told(each, asked.by)) for each in lines[:LINES]],
        more=max(0, len(lines) - LINES),
        together=dict(bill.told(together, ())),
        over_time=[dict(bill.told(each, [width])) for each in bill.lines(found.sums, [width])],
        lost=found.lost,
        dropped=found.dropped,
    )


@get("/admin/usage.csv")
async def write_usage(
    request: Request[Any, Any, Any],
    past: ShownLog,
    scans: Scans,
    by: str = "key,model",
    since: str = "7d",
    at: str | None = None,
) -> Response[str]:
    """Return the same as comma-separated values: all lines, in the order of what they have."""
    state = await state_shown(past, scans, at)
    asked = _asked(by, since, _end(past, state, at))
    found = await _used(request, past, scans, asked)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(bill.told(bill.Line(("",) * len(asked.by)), asked.by)))
    writer.writeheader()
    writer.writerows(bill.told(line, asked.by) for line in bill.lines(found.sums, asked.by))
    return Response(
        text.getvalue(),
        media_type="text/csv",
        headers={"content-disposition": 'attachment; filename="usage.csv"'},
    )


@get("/admin/outline/limits")
async def outline_limits(
    request: Request[Any, Any, Any],
    past: ShownLog,
    scans: Scans,
    at: str | None = None,
    find: str = "",
    after: str = "0",
) -> LimitPage:
    """List limits and, for the present, what is left of each, now or `at` a sequence or time.

    A key that belongs to a tenant sees those of that tenant and its keys.
    """
    page = paging.of_size(after, LIMITS)
    state = await state_shown(past, scans, at)
    tenant = tenant_of(request.scope)
    there = [
        (kind, identity, limits)
        for place, limits in present_limits(state).items()
        for kind, _, identity in (place.partition("."),)
        if find.lower() in identity.lower() and _concerns(state, tenant, kind, identity)
    ]
    rows: list[LimitRow] = []
    for kind, identity, limits in page.rows(there):
        used = await past.used(kind, identity) if reader_time(at, past) else None
        rows += limit_rows(kind, identity, limits, used)
    return LimitPage(
        **page.fields(past, state, there),  # type: ignore[arg-type]
        rows=shown(rows),
    )


def _concerns(state: State, tenant: str, kind: str, identity: str) -> bool:
    if kind == "key" and tenant:
        return state.keys[identity].tenant == tenant
    return not tenant or (kind, identity) == ("tenant", tenant)


def _end(past: ShownLog, state: State, at: str | None) -> int:
    """Return the time (ns) at which what is shown ends."""
    return reader_time(at, past) or state.time


def _asked(by: str, since: str, end: int) -> _Asked:
    groups = tuple(dict.fromkeys(part.strip() for part in by.split(",") if part.strip()))
    for group in groups:
        if group not in bill.GROUPS:
            text = f"by: {group[:80]!r} is none of {', '.join(bill.GROUPS)}"
            raise ApiError(400, text, param="by")
    try:
        begin = moments.parse(since, end).time
    except BadMoment as error:
        raise ApiError(400, f"since: {error}", param="since") from error
    if begin is None:
        text = "since: give a time (2026-11-23T03:00) or how long ago (7d)"
        raise ApiError(400, text, param="since")
    return _Asked(groups, *bill.hours(begin, end))


async def _used(
    request: Request[Any, Any, Any], past: ShownLog, scans: Scans, asked: _Asked
) -> Usage:
    """Return what the caller may see of what was used. Raise ApiError."""
    tenant = tenant_of(request.scope)
    try:
        async with reading(scans) as scan:
            found = await past.usage(asked.since, asked.until, scan.worked)
    except Unavailable as error:
        raise unavailable(str(error), 1) from error
    sums = tuple(each for each in found.sums if tenant in ("", each.tenant))
    return Usage(sums, found.fresh, found.lost, found.dropped)
