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
from nebula.actors.log_reading import LogReply, LogRequest
from nebula.actors.projection import Projection
from nebula.cli import progress, tables
from nebula.cli.cluster import joined
from nebula.cli.options import Whole, json_option, nats_option
from nebula.cli.process import fail, run
from nebula.events import subjects
from nebula.events.objections import model_by_reference
from nebula.events.state import Model, State
from nebula.events.vocabulary import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    Event,
    ModelLoadRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    OptionValue,
)
from nebula.http.views import model_view, state_view

E = TypeVar("E", bound=Event)

wait_option = click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Wait and show the progress."
)


def _print_json(value: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


@click.command()
@click.argument("source")
@nats_option
@click.option("--name", default="", help="What requests call it [the last part of SOURCE].")
@click.option("--id", "identity", default=None, help="Its id in subjects and commands.")
@click.option("--task", type=click.Choice(["chat", "embedding"]), default="chat", show_default=True)
@click.option("--replicas", default=1, show_default=True, type=Whole(0, 1024))
@click.option(
    "--max-in-flight",
    default=256,
    show_default=True,
    type=Whole(1, 65_536),
    help="Requests that one replica is given at a time; the others wait in line.",
)
@click.option(
    "--max-waiting",
    default=1024,
    show_default=True,
    type=Whole(0, 65_536),
    help="Requests that may wait in each router before more are refused.",
)
@click.option("--memory", default=None, help="A replica's share of its device, like 6GiB.")
@click.option("--adapter", "adapters", multiple=True, metavar="NAME=SOURCE", help="Repeatable.")
@click.option("--lora/--no-lora", default=None, help="Take adapters at run time.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="For the engine.")
@click.option("--env", "environment", multiple=True, metavar="KEY=VALUE", help="For the engine.")
@wait_option
@json_option
def load(
    source: str,
    nats: str,
    name: str,
    identity: str | None,
    task: str,
    replicas: int,
    max_in_flight: int,
    max_waiting: int,
    memory: str | None,
    adapters: tuple[str, ...],
    lora: bool | None,
    options: tuple[str, ...],
    environment: tuple[str, ...],
    wait: bool,
    as_json: bool,
) -> None:
    """Load a model: SOURCE is a folder on the nodes or a hub id."""
    fields = {
        "source": absolute(source),
        "name": name,
        "task": task,
        "replicas": replicas,
        "adapters": [
            {"name": key, "source": absolute(value)} for key, value in _pairs("adapter", adapters)
        ],
        "lora": lora,
        "memory": memory,
        "options": {key: _value(value) for key, value in _pairs("option", options)},
        "env": dict(_pairs("env", environment)),
        "max_in_flight": max_in_flight,
        "max_waiting": max_waiting,
    }
    event = _event(fields, ModelLoadRequested)
    model = identity or subjects.default_id(event.source, event.name)
    if not subjects.is_token(model):
        fail(f"--id {model!r}: use letters, digits, '_' and '-' only, 128 at most", 2)
    run(_ask(nats, lambda _: (model, event), wait=wait, as_json=as_json))


@click.command()
@click.argument("model")
@nats_option
@wait_option
@json_option
def unload(model: str, nats: str, wait: bool, as_json: bool) -> None:
    """Unload MODEL (its id or name): end its engines and give back their memory."""
    run(_unload(nats, model, wait, as_json))


@click.command()
@click.argument("model")
@click.argument("replicas", type=Whole(0, 1024))
@nats_option
@wait_option
@json_option
def scale(model: str, replicas: int, nats: str, wait: bool, as_json: bool) -> None:
    """Give MODEL another number of REPLICAS."""
    run(
        _ask(
            nats,
            lambda state: (_find(state, model).id, ModelScaleRequested(replicas)),
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
    event = _event({"name": name, "source": absolute(source)}, AdapterLoadRequested)

    def intent(state: State) -> tuple[str, Event]:
        base = _find(state, model)
        if not base.lora and not base.unloading:
            raise Refused(f"model {base.id!r} was loaded without LoRA: load it with --lora")
        return base.id, event

    run(_ask(nats, intent, wait=wait, as_json=as_json))


@adapters.command("unload")
@click.argument("model")
@click.argument("name")
@nats_option
@json_option
def unload_adapter(model: str, name: str, nats: str, as_json: bool) -> None:
    """Unload the adapter NAME from every replica of MODEL."""
    event = _event({"name": name}, AdapterUnloadRequested)
    run(_ask(nats, lambda state: (_find(state, model).id, event), wait=False, as_json=as_json))


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


def _event(fields: dict[str, object], kind: type[E]) -> E:
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


def _pairs(option: str, pairs: Sequence[str]) -> list[tuple[str, str]]:
    split = []
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            fail(
                f"--{option} {pair!r}: write it as {'NAME' if option == 'adapter' else 'KEY'}=…", 2
            )
        split.append((key, value))
    return split


def _value(text: str) -> OptionValue:
    """Read an option's value: JSON where it is some, else the text itself."""
    try:
        value: OptionValue = msgspec.json.decode(text.encode(), type=OptionValue)
    except msgspec.MsgspecError:
        return text
    return value


def _find(state: State, reference: str) -> Model:
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


async def _ask(
    nats: str, intent: Callable[[State], tuple[str, Event]], *, wait: bool, as_json: bool
) -> None:
    async with joined(nats) as projection:
        identity, seq = await _submit(projection, intent)
        served = True
        if wait:
            served = await progress.follow(projection, identity, tables.console(errors=True))
        if as_json:
            model = projection.state.models.get(identity)
            shown = model_view(projection.state, model) if model is not None else None
            _print_json({"id": identity, "seq": seq, "model": shown})
        elif not wait:
            click.echo(f"{identity}: asked for, event {seq}")
        if not served:
            raise SystemExit(1)


async def _unload(nats: str, reference: str, wait: bool, as_json: bool) -> None:
    async with joined(nats) as projection:
        identity, seq = await _submit(
            projection, lambda state: (_find(state, reference).id, ModelUnloadRequested())
        )
        if wait:
            with tables.console(errors=True).status(f"{identity}: its engines are ending"):
                await projection.until(
                    lambda state: (
                        identity not in state.models or not state.models[identity].unloading
                    )
                )
        if as_json:
            _print_json({"id": identity, "seq": seq})
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
            _print_json(items(projection.state))
        else:
            tables.console().print(table(projection.state))


async def _status(nats: str, as_json: bool) -> None:
    async with joined(nats) as projection:
        state = projection.state
        if not as_json:
            tables.status(tables.console(), state)
            return
        _print_json(state_view(state))


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
