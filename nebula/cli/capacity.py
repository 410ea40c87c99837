"""`nebula capacity`: how long models lacked room, and would have lacked it with more machines."""

import time
from contextlib import aclosing
from pathlib import Path

import click
from rich.table import Table

from nebula.cli import tables
from nebula.cli.log_source import LivePast, log_option, moment, opened
from nebula.cli.options import json_option, nats_option
from nebula.cli.process import fail, run
from nebula.cli.tables import print_json
from nebula.history.moments import BadMoment, Moment
from nebula.history.unmet_demand import Unmet, UnmetDemand, machine
from nebula.history.what_if import BadCondition, With


@click.command()
@click.option("--since", default=None, metavar="SEQ|TIME", help="Begin with this moment [all].")
@click.option("--until", default=None, metavar="SEQ|TIME", help="End with this moment [now].")
@click.option(
    "--with",
    "machines",
    multiple=True,
    metavar="MACHINE",
    help="As if it had been there: 'n4: 2x80GiB'; repeatable.",
)
@log_option
@nats_option
@json_option
def capacity(
    since: str | None,
    until: str | None,
    machines: tuple[str, ...],
    file: Path | None,
    nats: str,
    as_json: bool,
) -> None:
    """Show how long models lacked a place, and how long they would have with more machines."""
    try:
        given = [machine(each) for each in machines]
    except BadCondition as error:
        fail(str(error), 2)
    run(_capacity(nats, file, (moment(since), moment(until)), given, as_json))


async def _capacity(
    nats: str,
    file: Path | None,
    window: tuple[Moment | None, Moment | None],
    machines: list[With],
    as_json: bool,
) -> None:
    since, until = window
    demand = UnmetDemand(machines, since)
    async with opened(nats, file) as past:
        over = False
        async with aclosing(past.records()) as batches:
            async for batch in batches:
                for record in batch:
                    over = over or (until is not None and until.passed(record.seq, record.time))
                    if not over:
                        demand.take(record)
        if demand.what_if.actual.state.seq == 0:
            raise BadMoment(f"{past.name} has no event in this window")
        if until is not None and until.time is not None:
            demand.until(until.time)
        elif until is None and isinstance(past, LivePast):
            demand.until(time.time_ns())
    found = demand.found()
    if as_json:
        print_json({"seconds": demand.seconds, "models": found})
        return
    output = tables.console()
    output.print(f"{_minutes(demand.seconds)} minutes of the log\n")
    if found:
        output.print(_table(found, bool(machines)))
        output.print()
    output.print(verdict(found, machines), soft_wrap=True)


def _table(found: list[Unmet], imagined: bool) -> Table:
    table = tables.columns(
        "MODEL", "LACKED A PLACE", *(["IT WOULD HAVE"] if imagined else []), "WAKING"
    )
    for each in found:
        row = [tables.escape(each.model), _minutes(each.lacking)]
        row += [_minutes(each.otherwise)] if imagined else []
        table.add_row(*row, _minutes(each.waking))
    return table


def verdict(found: list[Unmet], machines: list[With]) -> str:
    """Return one sentence about all models together."""
    lacking = sum(each.lacking for each in found)
    if not lacking:
        return "no model lacked a place"
    if not machines:
        return f"models lacked a place for {_minutes(lacking)} minutes together"
    saved = lacking - sum(each.otherwise for each in found)
    named = ", ".join(each.node for each in machines)
    return f"{named} would have saved {_minutes(saved)} of {_minutes(lacking)} minutes"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.1f}"
