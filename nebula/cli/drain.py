"""`nebula drain`: empty a node without a request being lost, or let it take replicas again."""

import click
from rich.console import Console
from rich.markup import escape

from nebula.actors.placement.decision import replicas_on
from nebula.actors.projection import Projection
from nebula.cli import tables
from nebula.cli.asking import append, node_in, wait_option
from nebula.cli.cluster import joined
from nebula.cli.options import json_option, nats_option
from nebula.cli.process import run
from nebula.cli.tables import print_json
from nebula.events.intents import NodeDrainRequested, NodeUndrainRequested
from nebula.events.state import State


@click.command()
@click.argument("node")
@click.option("--undo", is_flag=True, help="Let it take replicas again.")
@nats_option
@wait_option
@json_option
def drain(node: str, undo: bool, nats: str, wait: bool, as_json: bool) -> None:
    """Empty NODE: it gets nothing new, and its replicas go once others serve in their place."""
    run(_drain(nats, node, undo, wait and not undo, as_json))


async def _drain(nats: str, node: str, undo: bool, wait: bool, as_json: bool) -> None:
    async with joined(nats) as projection:
        known = projection.state.nodes.get(node)
        wanted = not undo
        so_already = known is not None and known.draining == wanted
        seq = None if so_already else await _ask(projection, node, undo)
        empty = await emptied(projection, node, tables.console(errors=True)) if wait else False
        left = [replica.id for replica in replicas_on(projection.state, node)]
        if as_json:
            print_json({"node": node, "seq": seq, "replicas": left})
        elif wait and empty:
            click.echo(f"{node} is empty: nothing runs there any more")
        elif not wait and seq is None:
            words = "is not draining" if undo else "is draining already"
            click.echo(f"{node} {words}: nothing was to be done")
        elif not wait:
            words = "takes replicas again" if undo else "is to be empty"
            click.echo(f"{node} {words}: asked for, event {seq}")
        if wait and not empty:
            raise SystemExit(1)


async def _ask(projection: Projection, node: str, undo: bool) -> int:
    event = NodeUndrainRequested() if undo else NodeDrainRequested()
    _, seq = await append(projection, lambda state: (node_in(state, node).id, event))
    return seq


async def emptied(projection: Projection, node: str, console: Console) -> bool:
    """Wait until nothing runs on a node; False where what is left can't go, which is told."""
    with console.status(f"{node}: its replicas move") as line:
        while True:
            state = projection.state
            known = state.nodes.get(node)
            if known is None or not replicas_on(state, node):
                return True
            if not known.draining:
                console.print(f"{node} takes replicas again: somebody has asked for it")
                return False
            if known.lost:
                console.print(
                    f"{node} is lost: what still runs there nobody knows, and ends once it is back",
                    soft_wrap=True,
                )
                return False
            stuck = _stuck(state, node)
            if stuck is not None:
                for text in stuck:
                    console.print(f"[red]{escape(text)}[/red]", soft_wrap=True)
                console.print(
                    f"{node} stays draining: what is left there moves as soon as it fits "
                    f"(`nebula drain {node} --undo` takes it back)",
                    soft_wrap=True,
                )
                return False
            left = ", ".join(replica.id for replica in replicas_on(state, node))
            line.update(f"{node}: {escape(left)} still there")
            await projection.changed()


def _stuck(state: State, node: str) -> list[str] | None:
    """Say why the replicas that are left can't go; None while any of them still may."""
    why = {}
    for replica in replicas_on(state, node):
        model = state.models.get(replica.model)
        if replica.retired or model is None or not model.unschedulable:
            return None
        why[model.id] = f"{model.id}: {model.unschedulable}"
    return list(why.values())
