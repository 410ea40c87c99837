"""What the console shows of API keys, now or at any moment: never a secret."""

from typing import Annotated, Any

from litestar import Request, get
from litestar.params import QueryParameter

from nebula.events.showing import shown
from nebula.history.key_story import key_verdict
from nebula.http.console import paging
from nebula.http.console.last_events import last_events
from nebula.http.console.limit_rows import LimitRow, limit_rows
from nebula.http.console.shown_moment import (
    Shown,
    moment_fields,
    reader_time,
    state_shown,
)
from nebula.http.intents import known
from nebula.http.principals import tenant_of
from nebula.http.scanning import Scans
from nebula.http.shown_log import ShownLog
from nebula.http.views import EventView, KeyView, key_view


class KeyPage(Shown, frozen=True, kw_only=True):
    """A page of keys: the next one begins with `after` = `next`, unless that is null.

    `states`: how many there are by their state.
    """

    rows: list[KeyView]
    next: int | None
    total: int
    states: dict[str, int]


class KeyDetail(Shown, frozen=True, kw_only=True):
    """A key, how it stands and what to do, its limits, and its last events, the newest first.

    `earlier`: how many events are not listed.
    """

    key: KeyView
    headline: str
    todo: str
    limits: list[LimitRow]
    events: list[EventView]
    earlier: int


@get("/admin/outline/keys")
async def outline_keys(
    request: Request[Any, Any, Any],
    past: ShownLog,
    scans: Scans,
    at: str | None = None,
    find: str = "",
    chosen: Annotated[str, QueryParameter(name="state")] = "",
    after: str = "0",
    limit: str | None = None,
) -> KeyPage:
    """List keys without their secrets, page by page, now or `at` a sequence or time.

    A key that belongs to a tenant sees those of its tenant.
    """
    page = paging.asked(after, limit)
    state = await state_shown(past, scans, at)
    tenant, wanted = tenant_of(request.scope), find.lower()
    now = reader_time(at, past) or state.time
    states: dict[str, int] = {}
    matching = []
    for identity in sorted(state.keys):
        key = state.keys[identity]
        if tenant not in ("", key.tenant):
            continue
        if wanted not in f"{identity} {key.name} {key.prefix} {key.tenant}".lower():
            continue
        stands = key.invalid(now) or "valid"
        states[stands] = states.get(stands, 0) + 1
        if chosen in ("", stands):
            matching.append(key)
    return KeyPage(
        **page.fields(past, state, matching),  # type: ignore[arg-type]
        rows=[shown(key_view(each, now)) for each in page.rows(matching)],
        states=states,
    )


@get("/admin/outline/keys/{key:str}")
async def outline_key(
    key: str,
    request: Request[Any, Any, Any],
    past: ShownLog,
    scans: Scans,
    at: str | None = None,
) -> KeyDetail:
    """Show one key without its secret: what it may do, what is left of it, and its events."""
    state = await state_shown(past, scans, at)
    tenant = tenant_of(request.scope)
    theirs = {each.id: each for each in state.keys.values() if tenant in ("", each.tenant)}
    found = known("key", theirs, key)
    now = reader_time(at, past)
    told = key_verdict(found, now or state.time)
    used = await past.used("key", key) if now else None
    events, earlier = await last_events(past, scans, state, "key", key)
    return KeyDetail(
        **moment_fields(past, state),  # type: ignore[arg-type]
        key=shown(key_view(found, now or state.time)),
        headline=shown(told.headline),
        todo=shown(told.todo),
        limits=shown(limit_rows("key", key, found.limits, used)),
        events=events,
        earlier=earlier,
    )
