"""The commands that ask the cluster for something and show how it stands."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import click
import msgspec
from nats.errors import Error as NatsError
from rich.table import Table

from nebula.actors.intents import Refused, submit
from nebula.actors.node.log_reading import LogReply, LogRequest
from nebula.actors.projection import Projection
from nebula.cli import progress, tables
from nebula.cli.cluster import joined
from nebula.cli.options import Numbered, Whole, json_option, nats_option
from nebula.cli.process import fail, run
from nebula.events import subjects
from nebula.events.objections import model_by_reference
from nebula.events.state import Model, State
from nebula.events.vocabulary import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    Event,
    ModelScaleRequested,
    ModelUnloadRequested,
)
from nebula.http.views import model_view, state_view

E = TypeVar("E", bound=Event)

wait_option = click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Wait and show the progress."
)


def print_json(value: object) -> None:
    """Print a value as JSON, for people and programs."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


@click.command()
@click.argument("model")
@nats_option
@wait_option
@json_option
def unload(model: str, nats: str, wait: bool, as_json: bool) -> None:
    """Unload MODEL (its id or name): end its engines and give back their memory."""
    run(_unload(nats, model, wait, as_json))


@click.command(cls=Numbered)
@click.argument("model")
@click.argument("replicas", type=Whole(0, 1024))
@nats_option
@wait_option
@json_option
def scale(model: str, replicas: int, nats: str, wait: bool, as_json: bool) -> None:
    """Give MODEL another number of REPLICAS."""
    run(
        ask(
            nats,
            lambda state: (model_in(state, model).id, ModelScaleRequested(replicas)),
            wait=wait,
            as_json=as_json,
        )
    )


@click.command()
@nats_option
@json_option
def models(nats: str, as_json: bool) -> None:
    """List the models."""
    run(_show(nats, as_json, _model_views, tables.models))


@click.command()
@nats_option
@json_option
def nodes(nats: str, as_json: bool) -> None:
    """List the nodes and their devices."""
    run(
        _show(
            nats,
            as_json,
            lambda state: [state.nodes[identity] for identity in sorted(state.nodes)],
            tables.nodes,
        )
    )


@click.command()
@nats_option
@json_option
def replicas(nats: str, as_json: bool) -> None:
    """List the replicas and their engines."""
    run(
        _show(
            nats,
            as_json,
            lambda state: [state.replicas[identity] for identity in sorted(state.replicas)],
            tables.replicas,
        )
    )


@click.group(invoke_without_command=True)
@nats_option
@json_option
@click.pass_context
def adapters(context: click.Context, nats: str, as_json: bool) -> None:
    """List, load and unload LoRA adapters."""
    if context.invoked_subcommand is None:
        run(_show(nats, as_json, _model_views, tables.adapters))


@adapters.command("load")
@click.argument("model")
@click.argument("name")
@click.argument("source")
@nats_option
@wait_option
@json_option
def load_adapter(model: str, name: str, source: str, nats: str, wait: bool, as_json: bool) -> None:
    """Load the adapter NAME from SOURCE onto every replica of MODEL."""
    event = intent_of({"name": name, "source": absolute(source)}, AdapterLoadRequested)

    def intent(state: State) -> tuple[str, Event]:
        base = model_in(state, model)
        if not base.lora and not base.unloading:
            raise Refused(f"model {base.id!r} was loaded without LoRA: load it with --lora")
        return base.id, event

    run(ask(nats, intent, wait=wait, as_json=as_json))


@adapters.command("unload")
@click.argument("model")
@click.argument("name")
@nats_option
@json_option
def unload_adapter(model: str, name: str, nats: str, as_json: bool) -> None:
    """Unload the adapter NAME from every replica of MODEL."""
    event = intent_of({"name": name}, AdapterUnloadRequested)
    run(ask(nats, lambda state: (model_in(state, model).id, event), wait=False, as_json=as_json))


@click.command()
@nats_option
@json_option
def status(nats: str, as_json: bool) -> None:
    """Show the whole cluster."""
    run(_status(nats, as_json))


@click.command()
@click.argument("replica")
@nats_option
@click.option("-n", "--lines", default=100, show_default=True, help="How many lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows.")
def logs(replica: str, nats: str, lines: int, follow: bool) -> None:
    """Print the engine's log of REPLICA, wherever it runs; a model's id means its first replica."""
    run(_logs(nats, replica, lines, follow))


def intent_of(fields: dict[str, object], kind: type[E]) -> E:
    """Make an intent of what was given; ends the command where that is none."""
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        fail(str(error), 2)


def absolute(source: str) -> str:
    """Make a folder absolute: the nodes have other working folders.

    What is written as a path is one, there or not; anything else may be a hub id.
    """
    if not source.strip():
        fail("a source is empty: give a folder on the nodes or a hub id", 2)
    try:
        path = Path(source).expanduser()
    except RuntimeError as error:  # ~somebody
        fail(f"{source}: {error}", 2)
    written_as_path = source in (".", "..") or source.startswith(("./", "../", "/", "~"))
    return str(path.resolve()) if written_as_path or path.exists() else source


def pairs(option: str, given: Sequence[str]) -> list[tuple[str, str]]:
    """Split what was given as KEY=VALUE; ends the command where something is not."""
    split = []
    for pair in given:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            fail(
                f"--{option} {pair!r}: write it as {'NAME' if option == 'adapter' else 'KEY'}=…", 2
            )
        split.append((key, value))
    return split


def model_in(state: State, reference: str) -> Model:
    """Find a model by its id or name. Raises Refused."""
    model = model_by_reference(state, reference)
    if model is None:
        there = ", ".join(sorted(state.models)) or "none"
        raise Refused(f"there is no model {reference!r}; there are: {there}")
    return model


def _model_views(state: State) -> list[object]:
    return [model_view(state, state.models[identity]) for identity in sorted(state.models)]


async def _submit(
    projection: Projection, intent: Callable[[State], tuple[str, Event]]
) -> tuple[str, int]:
    try:
        identity, event = intent(projection.state)
        return identity, await submit(projection, identity, event)
    except Refused as error:
        fail(str(error))


async def ask(
    nats: str, intent: Callable[[State], tuple[str, Event]], *, wait: bool, as_json: bool
) -> None:
    """Append an intent, wait for what comes of it if so told, and print it."""
    async with joined(nats) as projection:
        identity, seq = await _submit(projection, intent)
        served = True
        if wait:
            served = await progress.follow(projection, identity, tables.console(errors=True))
        if as_json:
            model = projection.state.models.get(identity)
            shown = model_view(projection.state, model) if model is not None else None
            print_json({"id": identity, "seq": seq, "model": shown})
        elif not wait:
            click.echo(f"{identity}: asked for, event {seq}")
        if not served:
            raise SystemExit(1)


async def _unload(nats: str, reference: str, wait: bool, as_json: bool) -> None:
    async with joined(nats) as projection:
        identity, seq = await _submit(
            projection, lambda state: (model_in(state, reference).id, ModelUnloadRequested())
        )
        if wait:
            with tables.console(errors=True).status(f"{identity}: its engines are ending"):
                await projection.until(
                    lambda state: (
                        identity not in state.models or not state.models[identity].unloading
                    )
                )
        if as_json:
            print_json({"id": identity, "seq": seq})
        else:
            click.echo(f"{identity}: {'unloaded' if wait else f'asked for, event {seq}'}")


async def _show(
    nats: str,
    as_json: bool,
    items: Callable[[State], list[object]],
    table: Callable[[State], Table],
) -> None:
    async with joined(nats) as projection:
        if as_json:
            print_json(items(projection.state))
        else:
            tables.console().print(table(projection.state))


async def _status(nats: str, as_json: bool) -> None:
    async with joined(nats) as projection:
        state = projection.state
        if not as_json:
            tables.status(tables.console(), state)
            return
        print_json(state_view(state))


async def _logs(nats: str, reference: str, lines: int, follow: bool) -> None:
    async with joined(nats) as projection:
        state = projection.state
        replica = state.replicas.get(reference)
        if replica is None:
            model = model_by_reference(state, reference)
            replica = next(state.replicas_of(model), None) if model is not None else None
        if replica is None:
            there = ", ".join(sorted(state.replicas)) or "none"
            fail(f"there is no replica {reference!r}; there are: {there}")
        reply = await _ask_log(projection, replica.node, LogRequest(replica.id, lines))
        sys.stdout.write(reply.text)
        sys.stdout.flush()
        while follow:
            await asyncio.sleep(0.5)
            request = LogRequest(replica.id, offset=reply.offset)
            reply = await _ask_log(projection, replica.node, request)
            sys.stdout.write(reply.text)
            sys.stdout.flush()


async def _ask_log(projection: Projection, node: str, request: LogRequest) -> LogReply:
    client = projection.log.connection.client
    try:
        answer = await client.request(subjects.logs(node), msgspec.json.encode(request), timeout=5)
    except (NatsError, TimeoutError):
        fail(f"node {node!r} does not answer")
    reply = msgspec.json.decode(answer.data, type=LogReply)
    if reply.error:
        fail(reply.error)
    return reply
