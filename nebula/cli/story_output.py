"""How `nebula why` prints what it has found out."""

import msgspec
from rich.console import Console
from rich.markup import escape

from nebula.cli import tables
from nebula.cli.elsewhere import shown_message
from nebula.cli.tables import print_json
from nebula.history import moments
from nebula.history.explanation import Chronicle, ExplanationLine
from nebula.history.request import RequestStory
from nebula.history.subject import Verdict


def tell(
    chronicle: Chronicle, told: Verdict, earlier: int, as_json: bool, mark: int | None = None
) -> None:
    """Print a story: how something stands, what led to it, and what to do.

    `earlier`: the number of events that are left out. `mark`: the sequence that was asked about.
    """
    if as_json:
        fields = msgspec.structs.asdict(told)
        print_json({**fields, "events": chronicle.lines})
        return
    output = tables.console()
    output.print(f"[bold]{escape(told.headline)}[/bold]", soft_wrap=True)
    for text in filter(shown_message, told.behind):
        output.print(f"  {escape(text)}", soft_wrap=True)
    output.print()
    if earlier:
        output.print(f"  [dim]({earlier} earlier events: --all)[/dim]")
    for line in chronicle.lines:
        _line(output, line, mark)
    if shown_message(told.todo):
        output.print(f"\n[bold]What to do:[/bold] {escape(told.todo)}", soft_wrap=True)


def _line(output: Console, line: ExplanationLine, mark: int | None) -> None:
    indent = "  " * min(line.depth, 8)
    cause = f" [dim]<- {line.cause}[/dim]" if line.cause is not None else ""
    actor = line.by or line.actor
    actor = f" [dim]({escape(actor)})[/dim]" if actor else ""
    who = " ".join(line.subject.split(".")[2:4])
    style = "bold" if mark == line.seq else "default"
    output.print(
        f"[bold]{line.seq:>6}[/bold]  {moments.clock(line.time)}  {indent}"
        f"[cyan]{escape(who)}[/cyan]: [{style}]{escape(line.text)}[/{style}]{cause}{actor}",
        soft_wrap=True,
    )
    for reason in line.reasons:
        output.print(f"{'':>35}{indent}[dim]{escape(reason)}[/dim]", soft_wrap=True)


def tell_request(story: RequestStory, as_json: bool) -> None:
    """Print the way of a request."""
    if as_json:
        print_json(story)
        return
    output = tables.console()
    output.print(f"[bold]{escape(story.headline)}[/bold]\n", soft_wrap=True)
    if story.others:
        others = ", ".join(story.others)
        output.print(f"Earlier requests with this id: {escape(others)}\n", soft_wrap=True)
    for step in story.steps:
        output.print(f"  {moments.clock(step.time)}  {escape(step.text)}", soft_wrap=True)
        for reason in step.reasons:
            output.print(f"      [dim]{escape(reason)}[/dim]", soft_wrap=True)
