"""`nebula capture`: requests are captured for a while, redacted, and read by admins."""

import time
import uuid
from contextlib import aclosing

import click
import msgspec

from nebula.cli import tables
from nebula.cli.cluster import connected, joined
from nebula.cli.columns import Columns
from nebula.cli.options import json_option, nats_option
from nebula.cli.process import fail, run
from nebula.cli.submit import append, intent_of, model_in
from nebula.events.advised import command
from nebula.events.capture import Capture, running
from nebula.events.capture_events import CaptureStarted, CaptureStopped
from nebula.events.captured import CapturedRequest
from nebula.events.showing import shown
from nebula.events.state import State
from nebula.events.vocabulary import Event
from nebula.http.batches.views import window
from nebula.store.captures import CaptureStore

LISTED = 1000
"""Captured requests that are listed at most, the newest."""


@click.group("capture", invoke_without_command=True)
@nats_option
@json_option
@click.pass_context
def capture(context: click.Context, nats: str, as_json: bool) -> None:
    """List the captures that are running; start or stop one, and read what was captured."""
    if context.invoked_subcommand is None:
        run(_captures(nats, as_json))


@capture.command()
@click.option("--id", "identity", default="", help="Id of the capture [made up].")
@click.option("--model", default="", help="Capture requests for this model, by its id or name.")
@click.option("--key", default="", help="Capture requests with this API key, by its id.")
@click.option("--tenant", default="", help="Capture requests of this tenant's keys.")
@click.option("--for", "duration", required=True, help="Time after which it ends: 10m.")
@click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Share of the matching requests that is captured.",
)
@click.option(
    "--contents",
    type=click.Choice(["mask", "drop", "keep"]),
    default="mask",
    show_default=True,
    help="What becomes of texts: each letter an x, only their length, or kept.",
)
@click.option(
    "--hide",
    type=click.Choice(["email", "number", "url"]),
    multiple=True,
    help="What is hidden in texts that are kept; repeatable.",
)
@click.option("--hide-word", "words", multiple=True, help="A word that is hidden; repeatable.")
@nats_option
@json_option
def start(
    identity: str,
    model: str,
    key: str,
    tenant: str,
    duration: str,
    share: float,
    contents: str,
    hide: tuple[str, ...],
    words: tuple[str, ...],
    nats: str,
    as_json: bool,
) -> None:
    """Capture the requests of a model, a key or a tenant from now on, for a while."""
    try:
        seconds = window(duration)
    except ValueError as error:
        fail(f"--for: {error}", 2)
    fields: dict[str, object] = {
        "seconds": seconds,
        "key_id": key,
        "tenant": tenant,
        "share": share,
        "contents": contents,
        "hidden": hide,
        "words": words,
    }
    run(_start(nats, identity or f"capture-{uuid.uuid4().hex[:8]}", model, fields, as_json))


@capture.command()
@click.argument("capture")
@nats_option
def stop(capture: str, nats: str) -> None:
    """End CAPTURE now; what it has captured is kept for its time."""

    async def end() -> None:
        async with joined(nats) as projection:
            _, seq = await append(projection, lambda _: (capture, CaptureStopped()))
            click.echo(f"{capture}: stopped, event {seq}")

    run(end())


@capture.command("list")
@click.option("--capture", "only", default="", help="Only what this capture has captured.")
@nats_option
@json_option
def list_captured(only: str, nats: str, as_json: bool) -> None:
    """List the captured requests, the newest last; the NATS role `admin` reads them."""
    run(_captured(nats, only, as_json))


@capture.command()
@click.argument("request")
@nats_option
def show(request: str, nats: str) -> None:
    """Print what was captured of REQUEST as JSON; the NATS role `admin` reads it."""
    tables.print_json(msgspec.to_builtins(shown(run(find(nats, request)))))


async def find(nats: str, request: str) -> CapturedRequest:
    """Return a captured request; end the command if there is none."""
    connection = await connected(nats, "nebula command", role="admin")
    try:
        store = CaptureStore(connection)
        found = await store.find(request)
        if found is None:  # perhaps its caller's own id
            async with aclosing(store.all()) as all_of_them:
                async for each in all_of_them:
                    found = each if request in each.caller_ids else found
    finally:
        await connection.close()
    if found is None:
        fail(f"no request {request!r} was captured: {command('capture', 'list')} lists those")
    return found


async def _captures(nats: str, as_json: bool) -> None:
    async with joined(nats) as projection:
        found = running(projection.state.captures.values(), time.time_ns())
    if as_json:
        tables.print_json([_view(each) for each in found])
        return
    table = Columns(("ID", "MODEL", "KEY", "TENANT", "SHARE", "CONTENTS", "LEFT", "BY"))
    now = time.time()
    for each in shown(found):
        rule = each.rule
        left = f"{max(0.0, each.until_ns / 10**9 - now):.0f}s"
        share = f"{rule.share:g}"
        table.add_row(
            each.id, rule.model, rule.key_id, rule.tenant, share, rule.contents, left, each.by
        )
    tables.console().print(table)


def _view(each: Capture) -> dict[str, object]:
    return {**msgspec.to_builtins(each), "until": each.until_ns / 10**9}


async def _start(
    nats: str, identity: str, model: str, fields: dict[str, object], as_json: bool
) -> None:
    async with joined(nats) as projection:

        def intent(state: State) -> tuple[str, Event]:
            named = model_in(state, model).id if model else ""
            return identity, intent_of({**fields, "model": named}, CaptureStarted)

        _, seq = await append(projection, intent)
        if as_json:
            tables.print_json({**_view(projection.state.captures[identity]), "seq": seq})
        else:
            click.echo(identity)


async def _captured(nats: str, only: str, as_json: bool) -> None:
    connection = await connected(nats, "nebula command", role="admin")
    found: list[CapturedRequest] = []
    try:
        async with aclosing(CaptureStore(connection).all()) as all_of_them:
            async for each in all_of_them:
                if only in ("", each.capture):
                    found.append(each)
                    del found[:-LISTED]
    finally:
        await connection.close()
    if as_json:
        tables.print_json(shown(found))
        return
    table = Columns(("ID", "CAPTURE", "MODEL", "KEY", "BYTES", "STATUS", "MS", "TOKENS", "FAILURE"))
    for each in shown(found):
        table.add_row(
            each.id,
            each.capture,
            each.model,
            each.key,
            str(each.size),
            str(each.status or ""),
            str(each.milliseconds),
            str(each.completion_tokens),
            each.failure or each.omitted,
        )
    tables.console().print(table)
