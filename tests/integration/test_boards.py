"""A real Prometheus has data for every query of every board and rule, of a running cluster."""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from nebula.boards.files import BOARDS, files
from nebula.boards.panels import Board
from nebula.boards.queries import sum_of
from nebula.cli.main import main
from tests.integration.alert_cases import CASES, unit_tests
from tests.integration.observed import OBSERVABILITY, Observed, observed, queries
from tests.integration.prometheus import promtool, until

ALERTS: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((OBSERVABILITY / "rules.yaml").read_text())["groups"]
    for rule in group["rules"]
]
THRESHOLD = re.compile(r" *(?:==|>=|<=|>|<) *[\d.]+$")
ABSENT = re.compile(r"absent\((.*)\)$")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """What all tests of this module ask."""
    with observed(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_every_query_of_a_board_returns_data(seen: Observed, board: Board) -> None:
    seen.answer(list(queries(board)))


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_every_variable_of_a_board_has_values(seen: Observed, board: Board) -> None:
    for variable in board.variables:
        path = f"label/{variable.name}/values"
        found = seen.server.get(path, {"match[]": [variable.metric]})
        assert set(found) >= {{"model": "chat", "node": "here", "tenant": "acme"}[variable.name]}


def test_the_expression_of_every_alert_returns_series_without_its_threshold(seen: Observed) -> None:
    asked = []
    for rule in ALERTS:
        expression = ABSENT.sub(r"\1", rule["expr"])
        asked.append((rule["alert"], THRESHOLD.sub("", expression)))
    seen.answer(asked)


def test_every_target_is_scraped(seen: Observed) -> None:
    def all_up() -> bool:
        found = seen.server.targets()
        jobs = sorted(each["labels"]["job"] for each in found if each["health"] == "up")
        return jobs == sorted(2 * ["nebula-gateways", "nebula-cluster", "nebula-engines"])

    until(all_up, lambda: f"each job is scraped at both gateways: {seen.server.targets()}")


def test_what_two_gateways_hand_on_counts_once(seen: Observed) -> None:
    def twice() -> bool:
        found = seen.server.query("count by (node) (nebula_engines)")
        return [float(each["value"][1]) for each in found] == [2]

    until(twice, lambda: "both gateways hand on the figures of the node")
    (engines,) = seen.server.query(sum_of("nebula_engines", told=True))
    (told,) = seen.server.query("max(nebula_engines)")
    assert engines["value"][1] == told["value"][1]


def test_boards_go_on_without_a_gateway_which_is_told_to_be_down(seen: Observed) -> None:
    """The last one that asks this cluster."""
    seen.cluster.kill("gateway-2")
    down = 'up{job="nebula-gateways"} == 0'
    until(partial(seen.server.query, down), lambda: "Prometheus goes on to ask the dead gateway")
    once = "count(nebula_engines) == 1"
    until(partial(seen.server.query, once), lambda: "only the other one hands on what nodes tell")


def test_promtool_finds_the_rules_right() -> None:
    promtool("check", "rules", str(OBSERVABILITY / "rules.yaml"))


def test_every_alert_fires_where_it_should_and_only_there(tmp_path: Path) -> None:
    file = tmp_path / "tests.yaml"
    file.write_text(json.dumps(unit_tests(str(OBSERVABILITY / "rules.yaml"))))
    promtool("test", "rules", str(file))
    assert set(CASES) == {rule["alert"] for rule in ALERTS}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_which_command_explains_it(rule: dict[str, Any]) -> None:
    assert set(rule["annotations"]) == {"summary", "description", "command"}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    kept = {"instance", *", ".join(re.findall(r"by \((.*?)\)", rule["expr"])).split(", ")}
    named = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    assert named <= kept, "what its text names is a label of what it fires for"


def commands() -> set[str]:
    """Return the commands that boards and alerts name, about something in particular."""
    shown = [panel.description for board in BOARDS for row in board.rows for panel in row.panels]
    found = {each for text in shown for each in re.findall(r"`(nebula [^`]*)`", text)}
    found |= {re.sub(r"{{.*?}}", "x", rule["annotations"]["command"]) for rule in ALERTS}
    return {each.replace(" N", " 2") if each.endswith(" N") else each for each in found}


@pytest.mark.parametrize("line", sorted(commands()))
def test_a_command_that_boards_and_alerts_name_is_valid(line: str) -> None:
    program, name, *arguments = line.split()
    command = main.get_command(click.Context(main), name)
    assert (program, bool(command)) == ("nebula", True)
    assert command is not None
    context = command.make_context(name, arguments, parent=click.Context(main))
    if isinstance(command, click.Group) and arguments:
        called, sub, rest = command.resolve_command(context, arguments)
        assert sub is not None
        sub.make_context(called, rest, parent=context)


def test_the_files_of_boards_are_those_that_the_code_makes(tmp_path: Path) -> None:
    folder = OBSERVABILITY / "grafana" / "boards"
    found = {path.name: path.read_text() for path in folder.iterdir()}
    assert found == files(), "python -m nebula.boards compose/observability/grafana/boards"
