"""A command imports what it needs and no more: which modules, not how long that takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import click
import pytest
from click.testing import CliRunner

from nebula.cli.main import COMMANDS, main

ACTORS = {"up", "gateway", "router", "node", "fork"}
"""Commands that run processes of a cluster, or serve HTTP."""

SERVING = (
    "litestar",
    "uvicorn",
    "httptools",
    "httpx",
    "huggingface_hub",
    "pynvml",
    "aiohttp",
    "textual",
    "nebula.http.app",
    "nebula.actors.gateway.actor",
    "nebula.actors.node.actor",
    "nebula.actors.router.actor",
)
"""What only those need."""

SIGNING_IN = ("authlib", "joserfc", "cryptography", "httpx")
"""What a gateway needs with a provider of OpenID Connect."""

LISTING = ("asyncio", "msgspec", "nats", "rich", "uvloop", "nebula.actors", "nebula.events")
"""What it takes to ask a cluster, and none to list the commands."""

_LOOK = """
import json, os, sys
from nebula.cli.main import _without_websockets, main

found = {}
if os.environ.get("HASTY"):  # commands do not wait for a NATS server that is not there yet
    with _without_websockets():
        from nebula.cli import cluster
    cluster.CONNECT_PATIENCE = 0.0
for line in json.loads(sys.argv[1]):
    try:
        main(line, prog_name="nebula")
    except SystemExit as end:
        found[" ".join(line)] = [end.code, [each for each in sys.argv[2:] if each in sys.modules]]
print(json.dumps(found), file=sys.stderr)
"""


def imported(
    lines: list[list[str]], modules: tuple[str, ...], hasty: str = ""
) -> dict[str, list[object]]:
    """Run commands in one fresh process; return each one's exit code and which modules are in."""
    arguments = [sys.executable, "-c", _LOOK, json.dumps(lines), *modules]
    environ = {**os.environ, "HASTY": hasty}
    ran = subprocess.run(
        arguments, capture_output=True, text=True, check=True, timeout=60, env=environ
    )
    found: dict[str, list[object]] = json.loads(ran.stderr.splitlines()[-1])
    return found


def test_the_list_of_commands_imports_none_of_them() -> None:
    lines = [["--help"], ["--version"], ["nonsense"]]
    found = imported(lines, (*SERVING, *LISTING))
    assert found == {"--help": [0, []], "--version": [0, []], "nonsense": [2, []]}


def test_a_command_that_asks_a_cluster_imports_nothing_that_serves_one() -> None:
    names = sorted(COMMANDS.keys() - ACTORS)
    found = imported([[name, "--help"] for name in names], SERVING)
    assert found == {f"{name} --help": [0, []] for name in names}


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("gateway", (*SIGNING_IN, "opentelemetry", "rich", "nebula.http.document.entries")),
        ("router", ("litestar", "uvicorn", "httpx", "opentelemetry", "rich")),
        ("node", ("litestar", "uvicorn", "opentelemetry")),
    ],
)
def test_an_actor_imports_what_an_option_needs_with_that_option(
    name: str, modules: tuple[str, ...]
) -> None:
    assert imported([[name, "--help"]], modules) == {f"{name} --help": [0, []]}


def test_a_command_that_runs_imports_nothing_that_serves_a_cluster() -> None:
    lines = [[name, "--nats", "nats://127.0.0.1:1"] for name in ("status", "events", "adapters")]
    found = imported([*lines, ["load", "m", "--nats", "nats://127.0.0.1:1"]], SERVING, "hasty")
    assert {tuple(map(str, each)) for each in found.values()} == {("1", "[]")}


def test_what_websockets_need_is_there_where_a_url_asks_for_one() -> None:
    if find_spec("aiohttp") is None:
        pytest.skip("aiohttp is not installed: nothing that Nebula needs brings it")
    line = ["status", "--nats", "ws://127.0.0.1:1"]
    arguments = [sys.executable, "-m", "nebula.cli.main", *line]
    ran = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert "aiohttp" not in ran.stderr
    assert ran.stderr.startswith("nebula: ")


_COLLECTIONS = """
import gc, json, click
from nebula.cli.main import main
def seen():
    return [sum(each["collections"] for each in gc.get_stats()), gc.get_freeze_count()]
told = [seen()]
for name in ("gateway", "gateway", "nonsense"):
    main.get_command(click.Context(main), name)
    told.append(seen())
print(json.dumps([told, gc.isenabled()]))
"""


def test_no_garbage_is_collected_while_a_command_is_imported_or_of_it() -> None:
    arguments = [sys.executable, "-c", _COLLECTIONS]
    ran = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60)
    [[before, first, again, unknown], enabled] = json.loads(ran.stdout)
    assert first[0] - before[0] <= 1  # one may be due at its end
    assert before[1] < 1000 < 10_000 < first[1]
    assert again[1] == unknown[1] == first[1]
    assert enabled


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_where_the_list_says_under_its_own_name(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name


def test_what_the_list_says_of_a_command_fits_into_a_line() -> None:
    said = CliRunner().invoke(main, ["--help"]).output.splitlines()
    widest = max(map(len, COMMANDS))
    for name, place in COMMANDS.items():
        assert f"  {name:<{widest}}  {place.words}" in said
    assert "Exit codes:" in " ".join(said)
