"""`nebula dump` and `nebula diff -f`: the cluster as a file, and what differs from a file."""

from pathlib import Path
from typing import NoReturn

import click

from nebula.cli import tables
from nebula.cli.exits import DONE, NOT_DONE, USAGE
from nebula.cli.log_source import Past, log_option, moment, opened, state_at, story_until
from nebula.cli.options import nats_option
from nebula.cli.process import fail, run, say
from nebula.cli.tables import print_json
from nebula.events.state import State
from nebula.history.cluster_file import text
from nebula.history.cluster_file.declaration import ClusterFile, declared
from nebula.history.cluster_file.difference import Causes, Comparison, compare, sentences
from nebula.history.cluster_file.text import BadFile
from nebula.history.moments import Moment

NOT_COMPARED = 3
"""Exit code of `diff -f` if it can't tell whether there are differences."""


@click.command()
@click.option("--at", default=None, metavar="SEQ|TIME", help="The moment [now].")
@click.option(
    "--schema",
    default=text.SCHEMA,
    show_default=True,
    help="Where editors find the JSON Schema of `nebula schema --cluster-file`.",
)
@log_option
@nats_option
def dump(at: str | None, schema: str, file: Path | None, nats: str) -> None:
    """Print what the cluster is to serve as YAML, for `nebula apply`: no secrets, no engines."""
    run(_dump(nats, file, moment(at), schema))


async def _dump(nats: str, log: Path | None, at: Moment | None, schema: str) -> None:
    async with opened(nats, log) as past:
        click.echo(text.write(declared(await state_at(past, at)), schema), nl=False)


def read_file(path: Path) -> ClusterFile:
    """Read a cluster file; end the command with all its faults if it is not valid."""
    try:
        return text.read(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{path}: {error}", USAGE)
    except BadFile as error:
        for each in error.faults:
            say(f"{path}: {each}")
        count = f"{len(error.faults)} faults" if len(error.faults) > 1 else "1 fault"
        fail(f"{path} is not a valid cluster file: {count}", USAGE)


def end_with_differences(
    nats: str, log: Path | None, path: Path, at: Moment | None, *, prune: bool, as_json: bool
) -> NoReturn:
    """Print what differs from a file, and end with 0 for nothing, 1 for drift, 3 if unknown."""
    file = read_file(path)
    try:
        found = run(_compared(nats, log, file, at, prune))
    except SystemExit as error:
        raise SystemExit(NOT_COMPARED if error.code == NOT_DONE else error.code) from None
    if as_json:
        print_json({"drifts": found.drifts, "alone": found.alone})
    else:
        show_differences(found)
        if not found.drifts:
            click.echo("the cluster is as the file says")
    raise SystemExit(NOT_DONE if found.drifts else DONE)


def show_differences(found: Comparison) -> None:
    """Print what differs, for people."""
    output = tables.console()
    for line in sentences(found):
        output.print(tables.escape(line), soft_wrap=True, highlight=False)


async def _compared(
    nats: str, log: Path | None, file: ClusterFile, at: Moment | None, prune: bool
) -> Comparison:
    async with opened(nats, log) as past:
        state = await state_at(past, at)
        return await with_causes(past, state, compare(file, state, prune=prune))


async def with_causes(past: Past, state: State, found: Comparison) -> Comparison:
    """Return a comparison with the event behind each difference; reads the log if there is any."""
    if not found.drifts:
        return found
    causes = Causes()
    async for record in story_until(past, state.seq):
        causes.take(record)
    return Comparison(tuple(map(causes.of, found.drifts)), found.alone)
