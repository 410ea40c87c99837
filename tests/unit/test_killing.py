"""Where a request to kill an engine is granted, which engine it names, and what the node does."""

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from nebula.actors.node.engine_table import EngineEntry, EngineTable
from nebula.actors.node.reconciliation import Action, Kill, Restarts
from nebula.actors.placement.decision import replicas_on
from nebula.events import snapshot
from nebula.events.intents import EngineKillRequested
from nebula.events.validation import rejection_reason
from nebula.events.vocabulary import (
    ClusterFounded,
    EngineFailed,
    EngineReady,
    EngineStarted,
    NodeLost,
    NodeStopped,
)
from nebula.history.leaving import killing
from nebula.history.outcome import Progress
from tests.unit.memory_cluster import joined, says
from tests.unit.story import Story, gpus, load

REHEARSAL = replace(gpus(80), rehearsal=True)


def serving() -> Story:
    """Return a story of a node in a rehearsal whose engine serves."""
    story = Story().given("n1", REHEARSAL).given("c", ClusterFounded("lab", 5))
    story.given("chat", load(1, "8GiB")).settles()
    return story.runs("chat-0")


def table(story: Story) -> EngineTable[EngineEntry]:
    """Return what a node has that runs the engine of the story."""
    found: EngineTable[EngineEntry] = EngineTable(Restarts())
    replica = story.replica()
    found.adopt(EngineEntry(replica, replica.version, 1), ready=True, now=0.0)
    return found


def due(story: Story, engines: EngineTable[EngineEntry]) -> Sequence[Action]:
    """Return what the node does next."""
    return engines.due(story.state, replicas_on(story.state, "n1"), 1.0)


def refusal(story: Story, pid: int | None = None, replica: str = "chat-0") -> str:
    """Return why the request is rejected; "" if it is not."""
    asked = EngineKillRequested(pid)
    found = rejection_reason(story.state, replica, asked) or ""
    before = story.state
    story.given(replica, asked)
    assert bool(found) == bool(story.state.rejections), found
    if found:
        assert (story.state.replicas, story.state.nodes) == (before.replicas, before.nodes)
    return found


def test_the_node_kills_the_engine_once_and_the_request_causes_its_end() -> None:
    story = serving()
    engines = table(story)
    assert due(story, engines) == ()
    assert refusal(story, 7) == ""
    seq = story.state.seq
    assert due(story, engines) == (Kill("chat-0", seq),)
    entry = engines.get("chat-0")
    assert entry is not None
    assert f"event {seq}" in entry.kill(seq)
    assert entry.last_seq == seq
    assert due(story, engines) == ()
    story.fails("chat-0")
    story.given("chat-0", EngineStarted(8, 2.0, 8002, "/log", story.replica().version))
    story.given("chat-0", EngineReady())
    assert due(story, table(story)) == ()


def test_a_node_that_starts_anew_kills_nothing_that_was_asked_before() -> None:
    story = serving()
    assert refusal(story) == ""
    story.given("n1", REHEARSAL)
    assert due(story, table(story)) == ()
    assert refusal(story) == "", "it may be asked again"
    assert due(story, table(story)) == (Kill("chat-0", story.state.seq),)


def test_a_node_that_starts_anew_without_rehearsal_kills_nothing() -> None:
    story = serving()
    story.given("n1", gpus(80))
    assert "was not started with --rehearsal" in refusal(story)
    assert due(story, table(story)) == ()


def test_only_an_engine_that_is_meant_and_there_is_killed() -> None:
    assert "no replica 'other-0'" in refusal(serving(), replica="other-0")
    assert "process 7 by now" in refusal(serving(), 6)
    assert "has no engine" in refusal(serving().fails("chat-0"), 7)
    assert "is away" in refusal(serving().given("n1", NodeLost("silent")))
    assert "is away" in refusal(serving().given("n1", NodeStopped()))
    story = serving()
    assert refusal(story) == ""
    assert "killed already" in refusal(story)


def test_an_older_cluster_refuses_it() -> None:
    story = Story().given("n1", REHEARSAL).given("c", ClusterFounded("lab", 4))
    story.given("chat", load(1, "8GiB")).settles()
    assert "needs cluster version 5" in refusal(story.runs("chat-0"))


def test_a_snapshot_keeps_the_request() -> None:
    story = serving()
    refusal(story)
    found = snapshot.load(snapshot.dump(story.state))
    assert found == story.state


def test_the_command_waits_for_the_end_and_refuses_what_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = joined(monkeypatch, serving())
    log.reacts = lambda story: story.fails("chat-0") and None
    result = says("kill", "chat-0")
    assert result.exit_code == 0, result.output
    assert "the engine of chat-0 is killed" in result.output
    assert log.events == [EngineKillRequested(7)]
    for name, words in (("chat-0", "has no engine now"), ("missing-0", "there are: chat-0")):
        result = says("kill", name)
        assert result.exit_code == 1
        assert words in result.output.replace("\n", " ")


def test_the_command_does_not_wait_for_what_does_not_come() -> None:
    story = serving()
    story.given("chat-0", EngineKillRequested())
    seq = story.state.seq
    assert killing(story.state, "chat-0", seq + 1).progress == Progress.PENDING
    assert [each.node for each in killing(story.state, "chat-0", seq).coming] == ["n1"]
    story.given("n1", REHEARSAL)
    assert "started anew" in killing(story.state, "chat-0", seq).text
    story.given("n1", NodeLost("silent"))
    assert "is away" in killing(story.state, "chat-0", seq).text
    story.given("n1", REHEARSAL).given("chat-0", EngineFailed("killed", -9, retry_in=1.0))
    assert killing(story.state, "chat-0", seq).progress == Progress.FULFILLED
