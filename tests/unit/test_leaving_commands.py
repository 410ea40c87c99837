"""`nebula drain`, `remove-node`, `unload` and `weights`: what they ask for and how they end."""

from __future__ import annotations

import json

import pytest

from nebula.cli import remove_node, weights
from nebula.events.intents import (
    ModelUnloadRequested,
    NodeDrainRequested,
    NodeUndrainRequested,
    WeightsPinRequested,
    WeightsRemoveRequested,
)
from nebula.events.vocabulary import (
    DownloadFinished,
    DownloadProgressed,
    ModelUnloaded,
    NodeDeregistered,
    NodeLost,
    WeightsRemoved,
)
from tests.unit.memory_cluster import MemoryLog, joined, says
from tests.unit.story import Story, cluster, load

HUB = "org/model"


def serving(**nodes: list[float]) -> Story:
    """One replica on alpha, and where it may go if there is more than that node."""
    story = cluster(**(nodes or {"alpha": [80]})).given("chat", load(1, "8GiB"))
    story.settles()
    assert story.replica().node == "alpha"
    return story.runs("chat-0")


def moves(story: Story) -> None:
    """Let routers and nodes do all that there is to do."""
    while story.settles():
        for replica in sorted(story.state.replicas):
            known = story.state.replicas.get(replica)
            if known is not None and known.retired:
                story.stops(replica)
            elif known is not None and not known.serving:
                story.runs(replica)


# Drain


@pytest.mark.parametrize("options", [(), ("--no-wait",), ("--json",)])
def test_a_node_is_drained_once_however_often_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    log = joined(monkeypatch, serving(alpha=[80], beta=[80]))
    log.reacts = moves
    for asked in (1, 1):
        result = says("drain", "alpha", *options)
        assert result.exit_code == 0, result.output
        assert log.events == [NodeDrainRequested()] * asked
    assert log.story.replica("chat-1").node == "beta"
    if options == ("--json",):
        assert json.loads(result.stdout) == {"node": "alpha", "seq": None, "replicas": []}
    elif options:
        assert "alpha is draining already: there was nothing to do" in result.output
    else:
        assert "alpha is empty: nothing runs there any more" in result.output


def test_draining_is_taken_back_once_and_nothing_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = joined(monkeypatch, serving().given("alpha", NodeDrainRequested()))
    result = says("drain", "alpha", "--undo")
    assert f"alpha takes replicas again: asked for, event {log.story.state.seq}" in result.output
    result = says("drain", "alpha", "--undo")
    assert "alpha is not draining: there was nothing to do" in result.output
    assert (result.exit_code, log.events) == (0, [NodeUndrainRequested()])


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_what_can_go_nowhere_is_told_and_ends_with_an_error(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    log = joined(monkeypatch, serving())
    log.reacts = moves
    result = says("drain", "alpha", *options)
    assert result.exit_code == 1
    assert log.events == [NodeDrainRequested()]
    assert "stays draining: what is left there (chat-0)" in result.stderr.replace("\n", " ")
    if options:
        assert json.loads(result.stdout)["replicas"] == ["chat-0"]


def test_a_node_that_is_not_there_is_not_drained(monkeypatch: pytest.MonkeyPatch) -> None:
    log = joined(monkeypatch, serving())
    result = says("drain", "gamma")
    assert (result.exit_code, log.appended) == (1, [])
    assert "there is no node 'gamma'; there are: alpha" in result.output


# Remove


@pytest.mark.parametrize(
    ("lost", "runs", "words"),
    [
        (False, True, "node 'alpha' runs: end its process first"),
        (False, False, "node 'alpha' has chat-0"),
        (True, True, "node 'alpha' runs: end its process first"),
        (True, False, ""),
    ],
)
def test_only_a_node_that_runs_no_more_and_has_nothing_is_removed(
    monkeypatch: pytest.MonkeyPatch, lost: bool, runs: bool, words: str
) -> None:
    story = serving()
    if lost:
        story.given("alpha", NodeLost("silent"))
    log = joined(monkeypatch, story)
    log.nats.running = {"alpha"} if runs else set()
    result = says("remove-node", "alpha")
    assert (result.exit_code, log.events) == ((1, []) if words else (0, [NodeDeregistered()]))
    assert words in result.output
    if not words:
        assert f"alpha is removed: event {log.story.state.seq}" in result.output


def test_a_node_is_emptied_then_awaited_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    log = joined(monkeypatch, serving(alpha=[80], beta=[80]))
    log.nats.running = {"alpha"}
    asked = 0

    async def ends(connection: object, node: str) -> bool:
        nonlocal asked
        asked += 1
        return asked < 2

    monkeypatch.setattr(remove_node, "answers", ends)
    log.reacts = moves
    result = says("remove-node", "alpha", "--drain")
    assert result.exit_code == 0, result.output
    assert log.events == [NodeDrainRequested(), NodeDeregistered()]
    assert "alpha is empty: end its process now" in result.output


def test_a_node_that_can_not_be_emptied_is_not_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    log = joined(monkeypatch, serving())
    log.reacts = moves
    result = says("remove-node", "alpha", "--drain")
    assert (result.exit_code, log.events) == (1, [NodeDrainRequested()])


def test_a_lost_node_needs_no_emptying(monkeypatch: pytest.MonkeyPatch) -> None:
    log = joined(monkeypatch, serving().given("alpha", NodeLost("silent")))
    result = says("remove-node", "alpha", "--drain")
    assert (result.exit_code, log.events) == (0, [NodeDeregistered()]), result.output


def test_a_process_that_is_never_ended_keeps_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    log = joined(monkeypatch, cluster(alpha=[80]))
    log.nats.running = {"alpha"}
    monkeypatch.setattr(remove_node, "PATIENCE", 0.0)
    result = says("remove-node", "alpha", "--drain")
    assert (result.exit_code, log.appended) == (1, [])
    assert "alpha still runs after 0 s" in result.output


# Unload


def unloads(story: Story) -> None:
    story.stops("chat-0").given("chat", ModelUnloaded())


def test_a_model_that_is_unloaded_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    log = joined(monkeypatch, serving())
    log.reacts = unloads
    result = says("unload", "chat")
    assert (result.exit_code, log.events) == (0, [ModelUnloadRequested()])
    assert "chat: unloaded" in result.output


def test_a_model_whose_node_is_gone_stays_and_that_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = joined(monkeypatch, serving().given("alpha", NodeLost("silent")))
    result = says("unload", "chat")
    assert (result.exit_code, log.events) == (1, [ModelUnloadRequested()])
    assert "chat stays unloading. Start `nebula node --name alpha`" in result.output
    result = says("unload", "chat", "--no-wait")
    assert result.exit_code == 0
    assert f"chat: asked for, event {log.story.state.seq}" in result.output


# Weights


def stored(*fetched: str) -> Story:
    """Files of these sources on alpha, all of which Nebula has fetched."""
    story = serving(alpha=[80], beta=[80])
    for source in fetched:
        story.given("alpha", DownloadProgressed(source, 1, 2), DownloadFinished(source, 2, "", 1.0))
    return story


def removes(log: MemoryLog) -> None:
    def react(story: Story) -> None:
        for source, held in list(story.state.nodes["alpha"].weights.items()):
            if held.removing:
                story.given("alpha", WeightsRemoved(source, "asked for"))

    log.reacts = react


def test_only_what_can_go_is_pruned_one_source_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    story = stored("a/one", "a/two", "a/pinned").given("alpha", WeightsPinRequested("a/pinned"))
    log = joined(monkeypatch, story.given("beta", DownloadFinished("a/other", 2, "", 1.0)))
    removes(log)
    result = says("weights", "prune", "alpha")
    assert result.exit_code == 0
    assert log.events == [WeightsRemoveRequested("a/one"), WeightsRemoveRequested("a/two")]
    assert "a/two: removed from alpha" in result.output
    result = says("weights", "prune", "alpha")
    assert "nothing on alpha can go" in result.output
    assert len(log.events) == 2


def test_files_that_a_node_does_not_remove_in_time_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = joined(monkeypatch, stored(HUB))
    monkeypatch.setattr(weights, "PATIENCE", 0.0)
    result = says("weights", "remove", "alpha", HUB)
    assert (result.exit_code, log.events) == (1, [WeightsRemoveRequested(HUB)])
    assert f"{HUB}: asked for, but alpha has not removed it within 0 s" in result.output


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ((), f"{HUB}: alpha has no files of it; when a model brings them, they are kept"),
        ((DownloadProgressed(HUB, 1, 2),), f"{HUB}: kept on alpha, 50 % there so far"),
        ((DownloadFinished(HUB, 2, "", 1.0),), f"{HUB}: kept on alpha"),
    ],
)
def test_a_pin_says_how_much_there_is_to_be_kept(
    monkeypatch: pytest.MonkeyPatch, told: tuple[DownloadProgressed | DownloadFinished], words: str
) -> None:
    log = joined(monkeypatch, serving().given("alpha", *told))
    assert says("weights", "pin", "alpha", HUB).output.strip() == words
    result = says("weights", "unpin", "alpha", HUB)
    assert result.output.strip() == f"{HUB}: no longer kept on alpha"
    assert log.events == [WeightsPinRequested(HUB), WeightsPinRequested(HUB, False)]
    refused = says("weights", "pin", "gamma", HUB)
    assert (refused.exit_code, len(log.events)) == (1, 2)
