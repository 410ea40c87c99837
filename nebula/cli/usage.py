"""`nebula usage`: how many tokens were used, by which key and of which model."""

import csv
import sys

import click

from nebula.cli import tables
from nebula.cli.cluster import connected
from nebula.cli.log_source import moment
from nebula.cli.options import json_option, nats_option
from nebula.cli.process import run
from nebula.events.usage_sums import HOUR
from nebula.history import bill
from nebula.store import usage_log
from nebula.store.usage_log import Usage


class _Groups(click.ParamType[tuple[str, ...]]):
    name = "GROUP,…"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Return the groups, each once."""
        if isinstance(value, tuple):
            return value
        groups = tuple(dict.fromkeys(part.strip() for part in str(value).split(",") if part))
        for group in groups:
            if group not in bill.GROUPS:
                self.fail(f"{group!r} is none of {', '.join(bill.GROUPS)}", param, ctx)
        return groups


@click.command()
@nats_option
@click.option(
    "--by",
    type=_Groups(),
    default="key,model",
    show_default=True,
    help="Tell apart by these: " + ", ".join(bill.GROUPS) + ".",
)
@click.option(
    "--since", default="30d", show_default=True, metavar="TIME", help="Begin with this hour."
)
@click.option("--until", default=None, metavar="TIME", help="End before this hour [now].")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values.")
@click.option(
    "--recompute", is_flag=True, help="Compare the sums in the log with the records that are kept."
)
@json_option
def usage(
    nats: str,
    by: tuple[str, ...],
    since: str,
    until: str | None,
    as_csv: bool,
    recompute: bool,
    as_json: bool,
) -> None:
    """Show how many tokens were used, by key and model.

    A request counts in the hour in which its answer ended, with the tokens that its client got and
    with its prompt, once. Times are rounded down to an hour.
    """
    if recompute:
        run(_recompute(nats, as_json=as_json))
        return
    run(_show(nats, by, (_hour(since, "--since"), _hour(until, "--until")), as_csv, as_json))


def _hour(text: str | None, option: str) -> int:
    """Return the hour of a moment, in seconds since 1970; one that is far away for none."""
    if text is None:
        return 2**62
    found = moment(text)
    if found is None or found.time is None:
        raise click.UsageError(f"{option} is a time (2026-11-23T03:00) or how long ago (7d)")
    return found.time // 10**9 // HOUR * HOUR


async def _show(
    nats: str, by: tuple[str, ...], hours: tuple[int, int], as_csv: bool, as_json: bool
) -> None:
    connection = await connected(nats, "nebula command")
    try:
        found = await usage_log.usage(connection, *hours)
    finally:
        await connection.close()
    lines = bill.lines(found.sums, by)
    if as_json:
        tables.print_json([bill.told(line, by) for line in lines], ids=True)
    elif as_csv:
        names = bill.told(bill.Line(("",) * len(by)), by)
        writer = csv.DictWriter(sys.stdout, list(names))
        writer.writeheader()
        writer.writerows(bill.told(line, by) for line in lines)
    else:
        _print(bill.most_first(lines, by), by)
    _warn(found)


def _print(lines: tuple[bill.Line, ...], by: tuple[str, ...]) -> None:
    names = [group.upper() for group in by]
    table = tables.columns(*names, "REQUESTS", "PROMPT", "CACHED", "COMPLETION", "TOTAL")
    for line in lines:
        counts = (line.requests, line.prompt, line.cached, line.completion, line.total)
        table.add_row(*(tables.escape(each) for each in line.values), *map(str, counts))
    tables.console().print(table)
    if estimated := sum(line.estimated for line in lines):
        click.echo(
            f"{estimated} of the tokens are of streams that were cut before their engine had told "
            "how many they were: at least so many",
            err=True,
        )


def _warn(found: Usage) -> None:
    if found.lost:
        click.echo(
            f"{found.lost} messages with records left their stream before they were summed: "
            "what they had is missing here",
            err=True,
        )
    if found.dropped:
        click.echo(
            f"{found.dropped} requests are missing here: NATS took no records for too long",
            err=True,
        )


async def _recompute(nats: str, *, as_json: bool) -> None:
    connection = await connected(nats, "nebula command")
    try:
        found = await usage_log.recomputed(connection)
    finally:
        await connection.close()
    if as_json:
        tables.print_json(
            {"checked": found.checked, "gone": found.gone, "differences": found.differences}
        )
    else:
        for line in found.differences:
            click.echo(line)
        verdict = "differ from" if found.differences else "agree with"
        if found.checked:
            click.echo(f"{found.checked} sums of the log {verdict} their records, to the token")
        else:
            click.echo("no sums to check yet: records are summed at the end of each hour")
        if found.gone:
            click.echo(f"{found.gone} sums have records that are not kept any more")
    if found.differences:
        sys.exit(1)
