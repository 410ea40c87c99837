"""Tables: for people on a terminal, and one line of words for each row where a program reads."""

from __future__ import annotations

from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nebula.cli import tables
from nebula.cli.columns import EMPTY, WIDEST
from nebula.cli.weights import table as weights
from nebula.events.evolve import evolve
from nebula.events.state import EMPTY as NOTHING
from nebula.events.state import State
from nebula.history.difference import differences
from tests.unit import corpus

_cells = st.text("ab c-[]", max_size=60).map(lambda text: " ".join(text.split()))


def piped(table: Table) -> list[str]:
    """Return the lines of a table as a pipe has them."""
    out = StringIO()
    Console(file=out, width=tables.LONGEST_LINE).print(table)
    return out.getvalue().splitlines()


def on_terminal(table: Table, width: int) -> list[str]:
    out = StringIO()
    Console(file=out, width=width, force_terminal=True, color_system=None).print(table)
    return [line.rstrip() for line in out.getvalue().splitlines()]


@given(st.lists(st.tuples(_cells, _cells, _cells), max_size=5))
def test_a_program_finds_each_value_by_its_number(rows: list[tuple[str, str, str]]) -> None:
    table = tables.columns("ONE", "NAME", "REASON")
    for row in rows:
        table.add_row(*map(escape, row))
    head, *lines = piped(table)
    assert head.split() == ["ONE", "NAME", "REASON"]
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        words = line.split(None, 2)
        assert [word.replace("\\x20", " ") for word in words] == [cell or EMPTY for cell in row]
        assert line == line.rstrip()


def test_one_long_value_does_not_move_all_others() -> None:
    table = tables.columns("ONE", "TWO")
    table.add_row("x" * (WIDEST + 1), "a")
    table.add_row("y", "b")
    assert piped(table) == ["ONE  TWO", f"{'x' * (WIDEST + 1)}  a", "y    b"]


def recorded() -> list[State]:
    states = []
    for name in corpus.NAMES:
        state = NOTHING
        for record in corpus.records(name):
            state = evolve(state, record)
            if record.seq % 7 == 0:
                states.append(state)
        states.append(state)
    return states


def test_every_table_of_a_cluster_has_as_many_words_in_each_line_as_columns_at_least() -> None:
    shown = 0
    for state in recorded():
        for table in (
            *(tables.nodes(state), tables.models(state), tables.replicas(state)),
            *(tables.plans(state), tables.adapters(state), tables.aliases(state)),
            *(weights(state), tables.changes(differences(NOTHING, state))),
        ):
            head, *lines = piped(table)
            columns = [str(column.header) for column in table.columns]
            assert head.split() == columns, "a header is one word"
            for line in lines:
                cells = line.split(None, len(columns) - 1)
                assert len(cells) == len(columns), line
                if "MEMORY" in columns:
                    assert cells[columns.index("MEMORY")].endswith(("GiB", "MiB", "0", EMPTY))
            shown += len(lines)
    assert shown > 200


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_terminal_has_no_line_that_is_longer_than_it_is_wide(width: int) -> None:
    for state in recorded()[-20:]:
        for table in (tables.replicas(state), tables.plans(state), tables.models(state)):
            assert max(map(len, on_terminal(table, width))) <= width


def test_only_what_may_be_long_is_folded_on_a_terminal() -> None:
    table = tables.columns("REPLICA", "NODE", "STATE", "REASON")
    table.add_row("smollm2-135m-instruct-0", "a-node", "starting", "word " * 30)
    lines = on_terminal(table, 60)
    assert lines[1].startswith("smollm2-135m-instruct-0  a-node  starting  word word")
    assert all(line.strip().replace("word", "").strip() == "" for line in lines[2:])
