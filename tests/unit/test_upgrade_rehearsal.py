"""`nebula replay` rehearses an upgrade: from a moment on, every difference, an exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nebula.actors.placement import sizing
from nebula.cli import replay as command
from nebula.cli.main import main

CORPUS = Path(__file__).parents[1] / "corpus"
LOG = str(CORPUS / "lost-node.jsonl")


def replayed(*arguments: str) -> tuple[int, Any]:
    result = CliRunner().invoke(main, ["replay", "--log", LOG, "--json", *arguments])
    return result.exit_code, json.loads(result.stdout)


def text(*arguments: str) -> str:
    return CliRunner().invoke(main, ["replay", "--log", LOG, *arguments]).stdout


def test_the_same_version_decides_the_same() -> None:
    code, told = replayed("--all")
    assert code == 0
    assert (told["differences"], told["broken"], told["ends"]) == ([], [], True)


def test_a_new_version_that_decides_otherwise_is_told_with_every_decision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sizing, "USABLE", 0.4)
    code, first = replayed()
    assert code == 1
    assert len(first["differences"]) == 1
    code, told = replayed("--all")
    assert code == 1
    assert len(told["differences"]) > 1
    assert told["differences"][0] == first["difference"] == told["difference"]
    assert told["to"] == 23
    shown = text("--all")
    assert shown.count("difference at event") == len(told["differences"])


def test_only_decisions_from_a_moment_on_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "USABLE", 0.4)
    seqs = [each["seq"] for each in replayed("--all")[1]["differences"]]
    since = str(seqs[0] + 1)
    code, told = replayed("--all", "--since", since)
    assert told["from"] == seqs[0]
    assert {each["seq"] for each in told["differences"]} <= set(seqs[1:])
    assert code == (1 if told["differences"] else 0)


@pytest.mark.parametrize("since", ["1", "2001-01-01"])
def test_a_moment_before_the_first_event_is_the_beginning(since: str) -> None:
    code, told = replayed("--since", since)
    assert (code, told["from"], told["to"]) == (0, 0, 23)


def test_what_this_version_would_do_next_is_told_and_is_not_a_failure() -> None:
    code, told = replayed("--until", "7")
    assert (code, told["due_count"]) == (0, 1)
    assert (told["due"][0]["id"], told["due"][0]["type"]) == ("poet", "ModelAssigned")
    shown = text("--until", "7")
    assert "from the last state this version would decide 1 thing:" in shown
    assert replayed("--until", "8")[1]["due"] == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("broken", "the last state is not sound: a name"),
        ("following", "after 0 decisions there are still more"),
    ],
)
def test_what_does_not_hold_fails(fault: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt: dict[str, Any] = {"broken": lambda _: ["a name"], "following": lambda _: ([], False)}
    monkeypatch.setattr(command, fault, spoilt[fault])
    result = CliRunner().invoke(main, ["replay", "--log", LOG])
    assert result.exit_code == 1
    assert words in result.stdout


@pytest.mark.parametrize(
    "wrong",
    [
        ("--since", "5", "--what-if", "policy=binpack"),
        ("--all", "--what-if", "policy=binpack"),
    ],
)
def test_what_can_t_be_combined_is_refused(wrong: tuple[str, ...]) -> None:
    assert CliRunner().invoke(main, ["replay", "--log", LOG, *wrong]).exit_code == 2
    assert CliRunner().invoke(main, ["replay", "--since", "5", "--snapshot"]).exit_code == 2
