"""`--plan` of every command that changes the cluster: what would follow, with nothing recorded."""

from collections.abc import Sequence
from typing import NoReturn

import click
from rich.console import Console
from rich.markup import escape

from nebula.cli import tables
from nebula.cli.exits import DONE, NOT_DONE
from nebula.cli.tables import print_json
from nebula.events.state import State
from nebula.events.vocabulary import Event
from nebula.history.change_plan import ChangePlan, plan_change, sentences

_ASKED = "nebula.plan"


def _note(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[_ASKED] = value


plan_option = click.option(
    "--plan",
    is_flag=True,
    expose_value=False,
    callback=_note,
    help="Only show what would follow, decided on a copy of the state; nothing is recorded.",
)


def only_planned() -> bool:
    """Return whether the running command was asked for its plan only."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_ASKED))


def end_with_plan(state: State, intents: Sequence[tuple[str, Event]]) -> NoReturn:
    """Print the plan of intents and end the command: with 1 if it is not possible as a whole."""
    found = plan_change(state, intents)
    context = click.get_current_context()
    if context.params.get("as_json"):
        print_json(found)
    else:
        show_plan(tables.console(), found)
    raise SystemExit(DONE if found.possible else NOT_DONE)


def show_plan(output: Console, plan: ChangePlan) -> None:
    """Print a plan for people."""
    for line in sentences(plan):
        output.print(escape(line), soft_wrap=True, highlight=False)
