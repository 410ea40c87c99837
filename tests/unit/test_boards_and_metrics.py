"""Boards ask for the metrics of the table, and for all of them."""

import re

import pytest

from nebula.boards.files import BOARDS
from nebula.boards.panels import Board, Panel
from nebula.metrics.table import TABLE

PANELS = [
    pytest.param(board, panel, id=f"{board.name}: {panel.title}")
    for board in BOARDS
    for row in board.rows
    for panel in row.panels
]
NOT_SHOWN = {
    "nebula_folded_sequence": "nebula_fold_lag_events shows how far it is behind",
    "nebula_event_age_seconds": "grows while nothing happens",
}
PARTS = ("_bucket", "_sum", "_count")


def asked(text: str) -> set[str]:
    """Return the metrics that a query names."""
    histograms = {row.name for row in TABLE if row.kind == "histogram"}
    return {
        name.rpartition("_")[0] if name.rpartition("_")[0] in histograms else name
        for name in re.findall(r"\bnebula_\w+", text)
    }


def test_every_metric_is_on_a_board_and_no_board_asks_for_another() -> None:
    shown = asked(str([board.json() for board in BOARDS]))
    assert shown == {row.name for row in TABLE} - set(NOT_SHOWN)


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_a_panel_keeps_to_labels_and_variables_that_there_are(board: Board, panel: Panel) -> None:
    variables = {each.name for each in board.variables} | {"__rate_interval"}
    rows = {row.name: row for row in TABLE}
    for query in panel.queries:
        assert set(re.findall(r"\$(\w+)", query.expression)) <= variables
        named = set(re.findall(r"{{(\w+)}}", query.legend))
        kept = set(", ".join(re.findall(r"by \((.*?)\)", query.expression)).split(", "))
        assert named <= kept, "a series is called by labels that it has"
        labels = {"instance", "job", "le", "router", "node", "worker"}
        for name in asked(query.expression):
            labels |= set(rows[name].labels)
        if "vllm:" in query.expression:
            labels |= {"model", "replica", "finished_reason"}
        assert kept - {""} <= labels


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_a_panel_tells_what_to_do_and_has_room_on_the_board(board: Board, panel: Panel) -> None:
    assert len(panel.description) > 40
    placed = [each for each in board.json()["panels"] if each["title"] == panel.title]
    assert placed
    for each in placed:
        assert each["gridPos"]["x"] + each["gridPos"]["w"] <= 24
