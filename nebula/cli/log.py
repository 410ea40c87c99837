"""`nebula log redact`: founds a log anew without a secret that it holds."""

from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import click

from nebula.cli.log_source import log_option, opened
from nebula.cli.options import Whole, json_option, nats_option
from nebula.cli.process import fail, run, say
from nebula.cli.tables import print_json
from nebula.events.clear_secrets import in_clear
from nebula.events.record import Entry
from nebula.events.showing import shown_text
from nebula.events.state import State
from nebula.history.redaction import Comparison, NotRedactable, Redactor, places, values_of
from nebula.store import private
from nebula.store.archive import BadArchive, Reader, Writer

SHORTEST = 6
"""Characters of a value below which too much other text would have it."""

EXPLANATION = """\
A log keeps every entry for ever, and so do its snapshots and backups. A secret that it holds is
known, so replace the secret first, wherever it opens something. Then found the log anew without it:

  1. nebula log redact --find                which events hold a secret in clear, in which field
  2. nebula load … --secret NAME:VARIABLE    load each model that has it by name instead
  3. nebula export --secrets OLD.jsonl       and stop all of Nebula
  4. nebula log redact OLD.jsonl --all -o CLEAN.jsonl
  5. nebula import CLEAN.jsonl --nats NEW    into an empty NATS, then start the rest there
  6. delete the old NATS store, its snapshots, OLD.jsonl and all other backups

Sequences, times and causes stay; the cluster keeps its id, and hashes are made anew.
"""


@click.group()
def log() -> None:
    """Found the log anew without a secret that it holds."""


@log.command()
@click.argument(
    "export", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--find", is_flag=True, help="List the fields that hold a secret in clear.")
@click.option(
    "--event",
    "events",
    multiple=True,
    type=Whole(1),
    metavar="SEQ",
    help="Redact the secrets of this event; repeatable.",
)
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="FIELD",
    help="Only this field of each --event, such as env.HF_TOKEN, whatever it holds; repeatable.",
)
@click.option("--all", "every", is_flag=True, help="Redact all that --find lists.")
@click.option(
    "--value-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Redact the value in this file. (An argument could be read by all users.)",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write.",
)
@log_option
@nats_option
@json_option
def redact(
    export: Path | None,
    find: bool,
    events: tuple[int, ...],
    fields: tuple[str, ...],
    every: bool,
    value_file: Path | None,
    output: Path | None,
    file: Path | None,
    nats: str,
    as_json: bool,
) -> None:
    """Write the log in the file EXPORT without secrets, wherever in it their values are.

    Without anything, it explains how a log is founded anew.
    """
    if find:
        run(_find(nats, export or file, as_json))
    elif export is None:
        click.echo(EXPLANATION)
    elif output is None:
        fail("name the file to write with -o", 2)
    elif not (events or every or value_file):
        fail("name what to redact: --event SEQ, --all or --value-file FILE", 2)
    else:
        try:
            values = _values(export, events, fields, every=every)
            if value_file is not None:
                values |= {value_file.read_text().rstrip("\r\n")}
            _write(export, output, values)
        except (BadArchive, NotRedactable) as error:
            fail(str(error))
        except OSError as error:
            fail(f"can't write {output}: {error.strerror}")


async def _find(nats: str, file: Path | None, as_json: bool) -> None:
    """List the places of secrets, without their values; end with 1 if there are any."""
    found: list[dict[str, object]] = []
    async with opened(nats, file) as past, aclosing(past.entries()) as batches:
        async for batch in batches:
            for entry in batch:
                fields = [shown_text(field) for field in places(entry)]
                if fields:
                    found.append({"seq": entry.seq, "subject": entry.subject, "fields": fields})
                    if not as_json:
                        click.echo(f"event {entry.seq}: {entry.subject}: {', '.join(fields)}")
    if as_json:
        print_json({"events": found})
    elif not found:
        click.echo("no event holds what looks like a secret in clear")
    if found:
        raise SystemExit(1)


def _values(
    export: Path, events: tuple[int, ...], fields: tuple[str, ...], *, every: bool
) -> set[str]:
    """Return the values to redact; end the command if there are none where they should be."""
    values: set[str] = set()
    missing = set(events)
    for entry in _entries(export):
        if not every and entry.seq not in missing:
            continue
        held = {text for texts in places(entry).values() for text in texts}
        if fields and entry.seq in missing:
            held = {text for field in fields for text in values_of(entry, field)}
        if held:
            missing.discard(entry.seq)
        values |= held
    if missing:
        where = f" in {' or '.join(fields)}" if fields else ""
        fail(f"event {min(missing)} of {export} has nothing to redact{where}")
    return values


def _write(export: Path, output: Path, values: set[str]) -> None:
    """Write a file without the values, and read it again before it gets its name."""
    if any(len(value) < SHORTEST for value in values):
        fail(f"a value of fewer than {SHORTEST} characters can't be told from other text")
    redactor = Redactor(values)
    changed = 0
    with _proven(output) as (out, proven):
        last = _last(export)
        with export.open("rb") as source:
            reader = Reader(source, str(export))
            writer = Writer(last, masked=reader.head.masked)
            out.write(writer.head)
            for entry in reader.entries():
                made = redactor.entry(entry)
                changed += made is not entry and made != entry
                out.write(writer.line(made))
        out.flush()
        state = _prove(export, proven, redactor)
    click.echo(f"{output}: events 1 to {last}, {changed} of them changed, chain {writer.chain}")
    for identity in sorted(state.models):
        model = state.models[identity]
        if not model.unloading and in_clear(model.spec) is not None:
            say(
                f"{identity} would start with *** for a secret: load it with --secret once this "
                "log is imported, or before it is exported",
                warning=True,
            )


def _prove(export: Path, made: Path, redactor: Redactor) -> State:
    """Read both files, and return the state of the new one. Raise BadArchive, NotRedactable."""
    comparison = Comparison(redactor)
    for before, after in zip(_entries(export), _entries(made), strict=True):
        if redactor.holds(after):
            raise NotRedactable(f"event {after.seq} still has the value")
        comparison.add(before, after)
    comparison.conclude()
    return comparison.state


def _last(export: Path) -> int:
    with export.open("rb") as source:
        return Reader(source, str(export)).last


def _entries(file: Path) -> Iterator[Entry]:
    with file.open("rb") as source:
        yield from Reader(source, str(file)).entries()


@contextmanager
def _proven(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Write a file that gets its name at the end, unless an error is raised before."""
    partial = path.with_name(path.name + ".part")
    try:
        partial.unlink(missing_ok=True)
        with private.opened(partial, "wb") as out:
            yield cast(BinaryIO, out), partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
