"""`nebula top`: the windows of the console in a terminal."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nebula.cli.cluster import joined
from nebula.cli.log_source import moment
from nebula.cli.options import nats_option
from nebula.cli.process import fail, on_stop, run
from nebula.events.advised import command
from nebula.events.state import State
from nebula.history.moments import BadMoment, Moment
from nebula.history.replay import BadLog
from nebula.store.archive import BadArchive

if TYPE_CHECKING:
    from nebula.cli.top.source import Source


@click.command()
@click.option("--at", default=None, metavar="SEQ|TIME", help="Begin with this moment [now].")
@click.option(
    "--log",
    "file",
    default=None,
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Show an exported log (`nebula export FILE`) instead of a cluster.",
)
@nats_option
def top(at: str | None, file: Path | None, nats: str) -> None:
    """Watch the cluster in the terminal, now or at any past moment.

    Home shows what needs attention; the other windows are models, nodes, requests, events,
    usage, keys and batches. The arrow keys ← and → go back and forth in time. ? shows what all keys
    do, q ends it.
    """
    wanted = moment(at)
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM") == "dumb":
        fail(
            f"it needs a terminal; {command('status')} prints what needs attention; "
            f"{command('state', '--at', 'SEQ')} prints a past moment"
        )
    run(_of_file(file, wanted) if file is not None else _of_cluster(nats, wanted))


async def _of_cluster(nats: str, wanted: Moment | None) -> None:
    from nebula.cli.top.source import ClusterSource

    async with joined(nats) as projection:
        await _show(ClusterSource(projection), projection.log.connection.shown, wanted)


async def _of_file(file: Path, wanted: Moment | None) -> None:
    from nebula.cli.top.source import FileSource
    from nebula.http.console.file_log import FileLog

    click.echo(f"Reading {file} …", err=True)
    try:
        log = FileLog(file)
    except (BadArchive, BadLog) as error:
        fail(str(error))
    await _show(FileSource(log, str(file)), file.name, wanted)


async def _show(source: "Source", called: str, wanted: Moment | None) -> None:
    from nebula.cli.top.app import Top

    state: State | None = None
    if wanted is not None:
        try:
            state = await source.at(wanted)
        except (BadMoment, BadArchive, BadLog) as error:
            fail(str(error))
    app = Top(source, called, state)
    on_stop(app.exit)
    why = await app.run_async()
    if why:
        fail(why)
    if app.return_code:
        raise SystemExit(app.return_code)
