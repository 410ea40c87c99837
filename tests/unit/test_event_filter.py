"""Filters over the log: what `nebula events` and `/admin/events` let through."""

from __future__ import annotations

import pytest

from nebula.events.evolve import evolve
from nebula.events.intents import ModelScaleRequested, ModelUnloadRequested
from nebula.events.state import EMPTY
from nebula.events.vocabulary import EngineFailed, NodeLost
from nebula.history.event_filter import EventFilter, FilterSpec, selection
from tests.unit.story import Story, cluster, gpus, load


@pytest.fixture
def story() -> Story:
    told = cluster(n1=[80])  # 1
    told.given("chat", load(1, "8GiB")).settles()  # 2, plan 3
    told.runs("chat-0")  # 4 started, 5 ready
    told.given("n2", gpus(80))  # 6
    told.given("b-0", load(1, "60GiB")).settles()  # 7, plan 8
    told.publish("nebula.events.model.chat.Nonsense", b"{}").settles()  # 9, answer 10
    told.given("chat", ModelScaleRequested(0)).settles()  # 11, plan 12
    return told


def chosen(story: Story, **fields: str) -> list[int]:
    sieve, state, seqs = EventFilter(selection(fields)), EMPTY, []
    for record in story.log:
        before, state = state, evolve(state, record)
        if sieve.passes(record, before, state):
            seqs.append(record.seq)
    return seqs


def test_without_filters_everything_passes(story: Story) -> None:
    assert chosen(story) == list(range(1, 13))


@pytest.mark.parametrize(
    ("fields", "seqs"),
    [
        ({"aggregate": "node"}, [1, 6]),
        ({"aggregate": "replica"}, [4, 5]),
        ({"aggregate": "chat"}, [2, 3, 4, 5, 9, 11, 12]),
        ({"aggregate": "model/chat"}, [2, 3, 4, 5, 9, 11, 12]),
        ({"aggregate": "replica/chat-0"}, [4, 5]),
        ({"aggregate": "b-0"}, [7, 8]),
        ({"aggregate": "node,b-0"}, [1, 6, 7, 8]),
        ({"aggregate": "nobody"}, []),
        ({"type": "ModelAssigned"}, [3, 8, 12]),
        ({"type": "ModelAssigned,EngineReady"}, [3, 5, 8, 12]),
        ({"node": "n1"}, [1, 3, 4, 5, 12]),
        ({"node": "n2"}, [6, 8]),
        ({"cause": "2"}, [3]),
        ({"cause": "9"}, [10]),
        ({"rejected": "true"}, [9, 10]),
        ({"rejected": "no"}, list(range(1, 13))),
        ({"aggregate": "chat", "type": "ModelAssigned", "node": "n1"}, [3, 12]),
    ],
)
def test_all_filters_must_hold(story: Story, fields: dict[str, str], seqs: list[int]) -> None:
    assert chosen(story, **fields) == seqs


def test_a_cause_leads_to_all_that_followed_from_it() -> None:
    story = cluster(n1=[80], n2=[80]).given("chat", load(1, "8GiB"))
    story.settles()
    lost = story.model().assignments[0].node
    story.given(lost, NodeLost())
    seq = story.state.seq
    story.settles()
    plan = story.state.seq
    story.append("chat-1", EngineFailed("no", 1, attempt=1, retry_in=1.0), cause=plan)
    assert chosen(story, cause=str(seq)) == [plan, plan + 1]


def test_a_replica_that_is_gone_still_belongs_to_its_model() -> None:
    story = cluster(n1=[80]).given("chat", load(1, "8GiB"))
    story.settles()
    story.runs("chat-0").given("chat", ModelUnloadRequested()).stops("chat-0").settles()
    assert "chat-0" not in story.state.replicas
    assert chosen(story, aggregate="chat") == list(range(2, story.state.seq + 1))


def test_what_happens_to_the_last_replica_of_a_node_and_to_its_plan_is_the_node_s() -> None:
    told = cluster(n1=[80], n2=[80]).given("chat", load(2, "8GiB"))  # 1, 2, 3
    told.settles()  # 4
    told.runs("chat-0").runs("chat-1")  # 5, 6, 7, 8: the second is on n2
    told.given("chat", ModelScaleRequested(1)).settles()  # 9, 10: only n1 is left in the plan
    told.stops("chat-1")  # 11: the replica is gone with it
    assert "chat-1" not in told.state.replicas
    assert chosen(told, node="n2") == [2, 4, 7, 8, 10, 11]


def test_a_copy_of_a_filter_goes_its_own_way() -> None:
    told = cluster(n1=[80]).given("chat", load(1, "8GiB"))
    told.settles()
    told.append("chat-0", EngineFailed("no", 1, attempt=1, retry_in=1.0), cause=3)
    first, state = EventFilter(selection({"cause": "2", "aggregate": "chat"})), EMPTY
    copies = []
    for record in told.log:
        copies.append(first.copy())
        before, state = state, evolve(state, record)
        first.passes(record, before, state)
    assert first.effects == {2, 3, 4}
    assert [each.effects for each in copies] == [{2}, {2}, {2}, {2, 3}]
    assert [each.unknown for each in copies] == [["chat"], ["chat"], [], []]


@pytest.mark.parametrize("cause", ["", "x", "0", "-1", "1.5", "9" * 19, "9" * 30])
def test_a_cause_that_is_not_a_sequence_is_refused(cause: str) -> None:
    with pytest.raises(ValueError, match="is not a sequence"):
        selection({"cause": cause})


def test_rejected_is_true_or_false_and_nothing_else() -> None:
    assert [selection({"rejected": each}).rejected for each in ("1", "true", "yes")] == [True] * 3
    assert [selection({"rejected": each}).rejected for each in ("0", "false", "no")] == [False] * 3
    with pytest.raises(ValueError, match="rejected: 'maybe' is neither true nor false"):
        selection({"rejected": "maybe"})


def test_empty_fields_filter_nothing() -> None:
    assert selection({"aggregate": "", "type": ",", "node": ""}) == FilterSpec()
