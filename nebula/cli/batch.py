"""`nebula batch`: files of requests, worked off in the capacity that other requests leave."""

import sys
import time
from collections.abc import Iterator
from contextlib import aclosing
from functools import partial
from pathlib import Path

import click
from nats.errors import Error as NatsError

from nebula.actors.intents import Refused
from nebula.actors.projection import Projection
from nebula.cli import progress, tables
from nebula.cli.cluster import joined
from nebula.cli.meanwhile import Meanwhile
from nebula.cli.options import json_option, nats_option
from nebula.cli.process import fail, run
from nebula.cli.submit import append, intent_of, pairs, wait_option
from nebula.cli.tables import print_json
from nebula.events.advised import command, why
from nebula.events.batch import Batch
from nebula.events.intents import BatchCancelRequested, BatchRequested
from nebula.events.state import State
from nebula.events.validation import rejection_reason
from nebula.events.vocabulary import Event
from nebula.history.batch_story import bar, batch_verdict, lines_done
from nebula.history.limits import budget_texts, budgets_of
from nebula.history.outcome import Outcome, Progress
from nebula.http.batches.views import BATCHED, view, window
from nebula.store import streams
from nebula.store.batch_queue import BatchQueue, new_id
from nebula.store.connection import Connection, Unavailable
from nebula.store.files import LARGEST, LONGEST_LIFE, FileFacts, Files, StoredFile
from nebula.store.ledger import LedgerStore

_PART = 128 * 1024


@click.group(invoke_without_command=True)
@nats_option
@json_option
@click.pass_context
def batch(context: click.Context, nats: str, as_json: bool) -> None:
    """List the batches; submit or cancel one, and fetch its results."""
    if context.invoked_subcommand is None:
        run(_list(nats, as_json))


@batch.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--endpoint",
    required=True,
    type=click.Choice(BATCHED),
    metavar="PATH",
    help="Path that every line is sent to, such as /v1/chat/completions.",
)
@click.option(
    "--window",
    "within",
    default="24h",
    show_default=True,
    help="Time after which lines without an answer are given up; 7d at most.",
)
@click.option("--wake", is_flag=True, help="Start a model that sleeps; else its lines wait.")
@click.option("--metadata", multiple=True, metavar="KEY=VALUE", help="A pair of your own.")
@wait_option
@nats_option
@json_option
def submit(
    file: Path,
    endpoint: str,
    within: str,
    wake: bool,
    metadata: tuple[str, ...],
    wait: bool,
    nats: str,
    as_json: bool,
) -> None:
    """Send every line of FILE as a request: JSON lines, in the form of OpenAI's batches."""
    size = file.stat().st_size
    if size > LARGEST:
        fail(f"{file}: {size} bytes, and a file may have {LARGEST}", 2)
    fields: dict[str, object] = {
        "endpoint": endpoint,
        "window": _window(within),
        "wake": wake,
        "metadata": dict(pairs("metadata", metadata)),
    }
    run(_submit(nats, file, size, fields, wait, as_json))


@batch.command()
@click.argument("batch")
@nats_option
@json_option
def status(batch: str, nats: str, as_json: bool) -> None:
    """Show how far BATCH is."""
    run(_status(nats, batch, as_json))


@batch.command()
@click.argument("batch")
@wait_option
@nats_option
def cancel(batch: str, wait: bool, nats: str) -> None:
    """End BATCH early; the answers that are there are kept."""
    run(_cancel(nats, batch, wait))


@batch.command()
@click.argument("batch")
@click.option("--errors", is_flag=True, help="The lines that failed, instead of the answers.")
@nats_option
def results(batch: str, errors: bool, nats: str) -> None:
    """Write the answers of BATCH, one line each, in the order of its input."""
    run(_results(nats, batch, errors))


def _window(text: str) -> float:
    try:
        return window(text)
    except ValueError as error:
        fail(f"--window: {error}", 2)


async def _list(nats: str, as_json: bool) -> None:
    async with joined(nats) as projection:
        batches = sorted(projection.state.batches.values(), key=lambda each: each.created_ns)
        if as_json:
            print_json([view(each) for each in batches])
        else:
            tables.console().print(tables.batches(batches))


async def _submit(
    nats: str, file: Path, size: int, fields: dict[str, object], wait: bool, as_json: bool
) -> None:
    async with joined(nats) as projection:
        identity, console = new_id(), tables.console(errors=True)
        first = intent_of({**fields, "input": "file"}, BatchRequested)
        if reason := rejection_reason(projection.state, identity, first):
            fail(reason)
        connection = projection.log.connection
        copies = await _copies(connection)
        await BatchQueue(connection, copies).open()
        with Meanwhile(console, f"{file}: upload") as shown:
            stored = await _upload(Files(connection, copies), file, size, shown)
        event = intent_of({**fields, "input": stored.id}, BatchRequested)
        identity, seq = await append(projection, lambda _: (identity, event))
        done = True
        if wait:
            look = partial(_outcome, identity=identity)
            done = await progress.settled(projection, console, identity, look, seq)
        if as_json:
            print_json(view(projection.state.batches[identity]))
        elif not wait:
            click.echo(identity)
        if not done:
            raise SystemExit(1)


async def _copies(connection: Connection) -> int:
    """Return on how many servers the log is kept, and so are files. Raise Unavailable."""
    try:
        info = await connection.client.jetstream(timeout=5).stream_info(streams.EVENTS)
    except (NatsError, TimeoutError) as error:
        raise Unavailable(f"the log does not answer: {error!r}") from error
    return info.config.num_replicas or 1


async def _upload(files: Files, file: Path, size: int, shown: Meanwhile) -> StoredFile:
    began = time.monotonic()
    upload = await files.upload()
    try:
        for part in _parts(file):
            await upload.write(part)
            done = bar(upload.size, size)
            shown.update(f"{file}: upload {done}", time.monotonic() - began)
    except BaseException:
        await upload.abandon()
        raise
    now = int(time.time())
    return await upload.finish(
        FileFacts(
            owner="", filename=file.name, purpose="batch", created=now, expires=now + LONGEST_LIFE
        )
    )


def _parts(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while part := opened.read(_PART):
            yield part


def _outcome(state: State, identity: str) -> Outcome:
    """Return how far a batch is."""
    known = state.batches.get(identity)
    if known is None or not known.over:
        text = "waits for a gateway" if known is None else _under_way(known)
        return Outcome(Progress.PENDING, text)
    told = batch_verdict(state, identity)
    text = "\n".join((told.headline, *told.behind, told.todo)).strip()
    good = known.phase == "completed" and not known.failed
    return Outcome(Progress.FULFILLED if good else Progress.IMPOSSIBLE, text)


def _under_way(known: Batch) -> str:
    if not known.lines:
        return "waits for a gateway to read its input"
    return f"{bar(known.completed + known.failed, known.lines)} {lines_done(known)}"


async def _status(nats: str, identity: str, as_json: bool) -> None:
    async with joined(nats) as projection:
        known = _find(projection.state, identity)
        if as_json:
            print_json(view(known))
            return
        told = batch_verdict(projection.state, identity)
        click.echo("\n".join(filter(None, (told.headline, *told.behind, told.todo))))
        if not known.over:
            click.echo(_under_way(known))
            for line in await _budgets(projection, known.request.owner):
                click.echo(line)


async def _budgets(projection: Projection, owner: str) -> list[str]:
    """Return what is left for a batch of the budgets that its lines take from."""
    store, texts = LedgerStore(projection.log.connection), []
    for place, budgets in budgets_of(projection.state, owner).items():
        try:
            used = await store.used(*place)
        except Unavailable:
            texts.append(f"what {place[0]} {place[1]!r} has used can't be looked up now")
        else:
            texts += budget_texts(place, budgets, used)
    return texts


async def _cancel(nats: str, identity: str, wait: bool) -> None:
    async with joined(nats) as projection:

        def intent(state: State) -> tuple[str, Event]:
            _known(state, identity)
            return identity, BatchCancelRequested()

        _, seq = await append(projection, intent)
        if wait:
            await _ended(projection, identity, seq)
        else:
            click.echo(f"{identity}: asked to end, event {seq}")


async def _ended(projection: Projection, identity: str, seq: int) -> None:
    def look(state: State) -> Outcome:
        known = state.batches.get(identity)
        if known is not None and not known.over:
            return Outcome(Progress.PENDING, f"waits for a gateway to end it: {_under_way(known)}")
        told = batch_verdict(state, identity)
        return Outcome(Progress.FULFILLED, "\n".join(filter(None, (told.headline, told.todo))))

    console = tables.console(errors=True)
    if not await progress.settled(projection, console, identity, look, seq):
        raise SystemExit(1)


async def _results(nats: str, identity: str, errors: bool) -> None:
    async with joined(nats) as projection:
        known = _find(projection.state, identity)
        if not known.over:
            fail(f"batch {identity} is not over: {command('batch', 'status', identity)}")
        wanted = known.errors if errors else known.output
        if not wanted:
            fail(f"batch {identity} has no {'errors' if errors else 'answers'}: {why(identity)}")
        files = Files(projection.log.connection)
        file = await files.find(wanted)
        if file is None:
            fail(f"file {wanted} of batch {identity} is no longer kept")
        async with aclosing(files.content(file)) as content:
            async for _, chunk in content:
                sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


def _find(state: State, identity: str) -> Batch:
    try:
        return _known(state, identity)
    except Refused as error:
        fail(str(error))


def _known(state: State, identity: str) -> Batch:
    """Return a batch. Raise Refused."""
    known = state.batches.get(identity)
    if known is None:
        raise Refused(f"there is no batch {identity[:80]!r}: {command('batch')} lists them")
    return known
