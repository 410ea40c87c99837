"""`nebula dump`, `diff -f` and `apply`: what they print, append, and end with."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from nebula.events.intents import (
    AliasRequested,
    ModelLoadRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
)
from nebula.events.values import Target
from nebula.events.version import VERSION
from nebula.events.vocabulary import ClusterFounded
from tests.unit.memory_cluster import MemoryLog, joined, says
from tests.unit.story import Story, cluster, load

LOG = str(Path(__file__).parents[1] / "corpus" / "lost-node.jsonl")
CHAT = "models: {chat: {source: /m, memory: 8GiB, replicas: %s}}\n"


def moves(story: Story) -> None:
    """Let routers and nodes do all that there is to do."""
    before = -1
    while before != story.state.seq:
        before = story.state.seq
        story.settles()
        for replica in sorted(story.state.replicas):
            known = story.state.replicas.get(replica)
            if known is not None and known.retired:
                story.stops(replica)
            elif known is not None and not known.serving:
                story.runs(replica)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MemoryLog:
    monkeypatch.chdir(tmp_path)
    story = cluster(n1=[80], n2=[80]).given("c1", ClusterFounded("lab", VERSION))
    story.given("chat", load(1, "8GiB"))
    moves(story)
    found = joined(monkeypatch, story)
    found.reacts = moves
    return found


def written(text: str) -> str:
    Path("cluster.yaml").write_text(text)
    return "cluster.yaml"


# Dump and diff


def test_a_dump_does_not_differ(log: MemoryLog) -> None:
    file = written(says("dump").stdout)
    result = says("diff", "-f", file, "--prune")
    assert (result.exit_code, result.stdout) == (0, "the cluster is as the file says\n")
    assert len(log.read_from) == 2  # by each command once: nothing differs that had a cause


def test_a_dump_of_a_moment_is_of_that_moment(log: MemoryLog) -> None:
    seq = log.story.state.seq
    log.story.given("chat", ModelScaleRequested(2))
    assert "replicas" not in says("dump", "--at", str(seq)).stdout
    assert "replicas: 2" in says("dump").stdout


def test_a_difference_is_told_with_its_event_and_ends_with_one(log: MemoryLog) -> None:
    log.story.given("chat", ModelScaleRequested(2))
    result = says("diff", "-f", written(CHAT % 1))
    assert result.exit_code == 1
    first, second = result.stdout.splitlines()
    assert first == "~ models.chat.replicas: 1 in the file, 2 in the cluster"
    assert second.strip().startswith(f"since event {log.story.state.seq}, ")
    assert "ModelScaleRequested" in second


def test_an_exported_log_is_compared_without_a_cluster(log: MemoryLog) -> None:
    shown = says("dump", "--log", LOG)
    assert shown.exit_code == 0
    file = written(shown.stdout)
    assert says("diff", "-f", file, "--prune", "--log", LOG).exit_code == 0
    result = says("diff", "8", "-f", file, "--log", LOG)
    assert result.exit_code == 1
    assert "in the file, and not in the cluster" in result.stdout


def test_differences_are_json_for_programs(log: MemoryLog) -> None:
    log.story.given("poet", load(1, "8GiB"))
    result = says("diff", "-f", written(CHAT % 2), "--json")
    found = json.loads(result.stdout)
    [drift] = found["drifts"]
    assert (drift["kind"], drift["id"], drift["field"]) == ("models", "chat", "replicas")
    assert found["alone"] == ["models.poet"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("diff",), 2, "give a moment, such as 8h, or a cluster file with -f"),
        (("diff", "1", "--prune"), 2, "--prune is for -f"),
        (("diff", "1", "2", "-f", "cluster.yaml"), 2, "-f takes one moment at most"),
        (("diff", "-f", "nowhere.yaml"), 2, "nowhere.yaml: "),
        (("diff", "-f", "bad.yaml"), 2, "bad.yaml: line 2: model: is not a known field"),
        (("diff", "9999", "-f", "cluster.yaml"), 3, "there is no sequence 9999"),
        (("apply", "-f", "bad.yaml", "--yes"), 2, "bad.yaml: line 1: version: "),
        (("apply", "-f", "cluster.yaml", "--json"), 2, "--json can't ask for confirmation"),
        (("apply", "-f", "cluster.yaml", "--at", "9999", "--yes"), 2, "there is no sequence 9999"),
    ],
)
def test_what_can_not_be_compared_ends_with_a_code_of_its_own(
    log: MemoryLog, arguments: tuple[str, ...], code: int, words: str
) -> None:
    written(CHAT % 1)
    Path("bad.yaml").write_text("version: 7\nmodel: {}\n")
    result = says(*arguments)
    assert result.exit_code == code
    assert words in result.output
    assert log.appended == []


def test_a_dump_has_the_form_of_its_schema(log: MemoryLog) -> None:
    schema = json.loads(says("schema", "--cluster-file").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(says("dump").stdout), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"models": {"chat": {"src": "/m"}}}, schema)


# Apply


def test_a_file_is_applied_once(log: MemoryLog) -> None:
    file = written(CHAT % 2)
    result = says("apply", "-f", file, "--yes")
    assert result.exit_code == 0, result.output
    assert "~ models.chat.replicas: 2 in the file, 1 in the cluster" in result.stdout
    assert "chat-1 is placed on n2" in result.stdout
    assert "applied: its last event is " in result.stdout
    assert log.appended == [("chat", ModelScaleRequested(2))]
    assert log.actors == ["apply"]
    again = says("apply", "-f", file, "--yes")
    assert again.exit_code == 0
    assert "the cluster is as the file says" in again.stdout
    assert len(log.appended) == 1


@pytest.mark.parametrize(
    ("answer", "code", "appended"), [("y\n", 0, 1), ("n\n", 1, 0), ("", 130, 0)]
)
def test_a_person_is_asked_first(log: MemoryLog, answer: str, code: int, appended: int) -> None:
    result = says("apply", "-f", written(CHAT % 2), answer=answer)
    assert result.exit_code == code
    assert len(log.appended) == appended


def test_a_plan_alone_appends_nothing_and_names_its_event(log: MemoryLog) -> None:
    seq = log.story.state.seq
    result = says("apply", "-f", written(CHAT % 2), "--plan")
    assert result.exit_code == 0
    assert f"`nebula apply -f cluster.yaml --at {seq} --yes`" in result.stdout
    assert log.appended == []


def test_what_the_file_does_not_have_is_removed_only_if_told(log: MemoryLog) -> None:
    log.story.given("poet", load(1, "8GiB"))
    file = written(CHAT % 1)
    result = says("apply", "-f", file, "--yes")
    assert "left alone without --prune: models.poet" in result.stdout
    assert log.appended == []
    assert says("apply", "-f", file, "--prune", "--yes").exit_code == 0
    assert log.appended == [("poet", ModelUnloadRequested())]


def test_a_refused_part_stops_all_of_it(log: MemoryLog) -> None:
    text = CHAT % 2 + "aliases: {best: {targets: [{model: a, weight: 0}]}}\n"
    result = says("apply", "-f", written(text), "--yes")
    assert result.exit_code == 1
    assert "refused: aliases.best: targets: one at least must have a weight" in result.stdout
    assert log.appended == []


def test_a_name_is_waited_for_until_its_model_is_gone(log: MemoryLog) -> None:
    text = "models: {new: {source: /m, name: chat, memory: 8GiB}}\n"
    result = says("apply", "-f", written(text), "--prune", "--yes")
    assert result.exit_code == 0, result.output
    assert log.appended == [
        ("chat", ModelUnloadRequested()),
        ("new", ModelLoadRequested("/m", "chat", memory="8GiB")),
    ]


def test_a_model_without_a_place_ends_with_one(log: MemoryLog) -> None:
    text = "models: {big: {source: /m, memory: 90GiB}}\n"
    file = written(text)
    planned = says("apply", "-f", file, "--plan")
    assert planned.exit_code == 1
    assert "big lacks 1: no device has room" in planned.stdout
    assert says("apply", "-f", file, "--yes").exit_code == 1
    assert says("apply", "-f", file, "--yes").exit_code == 0  # it is as the file says, and waits


# Another change came first


def test_a_plan_of_another_day_is_refused_once_something_else_was_asked_for(
    log: MemoryLog,
) -> None:
    seq, file = log.story.state.seq, written(CHAT % 2)
    log.story.given("poet", load(1, "8GiB"))
    moves(log.story)
    result = says("apply", "-f", file, "--at", str(seq), "--yes")
    assert result.exit_code == 3
    assert "model poet: " in result.output
    assert f"the cluster has changed since the plan on event {seq}" in result.output
    assert log.appended == []


def test_a_plan_of_another_day_holds_while_nothing_was_asked_for(log: MemoryLog) -> None:
    seq, file = log.story.state.seq, written(CHAT % 2)
    log.story.stops("chat-0").runs("chat-0")
    assert log.story.state.seq > seq
    assert says("apply", "-f", file, "--at", str(seq), "--yes").exit_code == 0
    assert log.appended == [("chat", ModelScaleRequested(2))]


def test_what_comes_between_plan_and_append_is_noticed(log: MemoryLog) -> None:
    log.meanwhile = [("best", AliasRequested((Target("chat"),)))]
    result = says("apply", "-f", written(CHAT % 2), "--yes")
    assert result.exit_code == 3
    assert "alias best: " in result.output
    assert log.appended == []


def test_an_applied_change_is_json_for_programs(log: MemoryLog) -> None:
    result = says("apply", "-f", written(CHAT % 2), "--yes", "--json")
    found = json.loads(result.stdout)
    assert found["intents"] == [
        {"id": "chat", "type": "ModelScaleRequested", "event": {"replicas": 2}}
    ]
    assert found["appended"] == [found["at"] + 1]
