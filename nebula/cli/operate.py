"""The commands that ask the cluster for something and show how it stands."""

from collections.abc import Callable

import click
import msgspec
from rich.markup import escape
from rich.table import Table

from nebula.actors.intents import Refused
from nebula.cli import tables
from nebula.cli.asking import absolute, append, ask, intent_of, model_in, wait_option
from nebula.cli.cluster import joined
from nebula.cli.options import Numbered, Whole, json_option, nats_option
from nebula.cli.process import fail, run
from nebula.cli.tables import print_json
from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
)
from nebula.events.state import State
from nebula.events.vocabulary import Event
from nebula.history.advice import advice
from nebula.history.asked_about import log_trouble
from nebula.http.views import model_view, state_view
from nebula.store.reach import trouble


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


def _model_views(state: State) -> list[object]:
    return [model_view(state, state.models[identity]) for identity in sorted(state.models)]


async def _unload(nats: str, reference: str, wait: bool, as_json: bool) -> None:
    async with joined(nats) as projection:
        identity, seq = await append(
            projection, lambda state: (model_in(state, reference).id, ModelUnloadRequested())
        )
        if wait:
            with tables.console(errors=True).status(f"{identity}: its engines are ending"):
                await projection.until(
                    lambda state: not ending(state, identity) or lost_alone(state, identity)
                )
            if ending(projection.state, identity):
                model = projection.state.models[identity]
                fail(f"{identity} stays unloading. {advice(projection.state, model)}")
        if as_json:
            print_json({"id": identity, "seq": seq})
        else:
            click.echo(f"{identity}: {'unloaded' if wait else f'asked for, event {seq}'}")


def ending(state: State, identity: str) -> bool:
    """Say whether a model is still being unloaded."""
    model = state.models.get(identity)
    return model is not None and model.unloading


def lost_alone(state: State, identity: str) -> bool:
    """Say whether all that is left of a model is on lost nodes: no node will end it now."""
    left = state.replicas_of(state.models[identity])
    nodes = [state.nodes.get(replica.node) for replica in left]
    return bool(nodes) and all(node is not None and node.lost for node in nodes)


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
        refused, warning = await trouble(projection.log.connection)
        if as_json:
            log = {"writable": not refused, "refused": refused, "warning": warning}
            print_json({**msgspec.to_builtins(state_view(state)), "log": log})
            return
        text = log_trouble(refused, warning)
        if text:
            colour = "red" if refused else "yellow"
            tables.console().print(f"[{colour}]{escape(text)}[/{colour}]\n", soft_wrap=True)
        tables.status(tables.console(), state)
