"""`nebula revert`: return models, replicas, adapters and placement to an earlier state."""

from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias

import click
import msgspec
from rich.console import Console
from rich.markup import escape

from nebula.actors.projection import Projection
from nebula.cli import tables
from nebula.cli.cluster import joined
from nebula.cli.confirming import confirmed
from nebula.cli.log_source import moment, opened, state_at
from nebula.cli.models import gone
from nebula.cli.options import json_option, nats_option
from nebula.cli.plan_first import end_with_plan, only_planned, plan_option
from nebula.cli.process import fail, run
from nebula.cli.tables import print_json
from nebula.events import record, subjects
from nebula.events.record import Record
from nebula.events.state import State
from nebula.history.description import describe
from nebula.history.moments import Moment, clock
from nebula.history.reversion import Reversion, meaning, revert, revert_one
from nebula.store import batch
from nebula.store.log import Conflict, Guard

Way: TypeAlias = Callable[[State, State], Reversion]
"""Returns the way from the state of now back to an earlier one."""


@click.command("revert")
@click.option("--to", "to", required=True, metavar="SEQ|TIME", help="The moment to go back to.")
@click.option(
    "--only",
    default=None,
    metavar="KIND/ID",
    help="Return one model or alias, as model/chat; routers then place its replicas.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only show the events.")
@plan_option
@nats_option
@json_option
def revert_to(
    to: str, only: str | None, yes: bool, dry_run: bool, nats: str, as_json: bool
) -> None:
    """Return models, replicas, adapters and placement to an earlier state, by new events."""
    if as_json and not (yes or dry_run or only_planned()):
        fail("--json can't ask for confirmation: add --yes or --dry-run", 2)
    at = moment(to)
    assert at is not None
    way = revert if only is None else _way_of(only)
    run(_revert(nats, at, way, yes, dry_run, as_json))


def _way_of(only: str) -> Way:
    """Return what returns one model or alias; end the command if `only` names neither."""
    kind, slash, identity = only.partition("/")
    if not (slash and identity) or kind not in ("model", "alias"):
        fail(f"--only {only!r}: write model/ID or alias/ID", 2)
    one: Literal["model", "alias"] = "model" if kind == "model" else "alias"
    return partial(revert_one, kind=one, identity=identity)


async def _revert(nats: str, at: Moment, way: Way, yes: bool, dry_run: bool, as_json: bool) -> None:
    async with opened(nats, None) as past:
        then = await state_at(past, at)
    async with joined(nats) as projection:
        output = tables.console(errors=as_json)
        now = projection.state
        plan = way(now, then)
        if only_planned():
            end_with_plan(now, [(step.id, step.event) for step in plan.steps])
        _show(output, now, then, plan)
        appended: list[int] = []
        if plan.steps and not dry_run:
            if not yes and not confirmed("Append these events?"):
                raise SystemExit(1)
            appended, plan = await _append(projection, then, way, output)
        if as_json:
            print_json({"to": then.seq, "appended": appended, **_json(now, plan)})
        elif appended:
            output.print(f"\ndone: its last event is {appended[-1]}")
        if plan.cannot and not dry_run:
            raise SystemExit(1)


async def _append(
    projection: Projection, then: State, way: Way, output: Console
) -> tuple[list[int], Reversion]:
    """Append the events of the way back; wait for models whose names are needed to unload."""
    appended: list[int] = []
    while True:
        plan, last = await _append_once(projection, then, way)
        if last is not None:
            appended.append(last)
        if not plan.waits or last is None:
            return appended, plan
        output.print("waiting until the models that hold the names are unloaded")
        for identity in sorted(projection.state.models):
            model = projection.state.models.get(identity)
            leaves = model is not None and model.unloading
            if leaves and not await gone(projection, output, identity, last):
                raise SystemExit(1)


async def _append_once(
    projection: Projection, then: State, way: Way
) -> tuple[Reversion, int | None]:
    """Plan and append, again and again until no other event came in between."""
    while True:
        state = projection.state
        plan = way(state, then)
        if not plan.steps:
            return plan, None
        if len(plan.steps) > batch.LIMIT:
            fail(
                f"{len(plan.steps)} events are more than the {batch.LIMIT} that are stored together"
            )
        try:
            seq = await projection.log.append_all(
                [(step.id, step.event) for step in plan.steps],
                guard=Guard(subjects.MODEL_EVENTS, state.models_seq),
                actor=f"revert to {then.seq}",
            )
        except Conflict:
            await projection.reached(state.seq + 1)
            continue
        await projection.reached(seq)
        return plan, seq


def _show(output: Console, now: State, then: State, plan: Reversion) -> None:
    output.print(f"back to event {then.seq}, {clock(then.time)}:\n", soft_wrap=True)
    for step in plan.steps:
        entry = Record(0, 0, record.subject_of(step.id, step.event), "model", step.id, step.event)
        output.print(
            f"  [cyan]{escape(step.id)}[/cyan]: {escape(entry.type)}, {escape(describe(entry))}",
            soft_wrap=True,
        )
        for text in meaning(now, step):
            output.print(f"      [dim]{escape(text)}[/dim]", soft_wrap=True)
    for reason in plan.cannot:
        output.print(f"  [yellow]{escape(reason)}[/yellow]", soft_wrap=True)
    if not plan.steps:
        output.print("  nothing to do: everything is as it was")


def _json(now: State, plan: Reversion) -> dict[str, object]:
    return {
        "steps": [
            {
                "id": step.id,
                "type": type(step.event).__name__,
                "event": msgspec.to_builtins(step.event),
                "changes": meaning(now, step),
            }
            for step in plan.steps
        ],
        "cannot": plan.cannot,
    }
