"""`nebula resilience`: show what would have no place if a node were lost, now or at a moment."""

from collections.abc import Iterator
from pathlib import Path

import click
from rich.table import Table

from nebula.actors.placement.resilience import Displaced, NodeLoss, Resilience
from nebula.cli import tables
from nebula.cli.log_source import log_option, moment, opened, state_at
from nebula.cli.options import json_option, nats_option
from nebula.cli.process import fail, run
from nebula.cli.tables import print_json
from nebula.events import memory
from nebula.history import moments
from nebula.history.moments import Moment

SHOWN = 3
"""Models of a node that are named when nothing would happen to them but a move."""


@click.command()
@click.option("--at", default=None, metavar="SEQ|TIME", help="The moment [now].")
@click.option("--node", default="", help="Only the loss of this node, with every model.")
@click.option("--check", is_flag=True, help="End with exit code 1 if any replica has none.")
@log_option
@nats_option
@json_option
def resilience(
    at: str | None, node: str, check: bool, file: Path | None, nats: str, as_json: bool
) -> None:
    """Show for each node what would have no place if the node were lost.

    Each loss is decided on a copy of the cluster's state, as a router would decide it.
    """
    lacking = run(_resilience(nats, file, moment(at), node, as_json))
    if check and lacking:
        raise SystemExit(1)


async def _resilience(
    nats: str, file: Path | None, at: Moment | None, node: str, as_json: bool
) -> bool:
    async with opened(nats, file) as past:
        state = await state_at(past, at)
    if node and node not in state.nodes:
        fail(f"there is no node {node!r} after event {state.seq}")
    known = Resilience(state)
    losses = [known.loss(node)] if node else list(known.losses())
    if as_json:
        print_json({"seq": state.seq, "nodes": losses})
    else:
        output = tables.console()
        output.print(f"after event {state.seq}, {moments.clock(state.time)}\n")
        output.print(_table(losses, whole=bool(node)))
        output.print(f"\n{verdict(losses)}", soft_wrap=True)
    return any(each.missing for each in losses)


def _table(losses: list[NodeLoss], *, whole: bool) -> Table:
    table = tables.columns("NODE", "MODEL", "REPLICAS", "THEN")
    for loss in losses:
        if not loss.models:
            table.add_row(loss.node, "", "", "[dim]nothing runs there[/dim]")
        for number, row in enumerate(_rows(loss, whole)):
            table.add_row("" if number else loss.node, *row)
    return table


def _rows(loss: NodeLoss, whole: bool) -> Iterator[tuple[str, str, str]]:
    """Yield a row for each model that lacks a place, and for some of those that only move."""
    lacking = [each for each in loss.models if each.missing]
    moving = [each for each in loss.models if not each.missing]
    for each in lacking:
        yield tables.escape(each.model), tables.escape(", ".join(each.replicas)), _then(each)
    told = moving if whole or len(moving) <= SHOWN + 1 else moving[:SHOWN]
    for each in told:
        yield tables.escape(each.model), tables.escape(", ".join(each.replicas)), _then(each)
    if len(told) < len(moving):
        rest = len(moving) - len(told)
        words = "more model has" if rest == 1 else "more models have"
        yield "", "", f"[dim]{rest} {words} a place elsewhere[/dim]"


def _then(each: Displaced) -> str:
    parts = []
    if each.missing:
        parts.append(f"[red]{_many(each.missing, 'replica')} without a place[/red]{_needs(each)}")
    if each.places:
        parts.append(f"to {tables.escape(', '.join(each.places))}")
    parts.append(
        f"{each.serves} elsewhere serve{'s' if each.serves == 1 else ''} meanwhile"
        if each.serves
        else "nothing serves meanwhile"
    )
    names = [*each.adapters, *each.aliases]
    if names:
        parts.append(f"also asked for as {tables.escape(', '.join(names))}")
    return "; ".join(parts)


def _needs(each: Displaced) -> str:
    need = f": each needs {memory.text(each.need)}"
    if each.lacks:
        return f"{need}, the nearest place lacks {memory.text(each.lacks)}"
    return f"{need}; {tables.escape(each.reason)}" if each.reason else need


def verdict(losses: list[NodeLoss]) -> str:
    """Return one sentence about all of them."""
    lacking = [each for each in losses if each.missing]
    if not losses:
        return "there is no node that could be lost"
    if not lacking:
        return "any one of these nodes may be lost: everything has a place elsewhere"
    worst = max(lacking, key=lambda each: (each.memory, each.missing))
    nodes = _many(len(lacking), "node")
    return (
        f"the loss of {nodes} of {len(losses)} would leave replicas without a place; the worst is "
        f"{tables.escape(worst.node)}: {_many(worst.missing, 'replica')}, which need "
        f"{memory.text(worst.memory)}"
    )


def _many(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
