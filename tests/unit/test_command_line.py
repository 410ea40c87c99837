"""What commands say of their own arguments and of files: no cluster is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from nebula.cli import operate
from nebula.cli.main import main

LOG = str(Path(__file__).parents[1] / "corpus" / "lost-node.jsonl")
NOBODY = "nats://127.0.0.1:1"


def said(*arguments: str) -> tuple[int, str]:
    """Give a command's exit code and its last line."""
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output.splitlines()[-1] if result.output else ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("scale", "chat", "many"), "'many' is no whole number"),
        (("scale", "chat", "1025"), "1025 is not in the range"),
        (("why", "seq", "abc"), "'abc' is no whole number"),
        (("models", "--nats", ""), "it is empty: write it like nats://"),
        (("up", "--nats", " "), "it is empty: write it like nats://"),
        (("load", ""), "a source is empty: give a folder on the nodes or a hub id"),
        (("load", "m", "--adapter", "poet="), "a source is empty"),
        (("load", "m", "--id", "x" * 129), "128 at most"),
        (("load", "~nobody-has-this-name/m"), "~nobody-has-this-name/m: "),
        (("adapters", "load", "m", "poet", ""), "a source is empty"),
        (("adapters", "load", "m", "", "poet"), "$.name"),
    ],
)
def test_bad_arguments_are_named_before_a_cluster_is_asked(
    arguments: tuple[str, ...], words: str
) -> None:
    code, told = said(*arguments)
    assert code == 2
    assert words in told


@pytest.mark.parametrize("command", [("models",), ("events",), ("import", LOG)])
def test_where_no_cluster_answers_it_is_said_how_to_start_one(command: tuple[str, ...]) -> None:
    code, told = said(*command, "--nats", NOBODY)
    assert code == 1
    assert told.startswith(f"nebula: no NATS server answers at {NOBODY}")
    assert "`make run` or `nebula up` starts a cluster, --nats URL names another" in told


# What a log knows nothing of


@pytest.mark.parametrize("arguments", [("nope",), ("model/nope",), ("chat", "nope")])
def test_events_of_what_the_log_does_not_know_are_an_error(arguments: tuple[str, ...]) -> None:
    code, told = said("events", *arguments, "--log", LOG)
    assert code == 1
    assert told == (
        f"nebula: no event of {LOG} is about '{arguments[-1]}'; "
        "there are: chat, n1, n2, n3, poet, search"
    )


@pytest.mark.parametrize(
    "arguments",
    [("chat",), ("chat-0",), ("replica/chat-0",), ("log",), ("chat", "--rejected"), ("n2",)],
)
def test_events_of_what_it_knows_may_be_none(arguments: tuple[str, ...]) -> None:
    assert said("events", *arguments, "--log", LOG)[0] == 0


def test_without_a_node_that_never_was_nothing_is_decided_again() -> None:
    code, told = said("replay", "--log", LOG, "--what-if", "without n99")
    assert code == 1
    assert told == "nebula: without n99: the log has no such node; there were: n1, n2, n3"
    assert said("replay", "--log", LOG, "--what-if", "without n3")[0] == 0


# Sources


@pytest.mark.parametrize(
    ("source", "sent"),
    [
        ("./nowhere", "{here}/nowhere"),
        ("../nowhere", "{above}/nowhere"),
        (".", "{here}"),
        ("there", "{here}/there"),
        ("~/nowhere", "{home}/nowhere"),
        ("/no/where", "/no/where"),
        ("org/model", "org/model"),
    ],
)
def test_what_is_written_as_a_path_is_sent_as_a_whole_one(
    source: str, sent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    (here / "there").mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert operate.absolute(source) == sent.format(
        here=here, above=tmp_path, home=tmp_path / "home"
    )
