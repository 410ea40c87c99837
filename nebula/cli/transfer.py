"""The commands that move a log to another cluster: export, import, snapshots."""

import sys
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import click
from msgspec import Struct

from nebula.cli import tables
from nebula.cli.cluster import connected
from nebula.cli.log_source import LivePast, Past, log_option, moment, opened
from nebula.cli.options import json_option, nats_option, stream_replicas_option
from nebula.cli.process import fail, run, say
from nebula.cli.tables import print_json
from nebula.events import snapshot
from nebula.events.folding import Folding
from nebula.events.record import read_entry
from nebula.events.showing import entry_without_secrets
from nebula.events.snapshot import Unusable
from nebula.events.state import EMPTY, State
from nebula.history.moments import BadMoment, Moment, clock
from nebula.history.replay import BadLog, from_the_future
from nebula.store import private
from nebula.store.archive import BadArchive, Reader, Writer
from nebula.store.importing import NotTaken, OtherHistory, import_entries, size_of
from nebula.store.log import Log
from nebula.store.snapshots import Snapshots, SnapshotSlot


@click.command("export")
@click.argument("target", metavar="FILE", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--until", default=None, metavar="SEQ|TIME", help="End with this moment [now].")
@click.option(
    "--secrets",
    is_flag=True,
    help=("Write secrets in clear, as an import needs them, instead of masking them."),
)
@log_option
@nats_option
def export_log(target: str, until: str | None, secrets: bool, file: Path | None, nats: str) -> None:
    """Write the log to FILE (`-`: standard output): JSON lines, each chained to the previous line.

    Secrets, as in `--env HF_TOKEN=…`, are masked, and the command says if there are any. It prints
    the last chain: keep that elsewhere, to check later that the file is unchanged.
    """
    run(_export(nats, file, target, moment(until), secrets))


async def _export(
    nats: str, file: Path | None, target: str, until: Moment | None, secrets: bool
) -> None:
    async with opened(nats, file) as past:
        last, masks = await _last(past, until)
        masked = 0 if secrets else masks
        if target == "-":
            chain = await _write(past, last, sys.stdout.buffer, masked=bool(masked))
        else:
            try:
                with _replacing(Path(target)) as out:
                    chain = await _write(past, last, out, masked=bool(masked))
            except OSError as error:
                fail(f"can't write {target}: {error.strerror}")
        click.echo(f"{target}: events 1 to {last}, chain {chain}", err=True)
        if masked:
            say(
                f"secrets of {masked} events are masked in it: it can be read, replayed and "
                "forked; for an import, export it with --secrets"
            )
        elif masks:
            say(
                f"it holds secrets of {masks} events in clear: protect it accordingly", warning=True
            )


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a new file beside an old one, then replace it: a failure leaves the old file."""
    partial = path.with_name(path.name + ".part")
    try:
        partial.unlink(missing_ok=True)
        with private.opened(partial, "wb") as out:
            yield cast(BinaryIO, out)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


async def _last(past: Past, until: Moment | None) -> tuple[int, int]:
    """Return the last sequence to export, and how many entries have secrets, for the first line.

    Raise BadMoment, BadLog.
    """
    last = secret = 0
    nothing = True
    async with aclosing(past.entries()) as batches:
        async for batch in batches:
            nothing = False
            for entry in batch:
                if until is not None and until.passed(entry.seq, entry.time):
                    break
                last += 1
                secret += entry_without_secrets(entry) is not entry
                if entry.seq != last:
                    raise BadLog(
                        f"found sequence {entry.seq} instead of {last}: the log has a hole"
                    )
    if nothing:
        raise BadMoment(f"{past.name} is empty: there is no event to export")
    if not last and until is not None:
        raise BadMoment(f"no event of {past.name} was stored by {clock(until.time or 0)}")
    if until is not None and (until.seq or 0) > last:
        raise BadMoment(f"there is no sequence {until.seq}: {past.name} ends with {last}")
    return last, secret


async def _write(past: Past, last: int, out: BinaryIO, *, masked: bool) -> str:
    """Write it, and return the last chain."""
    writer = Writer(last, masked=masked)
    out.write(writer.head)
    async with aclosing(past.entries()) as batches:
        async for batch in batches:
            for entry in batch:
                if entry.seq <= last:
                    out.write(writer.line(entry_without_secrets(entry) if masked else entry))
    return writer.chain


@click.command("import")
@click.argument("source", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--masked", is_flag=True, help="Import a file whose secrets are masked: they will be missing."
)
@nats_option
@stream_replicas_option
@json_option
def import_log(source: str, masked: bool, nats: str, stream_replicas: int, as_json: bool) -> None:
    """Write the exported log FILE into a cluster that has no log, or only its beginning."""
    run(_import(nats, source, stream_replicas, as_json, masked))


async def _import(
    nats: str, source: str, stream_replicas: int, as_json: bool, masked: bool
) -> None:
    path = Path(source)
    try:
        found = check_archive(path)
    except BadArchive as error:
        fail(str(error))
    if found.masked and not masked:
        fail(
            f"the secrets in {path} are masked, so its models would start with *** instead: "
            "export it again with --secrets, or import it as it is with --masked"
        )
    last = found.last
    connection = await connected(nats, "nebula import", role="provision")
    try:
        if found.size > connection.max_body:
            fail(
                f"{path}, line {found.largest + 1}: sequence {found.largest} needs {found.size} "
                f"bytes in a message, this NATS server takes {connection.max_body} (max_payload)"
            )
        log = await Log(connection, replicas=stream_replicas, actor="import").open(patience=15)
        with tables.console(errors=True).status(f"importing {last} events") as shown:
            written = await put(
                log, path, lambda seq: shown.update(f"importing: {seq} of {last} events")
            )
    except (OtherHistory, NotTaken) as error:
        fail(str(error))
    finally:
        await connection.close()
    if as_json:
        print_json({"last": last, "written": written, "chain": found.chain})
    else:
        click.echo(
            f"{source}: {written} events written, the log ends with {last} of this file, "
            f"chain {found.chain}"
        )


class Checked(Struct, frozen=True):
    """What a valid file holds: the entries 1 to `last`, the last with this `chain`.

    `size`: bytes of the largest message that an import sends, for the entry `largest`. `masked`:
    whether its secrets are replaced by MASK.
    """

    last: int
    chain: str
    size: int
    largest: int
    masked: bool


def check_archive(path: Path, until: int | None = None) -> Checked:
    """Read a whole file, as an import will. Raise BadArchive."""
    size = largest = 0
    now = time.time_ns()
    with path.open("rb") as file:
        reader = Reader(file, str(path), until)
        for entry in reader.entries():
            try:
                needed = size_of(entry)
            except NotTaken as error:
                raise BadArchive(
                    f"{path}, line {entry.seq + 1}: sequence {entry.seq}: {error}"
                ) from error
            problem = from_the_future((entry,), now)
            if problem:
                raise BadArchive(f"{path}, line {entry.seq + 1}: {problem}")
            if needed > size:
                size, largest = needed, entry.seq
        if not reader.last:
            raise BadArchive(f"{path} holds an empty log")
        return Checked(reader.last, reader.chain, size, largest, reader.head.masked)


async def put(log: Log, path: Path, progress: object = None, until: int | None = None) -> int:
    """Import a checked file. Raise OtherHistory, NotTaken, Unavailable."""
    with path.open("rb") as file:
        entries = Reader(file, str(path), until).entries()
        if callable(progress):
            return await import_entries(log, entries, progress)
        return await import_entries(log, entries)


@click.group(invoke_without_command=True)
@nats_option
@json_option
@click.pass_context
def snapshots(context: click.Context, nats: str, as_json: bool) -> None:
    """List the snapshots that actors start from, check them, or make one."""
    if context.invoked_subcommand is None:
        run(_list(nats, as_json))


@snapshots.command("check")
@nats_option
@json_option
def check_snapshots(nats: str, as_json: bool) -> None:
    """Fold the log from its beginning and compare every snapshot with the result."""
    run(_check(nats, as_json))


@snapshots.command("make")
@nats_option
@json_option
def make_snapshot(nats: str, as_json: bool) -> None:
    """Fold the log from its beginning and store a snapshot of its end."""
    run(_make(nats, as_json))


async def _list(nats: str, as_json: bool) -> None:
    async with opened(nats, None) as past:
        assert isinstance(past, LivePast)
        held = await Snapshots(past.log).held()
        if as_json:
            print_json(held)
        else:
            click.echo("\n".join(map(_name, held)) or "no snapshots yet")


def _name(each: SnapshotSlot) -> str:
    return f"event {each.seq} ({each.slot})"


async def _check(nats: str, as_json: bool) -> None:
    async with opened(nats, None) as past:
        assert isinstance(past, LivePast)
        store = Snapshots(past.log)
        held = sorted(await store.held())
        verdicts: dict[SnapshotSlot, str] = {}
        folding = Folding(EMPTY)
        secrets: list[int] = []
        async with aclosing(past.entries()) as batches:
            async for batch in batches:
                for entry in batch:
                    if entry_without_secrets(entry) is not entry:
                        secrets.append(entry.seq)
                    folding.take((read_entry(entry),))
                    for each in held:
                        if each.seq == entry.seq:
                            verdicts[each] = await _verdict(store, each, folding.state())
        verdicts |= {each: "the log ends before it" for each in held if each.seq > folding.seq}
        good = all(not verdict for verdict in verdicts.values())
        if as_json:
            found = [
                {"seq": each.seq, "slot": each.slot, "problem": verdict}
                for each, verdict in verdicts.items()
            ]
            print_json({"good": good, "snapshots": found, "secrets": secrets})
        else:
            for each, verdict in verdicts.items():
                click.echo(f"{_name(each)}: {verdict or 'is what the log folds to'}")
            if not verdicts:
                click.echo("no snapshots yet")
            if secrets:
                say(
                    f"{len(secrets)} events hold secrets in clear, first event {secrets[0]}: the "
                    "log forgets nothing, so replace those secrets: `nebula log redact --find`",
                    warning=True,
                )
        if not good:
            raise SystemExit(1)


async def _verdict(store: Snapshots, each: SnapshotSlot, folded: State) -> str:
    try:
        stored = await store.load(each)
    except Unusable as error:
        return str(error)
    same = snapshot.digest(stored) == snapshot.digest(folded)
    return "" if same else "it is NOT what the log folds to"


async def _make(nats: str, as_json: bool) -> None:
    async with opened(nats, None, role="provision") as past:
        assert isinstance(past, LivePast)
        folding = Folding(EMPTY)
        async with aclosing(past.records()) as batches:
            async for batch in batches:
                folding.take(batch)
        state = folding.state()
        if state.seq == 0:
            raise BadMoment(f"{past.name} is empty: nothing has happened yet")
        await Snapshots(past.log).put(state)
        if as_json:
            print_json({"seq": state.seq, "digest": snapshot.digest(state)})
        else:
            click.echo(f"event {state.seq}: snapshot made")
