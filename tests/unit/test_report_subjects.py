"""What a node reports is its own word: the subject names the node, which NATS lets no other use."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from nebula.events import record, snapshot
from nebula.events.folding import fold
from nebula.events.record import Malformed
from nebula.events.state import EMPTY, State
from nebula.events.version import LOCKS, VERSION, came_late, reporter, unnamed
from nebula.events.vocabulary import (
    AGGREGATE_OF,
    REPORTS,
    TYPES,
    ClusterFounded,
    ClusterVersionRaised,
    EngineFailed,
    EngineReady,
    EngineStarted,
    EngineStopped,
    Event,
    ModelMeasured,
)
from nebula.history.description import describe
from nebula.schema.examples import EXAMPLES
from tests.unit import corpus
from tests.unit.story import Story, gpus, load

STARTED = EngineStarted(7, 1.0, 8001, "/log", plan=1)
BY_NODES = sorted(REPORTS)


def planned(version: int = VERSION) -> Story:
    """A model is planned on `alpha`; `beta` is a node without replicas."""
    story = Story().given("lab", ClusterFounded("lab", version))
    for node, gib in (("alpha", 80), ("beta", 8)):
        story.given(node, replace(gpus(gib), reads=VERSION))
    story.given("chat", load(1, "16GiB", lora=True)).settles()
    assert story.state.replicas["chat-0"].node == "alpha"
    return story


def told(story: Story, node: str, identity: str, event: Event) -> State:
    """Fold an event that a node publishes, or that has no node in its subject; return the state."""
    story.publish(record.subject_of(identity, event, node), record.encode(event))
    return story.state


def same(before: State, after: State) -> bool:
    """Return whether two states differ in nothing but how far the log was read."""
    seqs = {"seq": before.seq, "time": before.time, "models_seq": before.models_seq}
    return snapshot.digest(replace(after, **seqs)) == snapshot.digest(before)


@pytest.mark.parametrize("name", BY_NODES)
def test_the_node_of_a_report_is_read_from_its_subject(name: str) -> None:
    identity, event = EXAMPLES[name]
    subject = record.subject_of(identity, event, "n1")
    assert subject == f"nebula.events.{AGGREGATE_OF[name]}.{identity}.{name}.n1"
    headers = record.headers_for(event)
    read = record.read(5, 6, subject, record.encode(event), headers)
    assert (read.aggregate, read.id, read.type, read.node) == (
        *(AGGREGATE_OF[name], identity),
        *(name, "n1"),
    )
    assert getattr(read.content, "node", "n1") == "n1"


@pytest.mark.parametrize("name", [each for each in BY_NODES if AGGREGATE_OF[each] == "replica"])
def test_a_body_that_names_another_node_than_its_subject_is_malformed(name: str) -> None:
    identity, event = EXAMPLES[name]
    body = record.encode(replace(event, node="n2"))
    subject = record.subject_of(identity, event, "n1")
    read = record.read(5, 6, subject, body, record.headers_for(event))
    assert read.content == Malformed(f"{name}: its body is of node 'n2', its subject of 'n1'")
    assert read.node == "n1"


@pytest.mark.parametrize("name", sorted(TYPES.keys() - REPORTS))
def test_an_event_that_is_not_a_report_has_no_node_in_its_subject(name: str) -> None:
    identity, event = EXAMPLES[name]
    read = record.read(5, 6, f"{record.subject_of(identity, event)}.n1", record.encode(event))
    assert isinstance(read.content, Malformed)
    assert "the subject is not" in read.content.reason
    assert reporter(planned().state, event, "n1") == ""


@pytest.mark.parametrize("node", ["", "*", "a b", "é", "x" * 129])
def test_a_node_in_a_subject_has_the_form_of_a_name(node: str) -> None:
    read = record.read(5, 6, f"nebula.events.replica.chat-0.EngineReady.{node}", b"{}")
    assert isinstance(read.content, Malformed)
    assert "is not a node's name" in read.content.reason
    if node:
        with pytest.raises(ValueError, match="not a valid id"):
            record.subject_of("chat-0", EngineReady(), node)


@pytest.mark.parametrize("name", BY_NODES)
@pytest.mark.parametrize("node", ["beta", "stranger"])
def test_a_report_of_a_node_that_does_not_hold_the_replica_changes_nothing(
    name: str, node: str
) -> None:
    story = planned()
    told(story, "alpha", "chat-0", STARTED)
    told(story, "alpha", "chat-0", EngineReady())
    before = story.state
    if name == "ModelMeasured":
        if node == "beta":
            return  # any node of the cluster may measure
        after = told(story, node, "chat", ModelMeasured("/m", 1, 1, 1))
    else:
        after = told(story, node, "chat-0", EXAMPLES[name][1])
    assert same(before, after), describe(story.log[-1])
    assert not after.rejections


def test_the_end_of_an_engine_on_the_earlier_node_says_nothing_about_its_successor() -> None:
    """A replica id is planned anew elsewhere while the earlier node still ends its engine."""
    story = planned()
    told(story, "alpha", "chat-0", STARTED)
    held = story.state.replicas["chat-0"]
    moved = replace(
        story.state,
        replicas=story.state.replicas.insert("chat-0", replace(held, node="beta", engine=None)),
    )
    story.state = moved
    assert same(moved, told(story, "alpha", "chat-0", EngineStopped("it moved")))
    assert not story.state.rejections


@pytest.mark.parametrize("name", BY_NODES)
def test_a_report_without_a_node_is_rejected_once_all_write_it(name: str) -> None:
    story = planned()
    told(story, "alpha", "chat-0", STARTED)
    before = story.state
    _, event = EXAMPLES[name]
    identity = "chat" if name == "ModelMeasured" else "chat-0"
    body = record.encode(replace(event, node="alpha") if hasattr(event, "node") else event)
    story.publish(record.subject_of(identity, event), body, record.headers_for(event))
    [rejected] = story.state.rejections.values()
    assert f"from cluster version {LOCKS} on" in rejected.reason
    assert f"{record.subject_of(identity, event)}.<node>" in rejected.reason
    assert same(before, replace(story.state, rejections=before.rejections))


@pytest.mark.parametrize("named", [False, True])
def test_an_older_cluster_folds_reports_with_and_without_their_node(named: bool) -> None:
    story, node = planned(LOCKS - 1), "alpha" if named else ""
    assert reporter(story.state, STARTED, "alpha") == ""
    told(story, node, "chat-0", STARTED)
    told(story, node, "chat-0", EngineReady("0.32"))
    assert story.state.replicas["chat-0"].phase == "ready"
    told(story, node, "chat", ModelMeasured("/m", 1, 1, 1))
    assert story.state.models["chat"].measured is not None
    state = told(story, node, "chat-0", EngineFailed("killed", -9, retry_in=1.0))
    assert state.replicas["chat-0"].phase == "failed"
    assert not state.rejections


def test_what_was_reported_before_the_version_was_raised_stays() -> None:
    story = planned(LOCKS - 1)
    told(story, "", "chat-0", STARTED)
    told(story, "", "chat-0", EngineReady("0.32"))
    story.given("lab", ClusterVersionRaised(LOCKS))
    assert story.state.cluster.version == LOCKS
    assert story.state.replicas["chat-0"].phase == "ready"
    assert reporter(story.state, STARTED, "alpha") == "alpha"


def test_a_report_that_meets_the_raise_is_written_again() -> None:
    """Its node had not folded the raise yet, so the subject lacks the node and does not count."""
    story = planned(LOCKS - 1)
    told(story, "", "chat-0", STARTED)
    before = story.state.seq
    assert not came_late(story.state, STARTED, before)
    story.given("lab", ClusterVersionRaised(LOCKS))
    assert not came_late(story.state, STARTED, before)
    ready = EngineReady(node="alpha")
    story.publish(record.subject_of("chat-0", ready), record.encode(ready))
    assert not story.state.replicas["chat-0"].serving
    assert came_late(story.state, ready, story.state.seq)
    assert not came_late(story.state, gpus(8), story.state.seq)
    assert unnamed(story.state, story.log[-1]) is not None
    assert told(story, "alpha", "chat-0", ready).replicas["chat-0"].serving
    assert unnamed(story.state, story.log[-1]) is None


def test_a_recorded_log_of_reports_with_their_nodes_is_read_for_ever() -> None:
    records = corpus.records("reports-of-two-nodes")
    reports = [each for each in records if each.type in REPORTS]
    assert {each.subject.rpartition(".")[2] for each in reports} == {"n1", "n2"}
    assert [each.node for each in reports] == [each.subject.rpartition(".")[2] for each in reports]
    assert all(each.content == replace(each.content, node=each.node) for each in reports)
    kinds = {type(each.content) for each in reports}
    assert kinds == {EngineStarted, EngineReady, EngineFailed, EngineStopped}
    [foreign] = [each.seq for each in reports if each.node == "n2" and each.id == "chat-0"]
    before, after = (fold(EMPTY, records[:number]) for number in (foreign - 1, foreign))
    assert after.seq == foreign
    assert same(before, after)
