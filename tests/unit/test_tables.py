"""What the tables of the command line show to people."""

from __future__ import annotations

from io import StringIO

from rich.console import Console
from rich.table import Table

from nebula.cli import tables
from nebula.events.intents import NodeDrainRequested
from nebula.events.vocabulary import (
    EngineReady,
    EngineStarted,
    EngineStopped,
    NodeLost,
)
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
        "n1 draining - gpu0 80.0GiB 8.0GiB 1 - - H100",
        "n2 lost - gpu0 80.0GiB void unknown - - H100",
    ]


def test_beside_an_engine_no_reason_stands_that_is_over() -> None:
    story = cluster(n1=[80]).given("chat", load(1, "8GiB"))
    story.settles()

    def row() -> str:
        return shown(tables.replicas(story.state))[0]

    story.runs("chat-0").given("chat-0", EngineStopped("the node was stopped"))
    assert row().endswith("stopped - - the node was stopped")
    story.given("chat-0", EngineStarted(7, 1.0, 8001, "/log", 1, attempt=1))
    assert row().endswith("starting 7 8001 -")
    story.fails("chat-0").given("chat-0", EngineStarted(7, 1.0, 8001, "/log", 1, attempt=2))
    assert row().endswith("starting 7 8001 attempt 1 failed: killed")
    story.given("chat-0", EngineReady())
    assert row().endswith("ready 7 8001 -")
    story.gives_up("chat-0")
    assert row().endswith("given-up - - ValueError: no")
