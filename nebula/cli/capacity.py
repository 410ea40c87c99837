"""`nebula capacity`: how long models lacked room, and would have lacked it with more machines."""

import time
from contextlib import aclosing
from pathlib import Path

import click
from rich.table import Table

from nebula.cli import tables
from nebula.cli.log_source import LivePast, Past, log_option, moment, opened
from nebula.cli.options import json_option, nats_option
from nebula.cli.process import fail, run
from nebula.cli.tables import print_json
from nebula.events.demand import DemandRecord
from nebula.history.moments import BadMoment, Moment
from nebula.history.unmet_demand import Unmet, UnmetDemand, machine
from nebula.history.what_if import BadCondition, With
from nebula.store.demand import DemandStore


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
    """Show how long models lacked a place, and how long they would have with more machines.

    Minutes in which routers refused requests, or had them wait for a model that did not serve, are
    known of a cluster for 31 days; an exported log does not have them.
    """
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
    async with opened(nats, file) as past:
        recorded = await _recorded(past, until)
        demand = UnmetDemand(machines, since, recorded)
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


async def _recorded(past: Past, until: Moment | None) -> list[DemandRecord]:
    """Return what routers of a cluster have recorded; none of a file."""
    if not isinstance(past, LivePast):
        return []
    ends = until.time if until is not None and until.time is not None else 2**63
    store = DemandStore(past.log.connection)
    async with aclosing(store.all()) as records:
        return [each async for each in records if each.time < ends]


def _table(found: list[Unmet], imagined: bool) -> Table:
    names = ("LACKED A PLACE", "REFUSED", "WAITED")
    with_machines = [part for name in names for part in (name, "IT WOULD HAVE")]
    table = tables.columns("MODEL", *(with_machines if imagined else names), "WAKING", "REQUESTS")
    for each in found:
        row = [tables.escape(each.model)]
        for actual, otherwise in (
            (each.lacking, each.otherwise),
            (each.refusing, each.refusing_otherwise),
            (each.waiting, each.waiting_otherwise),
        ):
            row += [_minutes(actual), _minutes(otherwise)] if imagined else [_minutes(actual)]
        table.add_row(*row, _minutes(each.waking), _requests(each))
    return table


def _requests(each: Unmet) -> str:
    """Return what became of requests, in words."""
    parts = [f"{count} {reason}" for reason, count in each.refused.items()]
    if each.requests or each.longest:
        parts.append(f"{each.requests} waited up to {each.longest:.0f} s")
    return tables.escape(", ".join(parts))


def verdict(found: list[Unmet], machines: list[With]) -> str:
    """Return one sentence about all models together."""
    lacking = sum(each.lacking for each in found)
    of_requests = sum(each.refusing + each.waiting for each in found)
    if not machines:
        lacked = f"models lacked a place for {_minutes(lacking)} minutes together"
        told = lacked if lacking else "no model lacked a place"
        if of_requests:
            told += f"; requests were refused or waited in {_minutes(of_requests)} minutes"
        return told
    if not lacking:
        return "no model lacked a place"
    saved = lacking - sum(each.otherwise for each in found)
    named = ", ".join(each.node for each in machines)
    told = f"{named} would have saved {_minutes(saved)} of {_minutes(lacking)} minutes"
    if of_requests:
        left = sum(each.refusing_otherwise + each.waiting_otherwise for each in found)
        told += f", and {_minutes(of_requests - left)} of {_minutes(of_requests)} in which "
        told += "requests were refused or waited"
    return told


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.1f}"
