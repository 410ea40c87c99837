"""`nebula rebalance`: show which replicas would lie better elsewhere, and move them if told so."""

from functools import partial

import click
from rich.markup import escape

from nebula.actors.placement.rebalancing import Rebalancing, rebalance, requests
from nebula.cli import tables
from nebula.cli.asking import append
from nebula.cli.cluster import joined
from nebula.cli.options import json_option, nats_option
from nebula.cli.process import run
from nebula.cli.tables import print_json
from nebula.events.state import State
from nebula.events.vocabulary import Event


@click.command("rebalance")
@click.option("--yes", is_flag=True, help="Carry it out: each replica goes once another serves.")
@nats_option
@json_option
def rebalance_replicas(yes: bool, nats: str, as_json: bool) -> None:
    """Show which replicas lie together, or on full nodes, and where they would go."""
    run(_rebalance(nats, yes, as_json))


async def _rebalance(nats: str, yes: bool, as_json: bool) -> None:
    async with joined(nats) as projection:
        planned = rebalance(projection.state)
        seqs: list[int] = []
        if yes:
            for wish in requests(planned.moves):
                _, seq = await append(projection, partial(_wish, wish))
                seqs.append(seq)
        if as_json:
            print_json({"moves": planned.moves, "passed": planned.passed, "appended": seqs})
        else:
            _show(planned, seqs)


def _wish(wish: tuple[str, Event], _: State) -> tuple[str, Event]:
    return wish


def _show(planned: Rebalancing, seqs: list[int]) -> None:
    output = tables.console()
    for move in planned.moves:
        output.print(
            f"{escape(move.replica)}: {escape(move.source)} -> {escape(move.target)}, because "
            f"{escape(move.reason)}",
            soft_wrap=True,
        )
    for reason in planned.passed:
        output.print(f"[dim]left alone: {escape(reason)}[/dim]", soft_wrap=True)
    if not planned.moves:
        output.print("nothing to move: no replica would lie better elsewhere")
    elif seqs:
        asked = ", ".join(map(str, seqs))
        output.print(
            f"asked for, event {asked}: each replica goes once another serves in its place"
        )
    else:
        output.print("nothing is done yet: `nebula rebalance --yes` carries it out")
