"""What the console shows of aliases, now or at any moment."""

from litestar import get
from msgspec import Struct

from nebula.events.alias import Alias
from nebula.events.showing import shown
from nebula.events.state import State
from nebula.history.subject import Subject, verdict
from nebula.http.console import paging, rows
from nebula.http.console.shown_moment import (
    Shown,
    moment_fields,
    reader_time,
    state_shown,
)
from nebula.http.intents import known
from nebula.http.scanning import Scans
from nebula.http.shown_log import ShownLog


class TargetRow(Struct, frozen=True):
    """A target: `id` and `phase` of the model that has the name, both "" if there is none."""

    name: str
    weight: int
    id: str
    phase: str


class AliasRow(Struct, frozen=True):
    """An alias with its targets; `changed`: sequence of the event that last changed it."""

    id: str
    name: str
    targets: list[TargetRow]
    mirror: str
    changed: int


class AliasPage(Shown, frozen=True, kw_only=True):
    """A page of aliases: the next one begins with `after` = `next`, unless that is null."""

    rows: list[AliasRow]
    next: int | None
    total: int


class AliasDetail(Shown, frozen=True, kw_only=True):
    """An alias, how it stands and what to do."""

    row: AliasRow
    headline: str
    todo: str


@get("/admin/outline/aliases")
async def outline_aliases(
    past: ShownLog,
    scans: Scans,
    at: str | None = None,
    find: str = "",
    after: str = "0",
    limit: str | None = None,
) -> AliasPage:
    """List aliases with their targets, page by page, now or `at` a sequence or time."""
    page = paging.asked(after, limit)
    state = await state_shown(past, scans, at)
    wanted = find.lower()
    matching = [
        each
        for each in sorted(state.aliases.values(), key=lambda each: each.name)
        if wanted in f"{each.id} {each.name}".lower()
    ]
    return AliasPage(
        **page.fields(past, state, matching),  # type: ignore[arg-type]
        rows=[_row(state, each) for each in page.rows(matching)],
    )


@get("/admin/outline/aliases/{alias:str}")
async def outline_alias(
    alias: str, past: ShownLog, scans: Scans, at: str | None = None
) -> AliasDetail:
    """Show one alias: the models that it stands for, how it stands, and what to do."""
    state = await state_shown(past, scans, at)
    found = known("alias", state.aliases, alias)
    told = verdict(state, Subject("alias", alias), reader_time(at, past))
    return AliasDetail(
        **moment_fields(past, state),  # type: ignore[arg-type]
        row=_row(state, found),
        headline=shown(told.headline),
        todo=shown(told.todo),
    )


def _row(state: State, alias: Alias) -> AliasRow:
    targets = [_target(state, each.model, each.weight) for each in alias.targets]
    return shown(AliasRow(alias.id, alias.name, targets, alias.mirror, alias.changed))


def _target(state: State, name: str, weight: int) -> TargetRow:
    binding = state.names.get(name)
    model = state.models.get(binding.model) if binding is not None else None
    if model is None:
        return TargetRow(name, weight, "", "")
    return TargetRow(name, weight, model.id, rows.phase_of(state, model))
