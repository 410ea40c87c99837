"""`nebula weights`: which files are on which node, and which of them are kept or removed."""

import click
from msgspec import Struct
from rich.table import Table

from nebula.actors.intents import Refused
from nebula.actors.node.weights.provision import prunable
from nebula.actors.projection import Projection
from nebula.cli import tables
from nebula.cli.cluster import joined
from nebula.cli.options import json_option, nats_option
from nebula.cli.plan_first import end_with_plan, only_planned, plan_option
from nebula.cli.process import fail, run
from nebula.cli.submit import append, node_in
from nebula.cli.tables import print_json
from nebula.events import memory
from nebula.events.intents import WeightsPinRequested, WeightsRemoveRequested
from nebula.events.state import CachedSource, State

PATIENCE = 60.0
"""Seconds to wait for a node to remove files."""


class WeightsView(Struct, frozen=True):
    """A source's files on a node."""

    node: str
    source: str
    done: int
    total: int
    whole: bool
    pinned: bool
    fetched: bool
    removing: bool
    reason: str


@click.group(invoke_without_command=True)
@nats_option
@json_option
@click.pass_context
def weights(context: click.Context, nats: str, as_json: bool) -> None:
    """List the models' files on the nodes; keep or remove them."""
    if context.invoked_subcommand is None:
        run(_list(nats, as_json))


@weights.command()
@click.argument("node")
@click.argument("source")
@plan_option
@nats_option
def pin(node: str, source: str, nats: str) -> None:
    """Protect the files of SOURCE on NODE from pruning; they need not be there yet."""
    run(_pin(nats, node, source, True))


@weights.command()
@click.argument("node")
@click.argument("source")
@plan_option
@nats_option
def unpin(node: str, source: str, nats: str) -> None:
    """No longer protect the files of SOURCE on NODE from pruning."""
    run(_pin(nats, node, source, False))


@weights.command()
@click.argument("node")
@click.argument("source")
@plan_option
@nats_option
def remove(node: str, source: str, nats: str) -> None:
    """Remove the files of SOURCE from NODE, unless they are pinned or in use."""
    run(_remove(nats, node, source))


@weights.command()
@click.argument("node")
@plan_option
@nats_option
def prune(node: str, nats: str) -> None:
    """Remove from NODE the files that Nebula downloaded and that are neither needed nor pinned."""
    run(_prune(nats, node))


def views(state: State) -> list[WeightsView]:
    """List all files, by node and source."""
    return [
        WeightsView(
            node.id,
            source,
            held.done,
            held.total,
            held.whole,
            held.pinned,
            held.fetched,
            held.removing,
            held.reason,
        )
        for node in sorted(state.nodes.values(), key=lambda each: each.id)
        for source, held in sorted(node.weights.items())
    ]


def table(state: State) -> Table:
    """Show all files, one source per line."""
    made = tables.columns("NODE", "SOURCE", "SIZE", "STATE")
    for node in sorted(state.nodes.values(), key=lambda each: each.id):
        for source, held in sorted(node.weights.items()):
            size = memory.word(held.total) if held.total else ""
            made.add_row(node.id, tables.escape(source), size, tables.escape(_stands(held)))
    return made


def _stands(held: CachedSource) -> str:
    if held.removing:
        words = "to be removed"
    elif held.waits:
        words = f"{_share(held)}, {held.waits}"
    elif held.whole:
        words = "whole"
    elif held.reason:
        words = f"{_share(held)}, failed: {held.reason}"
    elif held.total:
        words = _share(held)
    else:
        words = "not there"
    return f"{words}, pinned" if held.pinned else words


def _share(held: CachedSource) -> str:
    return f"{100 * held.done // held.total} % there" if held.total else "nothing there"


def kept(state: State, node: str, source: str) -> str:
    """Return what a pin does now: the files may be missing, or the source misspelt."""
    there = state.nodes.get(node)
    held = there.weights.get(source) if there is not None else None
    if held is None or not held.pinned:
        return f"no longer kept on {node}"
    if held.whole:
        return f"kept on {node}"
    if held.total:
        return f"kept on {node}, {_share(held)} so far"
    return f"{node} has no files of it; when a model brings them, they are kept"


async def _list(nats: str, as_json: bool) -> None:
    async with joined(nats) as projection:
        if as_json:
            print_json(views(projection.state))
        else:
            tables.console().print(table(projection.state))


async def _pin(nats: str, node: str, source: str, pinned: bool) -> None:
    async with joined(nats) as projection:
        event = WeightsPinRequested(source, pinned)
        await append(projection, lambda state: (node_in(state, node).id, event))
        click.echo(f"{source}: {kept(projection.state, node, source)}")


async def _remove(nats: str, node: str, source: str) -> None:
    async with joined(nats) as projection:
        await _gone(projection, node, source)


async def _prune(nats: str, node: str) -> None:
    async with joined(nats) as projection:
        try:
            node_in(projection.state, node)
        except Refused as error:
            fail(str(error))
        sources = prunable(projection.state, node)
        if only_planned():
            end_with_plan(
                projection.state, [(node, WeightsRemoveRequested(each)) for each in sources]
            )
        if not sources:
            click.echo(f"nothing on {node} can go: the rest is needed, pinned, or not Nebula's")
        for source in sources:
            await _gone(projection, node, source)


async def _gone(projection: Projection, node: str, source: str) -> None:
    event = WeightsRemoveRequested(source)
    await append(projection, lambda state: (node_in(state, node).id, event))

    def gone(state: State) -> bool:
        there = state.nodes.get(node)
        return there is None or source not in there.weights

    if not await projection.until(gone, PATIENCE):
        fail(f"{source}: asked for, but {node} has not removed it within {PATIENCE:g} s")
    click.echo(f"{source}: removed from {node}")
