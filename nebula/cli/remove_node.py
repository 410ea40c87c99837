"""`nebula remove-node`: remove a node for good that no longer exists."""

import asyncio
from functools import partial

import click

from nebula.actors.intents import Refused, submit
from nebula.actors.placement.decision import replicas_on
from nebula.actors.presence import answers
from nebula.actors.projection import Projection
from nebula.actors.removal import occupied, stays
from nebula.cli import tables
from nebula.cli.cluster import joined
from nebula.cli.drain import emptied
from nebula.cli.options import json_option, nats_option
from nebula.cli.plan_first import end_with_plan, only_planned, plan_option
from nebula.cli.process import fail, run
from nebula.cli.submit import append, node_in
from nebula.cli.tables import print_json
from nebula.events.intents import NodeDrainRequested
from nebula.events.vocabulary import NodeDeregistered

PATIENCE = 600.0
"""Seconds to wait for the operator to end a drained node's process."""


@click.command("remove-node")
@click.argument("node")
@click.option(
    "--drain", is_flag=True, help="Empty it first, then wait until its process has been ended."
)
@plan_option
@nats_option
@json_option
def remove_node(node: str, drain: bool, nats: str, as_json: bool) -> None:
    """Remove NODE for good: it disappears from all tables. It may come back, as a new node."""
    run(_remove(nats, node, drain, as_json))


async def _remove(nats: str, node: str, drain: bool, as_json: bool) -> None:
    async with joined(nats) as projection:
        try:
            node_in(projection.state, node)
            if only_planned():
                first = [(node, NodeDrainRequested())] if drain else []
                end_with_plan(projection.state, [*first, (node, NodeDeregistered())])
            if drain:
                await _drained(projection, node)
            reason = stays(projection.state, node, await answers(projection.log.connection, node))
            if reason:
                fail(reason)
            seq = await submit(
                projection, node, NodeDeregistered(), unless=partial(occupied, node=node)
            )
        except Refused as error:
            fail(str(error))
        if as_json:
            print_json({"node": node, "seq": seq})
        else:
            click.echo(f"{node} is removed: event {seq}")


async def _drained(projection: Projection, node: str) -> None:
    """Empty a node and wait for its process to end; end the command if that fails."""
    console = tables.console(errors=True)
    known = node_in(projection.state, node)
    if not known.away and replicas_on(projection.state, node):
        if not known.draining:
            await append(projection, lambda state: (node_in(state, node).id, NodeDrainRequested()))
        there = await emptied(projection, node, console)
        known = node_in(projection.state, node)
        if not there and not known.away:
            raise SystemExit(1)
    connection = projection.log.connection
    if await answers(connection, node) is False:
        return
    console.print(f"{node} is empty: end its process now (Ctrl-C there), so that it can be removed")
    try:
        async with asyncio.timeout(PATIENCE):
            while await answers(connection, node) is not False:  # noqa: ASYNC110 - it just ends
                await asyncio.sleep(1)
    except TimeoutError:
        fail(f"{node} still runs after {PATIENCE:g} s: it is empty, and stays draining")
