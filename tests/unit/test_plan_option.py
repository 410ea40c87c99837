"""`--plan` of every command that changes the cluster: what would follow."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from nebula.cli.main import COMMANDS, main
from nebula.events.key_events import KeyIssued
from nebula.events.version import VERSION
from nebula.events.vocabulary import ClusterFounded
from tests.unit.memory_cluster import joined, says
from tests.unit.story import Story, gpus, load

KEY = KeyIssued("0" * 64, ("infer",))


def served() -> Story:
    story = Story().given("n1", replace(gpus(80), rehearsal=True)).given("n2", gpus(80))
    story.given("c1", ClusterFounded("lab", VERSION))
    story.given("chat", load(2, "8GiB", lora=True)).settles()
    story.given("ci", KEY)
    return story.runs("chat-0").runs("chat-1")


CHANGES = [
    ("load", "/m", "--id", "poet", "--memory", "8GiB"),
    ("unload", "chat"),
    ("scale", "chat", "3"),
    ("adapters", "load", "chat", "sql", "/a"),
    ("alias", "best", "chat"),
    ("kill", "chat-0"),
    ("drain", "n1"),
    ("rebalance",),
    ("limits", "set", "tenant", "lab", "--limit", "in-flight=4"),
    ("key", "issue", "new"),
    ("key", "change", "ci", "--scope", "view"),
    ("key", "rotate", "ci"),
    ("key", "revoke", "ci"),
    ("weights", "pin", "n1", "org/chat"),
    ("weights", "prune", "n1"),
    ("remove-node", "n1", "--drain"),
    ("revert", "--to", "2"),
]


@pytest.mark.parametrize("arguments", CHANGES, ids=lambda each: " ".join(each[:2]))
def test_a_plan_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    log = joined(monkeypatch, served())
    seq = log.story.state.seq
    result = says(*arguments, "--plan")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"The plan, on event {seq} of the log:\n")
    assert log.appended == []


def test_every_command_that_changes_the_cluster_has_a_plan() -> None:
    """A command that appends an intent and has no plan would be a surprise."""
    context = main.make_context("nebula", ["--help"], resilient_parsing=True)
    with_plan = set()
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert command is not None
        below = getattr(command, "commands", {})
        for path, each in [(name, command), *((f"{name} {k}", v) for k, v in below.items())]:
            if any("--plan" in parameter.opts for parameter in each.params):
                with_plan.add(path)
    asked = {each for line in CHANGES for each in (line[0], " ".join(line[:2]))}
    assert with_plan - asked == {
        *("adapters unload", "weights unpin", "weights remove"),
        "apply",  # it has tests of its own
    }


def test_a_plan_is_json_for_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    joined(monkeypatch, served())
    found = json.loads(says("scale", "chat", "3", "--plan", "--json").stdout)
    assert found["at"] == 10
    assert [(each["kind"], each["replica"]) for each in found["effects"]] == [("place", "chat-2")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("scale", "gone", "3"), "there is no model 'gone'"),
        (("scale", "chat", "30"), "chat lacks 12: no device has room"),
        (("load", "/m", "--id", "poet", "--name", "chat"), "name: 'chat' is already the name"),
        (("remove-node", "n1"), "node 'n1' has chat-0"),
    ],
)
def test_a_plan_that_is_not_possible_ends_with_one(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    log = joined(monkeypatch, served())
    result = says(*arguments, "--plan")
    assert result.exit_code == 1
    assert words in result.output
    assert log.appended == []


def test_a_node_that_is_draining_has_a_plan_too(monkeypatch: pytest.MonkeyPatch) -> None:
    log = joined(monkeypatch, served())
    assert says("drain", "n1", "--no-wait").exit_code == 0
    asked = list(log.appended)
    result = says("drain", "n1", "--plan")
    assert "nothing is asked for otherwise than now" in result.stdout
    assert log.appended == asked
