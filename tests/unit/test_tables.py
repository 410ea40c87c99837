"""What the tables of the command line show to people."""

from __future__ import annotations

from io import StringIO

from rich.console import Console
from rich.table import Table

from nebula.cli import tables
from nebula.events.intents import NodeDrainRequested
from nebula.events.vocabulary import NodeLost
from tests.unit.story import cluster, load


def shown(table: Table) -> list[str]:
    out = StringIO()
    Console(file=out, width=160).print(table)
    return [" ".join(line.split()) for line in out.getvalue().splitlines()[1:]]


def test_what_was_promised_of_a_lost_node_counts_no_more() -> None:
    story = cluster(n1=[80], n2=[80]).given("chat", load(2, "8GiB"))
    story.settles()
    story.runs("chat-0").runs("chat-1").given("n1", NodeDrainRequested()).given("n2", NodeLost())
    assert shown(tables.nodes(story.state)) == [
        "n1 (draining) gpu0 H100 80.0 GiB 8.0 GiB 1",
        "n2 (lost) gpu0 H100 80.0 GiB void unknown",
    ]
