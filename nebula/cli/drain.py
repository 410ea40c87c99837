"""`nebula drain`: empty a node without a request being lost, or let it take replicas again."""

from functools import partial

import click
from rich.console import Console
from rich.markup import escape

from nebula.actors.placement.decision import replicas_on
from nebula.actors.projection import Projection
from nebula.cli import progress, tables
from nebula.cli.cluster import joined
from nebula.cli.options import json_option, nats_option
from nebula.cli.plan_first import only_planned, plan_option
from nebula.cli.process import run
from nebula.cli.submit import append, node_in, wait_option
from nebula.cli.tables import print_json
from nebula.events.advised import command
from nebula.events.intents import NodeDrainRequested, NodeUndrainRequested
from nebula.history.leaving import emptying
from nebula.history.outcome import Progress


@click.command()
@click.argument("node")
@click.option("--undo", is_flag=True, help="Let it take replicas again.")
@nats_option
@wait_option
@plan_option
@json_option
def drain(node: str, undo: bool, nats: str, wait: bool, as_json: bool) -> None:
    """Empty NODE: it gets no new replicas, and its replicas end once others serve instead."""
    run(_drain(nats, node, undo, wait and not undo, as_json))


async def _drain(nats: str, node: str, undo: bool, wait: bool, as_json: bool) -> None:
    async with joined(nats) as projection:
        known = projection.state.nodes.get(node)
        wanted = not undo
        so_already = known is not None and known.draining == wanted
        seq = None if so_already and not only_planned() else await _ask(projection, node, undo)
        empty = await emptied(projection, node, tables.console(errors=True)) if wait else False
        left = [replica.id for replica in replicas_on(projection.state, node)]
        if as_json:
            print_json({"node": node, "seq": seq, "replicas": left})
        elif wait and empty:
            click.echo(f"{node} is empty: nothing runs there any more")
        elif not wait and seq is None:
            words = "is not draining" if undo else "is draining already"
            click.echo(f"{node} {words}: there was nothing to do")
        elif not wait:
            words = "takes replicas again" if undo else "is being emptied"
            click.echo(f"{node} {words}: asked for, event {seq}")
        if wait and not empty:
            raise SystemExit(1)


async def _ask(projection: Projection, node: str, undo: bool) -> int:
    event = NodeUndrainRequested() if undo else NodeDrainRequested()
    _, seq = await append(projection, lambda state: (node_in(state, node).id, event))
    return seq


async def emptied(projection: Projection, node: str, console: Console) -> bool:
    """Wait until nothing runs on a node; report what can't leave, and return False then."""
    recorded = f"it stays draining ({command('drain', node, '--undo')} takes that back)"
    found = await progress.until_settled(
        projection, console, node, partial(emptying, node=node), recorded
    )
    if found is not None and found.progress == Progress.IMPOSSIBLE:
        console.print(f"[red]{escape(found.text)}[/red]", soft_wrap=True)
        if found.todo:
            console.print(escape(found.todo), soft_wrap=True)
    return found is not None and found.progress == Progress.FULFILLED
