"""`nebula why NAME` for every name that views show: nodes, replicas, actors, adapters, requests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from nebula.cli.main import main
from nebula.events.evolve import evolve
from nebula.events.intents import AdapterLoadRequested, NodeDrainRequested
from nebula.events.key_events import KeyIssued
from nebula.events.record import Record
from nebula.events.state import EMPTY
from nebula.events.vocabulary import (
    AdapterLoadFailed,
    ClusterFounded,
    DownloadFailed,
    DownloadProgressed,
    EngineFailed,
    EngineStarted,
    NodeDeregistered,
    NodeLost,
)
from nebula.history.node_story import node_verdict
from nebula.http import request_story
from nebula.store.archive import write
from tests.unit import corpus
from tests.unit.memory_cluster import joined, says
from tests.unit.story import Story, cluster, gpus, load

RECORDED = "tests/corpus/trouble-on-vllm.jsonl"


def told(story: Story, folder: Path, *words: str) -> list[str]:
    """Return the lines of `nebula why`."""
    path = folder / "log.jsonl"
    path.write_bytes(b"".join(write(story.entries, len(story.entries))))
    result = CliRunner().invoke(main, ["why", *words, "--log", str(path)])
    assert result.exit_code == 0, result.output
    return [line.rstrip() for line in result.output.splitlines()]


def troubled() -> Story:
    """`n1` serves `chat`, failed an engine of `next`, and refused an adapter and a folder."""
    story = cluster(n1=[80], n2=[80]).given("chat", load(1, "8GiB", lora=True, node="n1"))
    story.given("next", load(1, "8GiB", node="n1")).settles()
    story.runs("chat-0").given("chat", AdapterLoadRequested("poet", "/poet"))
    story.given("chat-0", AdapterLoadFailed("poet", "/poet", "its rank is too large"))
    story.given("next-0", EngineStarted(7, 1.0, 8001, "/log", 1))
    story.given("next-0", EngineFailed("ValueError: no", 1, attempt=3))
    story.given("n1", DownloadProgressed("org/m", 1, 2))
    return story.given("n1", DownloadFailed("/empty", "it has no config.json"))


@pytest.mark.parametrize("words", [("n1",), ("node", "n1")])
def test_a_node_tells_what_it_runs_what_it_refused_and_what_happened(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    lines = told(troubled(), tmp_path, *words)
    assert lines[:6] == [
        "n1 is ready: 1 of its 2 replicas serve",
        "  chat-0 on n1 is ready",
        "  next-0 on n1 gave up after 3 attempts: ValueError: no",
        "  refused /empty: it has no config.json",
        "  refused adapter poet on chat-0: its rank is too large",
        "",
    ]
    events = "\n".join(lines[6:-2])
    for part in (
        "node n1: registered with gpu0",
        "replica chat-0: engine ready",
        "replica chat-0: adapter 'poet' refused",
        "replica next-0: engine failed (attempt 3",
        "node n1: can't serve it: it has no config.json",
    ):
        assert part in events
    assert "org/m" not in events, "each step of a download would hide the rest"
    assert "n2" not in events
    assert lines[-1].startswith("What to do: Fix what its engine complains of")
    assert lines[-1].endswith("(That is about next.)")


def test_a_node_is_told_from_its_last_start_on_unless_all_is_asked_for(tmp_path: Path) -> None:
    story = troubled().given("n1", NodeLost("no heartbeat for 30 s")).given("n1", gpus(80))
    assert any("earlier events: --all)" in line for line in told(story, tmp_path, "n1"))
    assert any("lost: no heartbeat" in line for line in told(story, tmp_path, "n1", "--all"))


def test_what_to_do_about_a_node_depends_on_how_it_stands() -> None:
    story = cluster(n1=[80]).given("chat", load(1, "8GiB"))
    story.settles()
    story.runs("chat-0")
    assert node_verdict(story.state, "n1").todo == ""
    lost = story.given("n1", NodeLost("silent")).state
    assert node_verdict(lost, "n1").headline == (
        "n1 is lost: 1 replicas were there, and what they do is unknown"
    )
    assert "`nebula remove-node n1`" in node_verdict(lost, "n1").todo
    empty = cluster(n1=[80]).given("n1", NodeDrainRequested()).state
    assert "`nebula drain n1 --undo`" in node_verdict(empty, "n1").todo
    gone = cluster(n1=[80]).given("n1", NodeLost("silent"), NodeDeregistered()).state
    assert "adds it again" in node_verdict(gone, "n1").todo


def test_a_node_that_was_removed_is_still_explained(tmp_path: Path) -> None:
    story = cluster(n1=[80]).given("n1", NodeLost("silent"), NodeDeregistered())
    lines = told(story, tmp_path, "n1")
    assert lines[0] == "n1 is not a node any more"
    assert any("removed from the cluster" in line for line in lines)


def written(name: str) -> int:
    records: list[Record] = list(corpus.records("trouble-on-vllm"))
    return sum(record.actor == name for record in records)


@pytest.mark.parametrize("name", ["router", "gateway", "cli"])
def test_an_actor_tells_what_it_has_written(name: str) -> None:
    result = CliRunner().invoke(main, ["why", name, "--all", "--log", RECORDED])
    assert result.exit_code == 0
    assert f"{name} has written {written(name)} events of the log" in result.output
    assert result.output.count(f"({name})") == written(name)


def test_a_single_router_is_told_to_be_one_of_those_that_the_log_does_not_tell_apart() -> None:
    result = CliRunner().invoke(main, ["why", "router-0a1b2c3d", "--log", RECORDED])
    assert result.exit_code == 0
    assert "one router from another, such as router-0a1b2c3d" in result.output
    result = CliRunner().invoke(main, ["why", "gw-0a1b2c3d", "--json", "--log", RECORDED])
    assert json.loads(result.output)["headline"].startswith("the log does not tell one gateway")


@pytest.mark.parametrize("name", ["adapters-and-refusals", "lost-node"])
def test_every_name_in_the_views_of_a_recorded_log_can_be_explained(name: str) -> None:
    state = EMPTY
    for record in corpus.records(name):
        state = evolve(state, record)
    for each in (*state.nodes, *state.replicas, *state.models, *state.names, *state.aliases):
        result = CliRunner().invoke(main, ["why", each, "--log", f"tests/corpus/{name}.jsonl"])
        assert result.exit_code == 0, (each, result.output)


@pytest.mark.parametrize("name", ["dana", "key/dana"])
def test_a_key_is_not_explained_but_its_events_are_named(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    story = cluster(n1=[80]).given("c1", ClusterFounded("lab", 5))
    story.given("dana", KeyIssued("0" * 64, ("infer",)))
    joined(monkeypatch, story)
    result = says("why", name)
    assert result.exit_code == 1
    assert "`nebula events key/dana` shows what was done to it" in result.output


def test_a_request_is_looked_for_by_its_id_and_by_its_callers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, str]] = []

    async def look_up(connection: object, request: str) -> list[object]:
        asked.append(("own", request))
        return []

    async def called(connection: object, caller_id: str) -> list[str]:
        asked.append(("caller's", caller_id))
        return []

    monkeypatch.setattr(request_story, "look_up", look_up)
    monkeypatch.setattr(request_story, "called", called)
    joined(monkeypatch, cluster(n1=[80]))
    result = says("why", "0a1b2c3d")
    assert (result.exit_code, asked) == (1, [("own", "0a1b2c3d"), ("caller's", "0a1b2c3d")])
    assert "is called '0a1b2c3d'; there are: n1" in result.output
