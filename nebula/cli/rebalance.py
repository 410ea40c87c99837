"""`nebula rebalance`: show which replicas would be better placed elsewhere, or move them."""

from functools import partial

import click
from rich.markup import escape

from nebula.actors.placement.rebalancing import Rebalancing, rebalance, requests
from nebula.cli import progress, tables
from nebula.cli.cluster import joined
from nebula.cli.options import json_option, nats_option
from nebula.cli.plan_first import end_with_plan, only_planned, plan_option
from nebula.cli.process import run
from nebula.cli.submit import append, wait_option
from nebula.cli.tables import print_json
from nebula.events.state import State
from nebula.events.vocabulary import Event
from nebula.history.outcome import Asked, asked


@click.command("rebalance")
@click.option("--yes", is_flag=True, help="Move them: each replica ends once another one serves.")
@nats_option
@wait_option
@plan_option
@json_option
def rebalance_replicas(yes: bool, nats: str, wait: bool, as_json: bool) -> None:
    """Show which replicas share a node or are on full nodes, and where they would move."""
    run(_rebalance(nats, yes, wait, as_json))


async def _rebalance(nats: str, yes: bool, wait: bool, as_json: bool) -> None:
    async with joined(nats) as projection:
        planned = rebalance(projection.state)
        if only_planned():
            end_with_plan(projection.state, list(requests(planned.moves)))
        seqs: list[int] = []
        wishes: list[Asked] = []
        if yes:
            for wish in requests(planned.moves):
                identity, seq = await append(projection, partial(_wish, wish))
                seqs.append(seq)
                wishes.append(asked(projection.state, identity, seq))
        if not as_json:
            _show(planned, seqs)
        console = tables.console(errors=True)
        moved = [
            await progress.follow(projection, each.model, console, each)
            for each in (wishes if wait else ())
        ]
        if as_json:
            print_json({"moves": planned.moves, "passed": planned.passed, "appended": seqs})
        if not all(moved):
            raise SystemExit(1)


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
        output.print("nothing to move: no replica would be better placed elsewhere")
    elif seqs:
        asked = ", ".join(map(str, seqs))
        output.print(
            f"asked for, event {asked}: each replica ends once another one serves in its place"
        )
    else:
        output.print("nothing is done yet: `nebula rebalance --yes` does it")
