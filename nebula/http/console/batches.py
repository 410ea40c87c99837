"""What the console shows of batches, now or at any moment, and an early end for one."""

from collections.abc import Mapping
from typing import Annotated, Any

from litestar import Request, get, post
from litestar.params import QueryParameter
from msgspec import Struct

from nebula.actors.gateway.actor import Gateway
from nebula.events.batch import Batch
from nebula.events.intents import BatchCancelRequested
from nebula.events.showing import shown
from nebula.events.state import State
from nebula.history.batch_story import batch_verdict
from nebula.http.batches.views import status
from nebula.http.console import paging
from nebula.http.console.last_events import last_events
from nebula.http.console.shown_moment import Shown, moment_fields, state_shown
from nebula.http.errors import ApiError
from nebula.http.intents import known, submitted
from nebula.http.principals import caller, tenant_of
from nebula.http.scanning import Scans
from nebula.http.shown_log import ShownLog
from nebula.http.views import Accepted, EventView, moment


class BatchRow(Struct, frozen=True):
    """A batch in a table. `key`: the id of the key that asked for it, "" for none."""

    id: str
    state: str
    endpoint: str
    key: str
    lines: int
    completed: int
    failed: int
    created: str
    expires: str
    finished: str
    over: bool
    changed: int


class BatchPage(Shown, frozen=True, kw_only=True):
    """A page of batches, the newest first: the next one begins with `after` = `next`.

    `states`: how many there are by their state.
    """

    rows: list[BatchRow]
    next: int | None
    total: int
    states: dict[str, int]


class BatchDetail(Shown, frozen=True, kw_only=True):
    """A batch, how it stands and what to do, its files, and its last events, the newest first.

    `files`: ids by what they hold. `mine`: whether the caller may read them. `earlier`: how many
    events are not listed.
    """

    row: BatchRow
    headline: str
    todo: str
    lines: tuple[str, ...]
    wakes: bool
    metadata: dict[str, str]
    files: dict[str, str]
    mine: bool
    events: list[EventView]
    earlier: int


@get("/admin/outline/batches")
async def outline_batches(
    request: Request[Any, Any, Any],
    past: ShownLog,
    scans: Scans,
    at: str | None = None,
    find: str = "",
    chosen: Annotated[str, QueryParameter(name="state")] = "",
    after: str = "0",
    limit: str | None = None,
) -> BatchPage:
    """List the batches of all callers, page by page, now or `at` a sequence or time.

    A key that belongs to a tenant sees those of its tenant.
    """
    page = paging.asked(after, limit)
    state = await state_shown(past, scans, at)
    rows = [
        _row(each)
        for each in _seen_by(request, state).values()
        if find.lower() in f"{each.id} {each.key} {each.request.endpoint}".lower()
    ]
    states: dict[str, int] = {}
    for row in rows:
        states[row.state] = states.get(row.state, 0) + 1
    matching = [row for row in rows if chosen in ("", row.state)]
    matching.sort(key=lambda row: (row.created, row.id), reverse=True)
    return BatchPage(
        **page.fields(past, state, matching),  # type: ignore[arg-type]
        rows=shown(page.rows(matching)),
        states=states,
    )


@get("/admin/outline/batches/{batch:str}")
async def outline_batch(
    batch: str,
    request: Request[Any, Any, Any],
    past: ShownLog,
    scans: Scans,
    at: str | None = None,
) -> BatchDetail:
    """Show one batch: how far it is, what is wrong with its input, its files and its events."""
    state = await state_shown(past, scans, at)
    found = known("batch", _seen_by(request, state), batch)
    told = batch_verdict(state, batch)
    files = {"input": found.request.input, "answers": found.output, "errors": found.errors}
    principal = caller(request.scope)
    events, earlier = await last_events(past, scans, state, "batch", batch)
    return BatchDetail(
        **moment_fields(past, state),  # type: ignore[arg-type]
        row=shown(_row(found)),
        headline=shown(told.headline),
        todo=shown(told.todo),
        lines=shown(told.behind),
        wakes=found.request.wake,
        metadata=shown(found.request.metadata),
        files={name: file for name, file in files.items() if file},
        mine=principal is not None and principal.owner == found.request.owner,
        events=events,
        earlier=earlier,
    )


@post("/admin/batches/{batch:str}/cancel", status_code=202)
async def end_batch(batch: str, request: Request[Any, Any, Any], gateway: Gateway) -> Accepted:
    """End a batch early, of whatever caller; the answers that are there are kept."""

    def there() -> None:
        found = known("batch", _seen_by(request, gateway.projection.state), batch)
        if found.ending:
            raise ApiError(409, f"batch {batch} is {found.phase} already", code="invalid_status")

    return await submitted(request, gateway, batch, BatchCancelRequested(), there=there)


def _seen_by(request: Request[Any, Any, Any], state: State) -> Mapping[str, Batch]:
    """Return the batches that the caller may see."""
    tenant = tenant_of(request.scope)
    if not tenant:
        return state.batches
    keys = state.keys
    return {
        each.id: each
        for each in state.batches.values()
        if (key := keys.get(each.key)) is not None and key.tenant == tenant
    }


def _row(batch: Batch) -> BatchRow:
    return BatchRow(
        batch.id,
        status(batch),
        batch.request.endpoint,
        batch.key,
        batch.lines,
        batch.completed,
        batch.failed,
        moment(batch.created_ns),
        moment(batch.expires_ns),
        moment(batch.finished_ns) if batch.finished_ns else "",
        batch.over,
        batch.changed,
    )
