"""The commands that change the cluster and show its state."""

import time
from collections.abc import Callable
from functools import partial

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nebula.actors.intents import Refused
from nebula.actors.projection import Projection
from nebula.cli import progress, status_output, tables
from nebula.cli.cluster import joined
from nebula.cli.options import Numbered, Whole, json_option, nats_option
from nebula.cli.plan_first import plan_option
from nebula.cli.process import run
from nebula.cli.submit import absolute, append, ask, intent_of, model_in, wait_option
from nebula.cli.tables import print_json
from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
)
from nebula.events.state import State
from nebula.events.vocabulary import Event
from nebula.history import attention, long_lines
from nebula.history.leaving import adapter_unloading, unloading
from nebula.history.load_command import load_again
from nebula.history.outcome import Progress
from nebula.history.subject import log_trouble
from nebula.http.told_lines import told_lines
from nebula.http.views import model_view, state_view
from nebula.store.reach import trouble


@click.command()
@click.argument("model")
@nats_option
@wait_option
@plan_option
@json_option
def unload(model: str, nats: str, wait: bool, as_json: bool) -> None:
    """Unload MODEL (an id or a name): end its engines and free their memory."""
    run(_unload(nats, model, wait, as_json))


@click.command(cls=Numbered)
@click.argument("model")
@click.argument("replicas", type=Whole(0, 1024))
@nats_option
@wait_option
@plan_option
@json_option
def scale(model: str, replicas: int, nats: str, wait: bool, as_json: bool) -> None:
    """Change MODEL's number of replicas to REPLICAS."""
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
@plan_option
@json_option
def load_adapter(model: str, name: str, source: str, nats: str, wait: bool, as_json: bool) -> None:
    """Load the adapter NAME from SOURCE onto every replica of MODEL."""
    event = intent_of({"name": name, "source": absolute(source)}, AdapterLoadRequested)

    def intent(state: State) -> tuple[str, Event]:
        base = model_in(state, model)
        if not base.lora and not base.unloading:
            raise Refused(
                f"model {base.id!r} was loaded without LoRA; this loads it again so that it takes "
                f"adapters: {load_again(base, lora=True)}"
            )
        return base.id, event

    run(ask(nats, intent, wait=wait, as_json=as_json, adapter=name))


@adapters.command("unload")
@click.argument("model")
@click.argument("name")
@nats_option
@wait_option
@plan_option
@json_option
def unload_adapter(model: str, name: str, nats: str, wait: bool, as_json: bool) -> None:
    """Unload the adapter NAME from every replica of MODEL."""
    event = intent_of({"name": name}, AdapterUnloadRequested)
    run(
        ask(
            nats,
            lambda state: (model_in(state, model).id, event),
            wait=wait,
            as_json=as_json,
            what=f"to unload adapter {name}",
            look=partial(adapter_unloading, adapter=name),
        )
    )


@click.command()
@nats_option
@json_option
def status(nats: str, as_json: bool) -> None:
    """Show the whole cluster, what needs attention, and what to do about it."""
    run(_status(nats, as_json))


def _model_views(state: State) -> list[object]:
    now = time.time_ns()
    return [model_view(state, state.models[identity], now) for identity in sorted(state.models)]


async def _unload(nats: str, reference: str, wait: bool, as_json: bool) -> None:
    async with joined(nats) as projection:
        identity, seq = await append(
            projection, lambda state: (model_in(state, reference).id, ModelUnloadRequested())
        )
        if wait and not await gone(projection, tables.console(errors=True), identity, seq):
            raise SystemExit(1)
        if as_json:
            print_json({"id": identity, "seq": seq})
        else:
            click.echo(f"{identity}: {'unloaded' if wait else f'asked for, event {seq}'}")


async def gone(projection: Projection, console: Console, identity: str, seq: int) -> bool:
    """Wait until an unloaded model is gone; report it if the model stays, and return False then."""
    recorded = f"the request is event {seq} of the log, and its engines end anyway"
    found = await progress.until_settled(
        projection, console, identity, partial(unloading, identity=identity, seq=seq), recorded
    )
    if found is not None and found.progress == Progress.IMPOSSIBLE:
        console.print(f"[red]{escape(found.text)}[/red]", soft_wrap=True)
    return found is not None and found.progress == Progress.FULFILLED


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
        state, now = projection.state, time.time_ns()
        refused, warning = await trouble(projection.log.connection)
        lines = await told_lines(projection.log.connection)
        if as_json:
            log = {"writable": not refused, "refused": refused, "warning": warning}
            found = attention.survey(state, status_output.LISTED, now)
            found = long_lines.with_lines(found, state, lines, now)
            concerns = {"attention": found.concerns, "more_attention": found.more}
            view = msgspec.to_builtins(state_view(state, now))
            print_json({**view, **concerns, "log": log})
            return
        text = log_trouble(refused, warning)
        if text:
            colour = "red" if refused else "yellow"
            tables.console().print(f"[{colour}]{escape(text)}[/{colour}]\n", soft_wrap=True)
        status_output.status(tables.console(), state, now, lines)
