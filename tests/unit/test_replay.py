"""The replay check: recorded decisions are those that are made today, and a changed rule shows."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.placement import candidates, planning, sizing
from nebula.actors.placement import decision as placement
from nebula.actors.placement.decision import decide
from nebula.events.record import Record
from nebula.events.version import VERSION
from nebula.events.vocabulary import (
    ClusterFounded,
    Event,
    EventRejected,
    ModelAssigned,
    ModelSlept,
    ModelUnschedulable,
    NodeLost,
)
from nebula.history.explanation import Chronicle
from nebula.history.replay import BadLog, Replay, from_the_future
from tests.unit import corpus
from tests.unit.story import SECOND, Story, cluster, facts, gpus, intents, load


def replayed(records: Iterable[Record]) -> Replay:
    replay = Replay()
    for record in records:
        replay.take(record)
    replay.end()
    return replay


# The corpus


@pytest.mark.parametrize("name", corpus.NAMES)
def test_recorded_decisions_are_those_made_today(name: str) -> None:
    replay = replayed(corpus.records(name))
    assert replay.differences == []
    assert replay.checked > 0
    assert replay.beyond == 0


RULES = {
    "the policy": lambda patch: patch.setattr(
        placement,
        "plan",
        lambda state, model, *_, **named: planning.plan(state, model, "binpack", **named),
    ),
    "how much of a device is promised": lambda patch: patch.setattr(sizing, "USABLE", 0.9),
    "the share of a chat model": lambda patch: patch.setattr(sizing, "GENERATES", 0.44),
    "a lost node's replicas": lambda patch: patch.setattr(
        planning, "stands", lambda state, place: place.node in state.nodes
    ),
    "replicas of a model keep apart": lambda patch: patch.setattr(
        planning,
        "best",
        lambda rooms, required, _, delta: candidates.best(rooms, required, {}, delta),
    ),
    "numbers of replicas": lambda patch: patch.setattr(
        planning._Draft, "_free_numbers", lambda *_: iter(range(100, 1000))
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_changed_rule_of_placement_shows_in_the_corpus(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    RULES[rule](monkeypatch)
    found = [
        difference
        for name in corpus.NAMES
        for difference in replayed(corpus.records(name)).differences
    ]
    assert found
    for difference in found:
        assert all(each.event != difference.recorded for each in difference.decided)


# The law


@given(st.lists(st.one_of(intents, facts), max_size=25), st.data())
def test_what_routers_decided_comes_out_again(
    said: list[tuple[str, Event]], data: st.DataObject
) -> None:
    story = cluster(n1=[16], n2=[24])
    for identity, event in said:
        story.append(identity, event)
        if data.draw(st.booleans()):
            story.decides()
    story.settles()
    replay = replayed(story.log)
    assert replay.differences == []
    decisions = [record for record in story.log if record.basis is not None]
    assert replay.checked == len(decisions)


# What is found


def decided(story: Story) -> Story:
    story.decides()
    return story


def test_the_first_difference_shows_both_sides() -> None:
    story = decided(cluster(alpha=[80]).given("chat", load(1, "8GiB")))
    replay = Replay(decider=lambda state: decide(state)[:0])
    [*_, found] = [replay.take(record) for record in story.log]
    assert found is not None
    assert (found.seq, found.basis, found.id) == (3, 2, "chat")
    assert isinstance(found.recorded, ModelAssigned)
    assert found.decided == ()


def test_a_decision_of_another_state_is_compared_with_that_state() -> None:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB"))
    [decision] = decide(story.state)
    story.given("beta", gpus(80))
    story.append(decision.id, decision.event, decision.cause, basis=2)
    assert replayed(story.log).differences == []


def test_a_plan_by_hand_is_counted_and_not_judged() -> None:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB"))
    story.given("chat", ModelUnschedulable("because", 1))
    replay = replayed(story.log)
    assert (replay.by_hand, replay.checked, replay.differences) == (1, 0, [])


def test_a_replay_from_the_middle_does_not_judge_what_it_can_not_see() -> None:
    story = decided(cluster(alpha=[80]).given("chat", load(1, "8GiB")))
    replay = Replay(Story().given("alpha", gpus(80)).given("chat", load(1, "8GiB")).state)
    assert replay.take(story.log[2]) is None
    assert replay.checked == 1
    from_later = Replay(story.state)
    story.given("beta", gpus(8))
    story.append("chat", ModelUnschedulable("x", 1), basis=1)
    for record in story.log[3:]:
        from_later.take(record)
    assert from_later.beyond == 1


def test_an_answer_that_was_never_given_shows_at_the_end() -> None:
    story = Story().publish("nebula.events.model.chat.Nonsense", b"{}")
    story.given("alpha", gpus(80)).given("chat", load(1, "8GiB"))
    plan = next(each for each in decide(story.state) if isinstance(each.event, ModelAssigned))
    story.append(plan.id, plan.event, plan.cause, basis=3)
    owed = replayed(story.log)
    assert owed.differences == []  # the plan goes first: the answer may be on its way
    story.given("more", load(1, "8GiB"))
    plan = next(each for each in decide(story.state) if isinstance(each.event, ModelAssigned))
    story.append(plan.id, plan.event, plan.cause, basis=5)
    replay = Replay()
    for record in story.log:
        assert replay.take(record) is None
    found = replay.end()
    assert found is not None
    assert (found.seq, found.recorded) == (1, None)
    assert isinstance(found.decided[0].event, EventRejected)


# Logs that are none


def test_a_hole_is_named() -> None:
    story = cluster(alpha=[80]).given("alpha", NodeLost(), gpus(80))
    replay = Replay()
    replay.take(story.log[0])
    with pytest.raises(BadLog, match="sequence 3 follows 1: the log has a hole"):
        replay.take(story.log[2])


def test_an_entry_out_of_order_is_named() -> None:
    story = cluster(alpha=[80]).given("alpha", NodeLost())
    replay = Replay()
    for record in story.log:
        replay.take(record)
    with pytest.raises(BadLog, match="sequence 1 comes after 2: it is out of order"):
        replay.take(story.log[0])


def test_a_basis_that_had_not_happened_yet_can_not_be_checked_and_does_not_count_as_by_hand() -> (
    None
):
    story = cluster(alpha=[80])
    for basis in (2, 3, 999):
        story.append("chat", ModelUnschedulable("x", 1), basis=basis)
    replay = replayed(story.log)
    assert (replay.beyond, replay.by_hand, replay.checked) == (3, 0, 0)


def test_an_entry_from_the_future_is_named() -> None:
    log = cluster(alpha=[80], beta=[80], gamma=[80]).log
    assert from_the_future(log, now=0) == ""
    assert from_the_future([], now=0) == ""
    found = from_the_future(log, now=-3599 * SECOND)
    assert found.startswith("sequence 2 comes from the future: it was stored at 1970-01-01 ")


def test_what_was_decided_from_what_was_seen_is_taken_as_it_was() -> None:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB", idle_after=60.0))
    story.settles()
    basis = story.state.seq
    story.append("chat", ModelSlept("no request for 61 s"), cause=1, basis=basis)
    story.decides()
    story.append("alpha", NodeLost("not heard from for 31 s"), cause=1, basis=story.state.seq)
    replay = replayed(story.log)
    assert replay.differences == []
    assert replay.state.nodes["alpha"].lost


# Two versions on one log


def rejected_by_an_older_version(subject: str, reason: str) -> Story:
    """Tell of an event that counts today, and that a router which did not know it has answered."""
    story = cluster(alpha=[80])
    story.given("c1", ClusterFounded("lab", VERSION))
    seq = story.state.seq
    story.append(str(seq), EventRejected(subject, reason), cause=seq, basis=seq)
    return story.given("chat", load())


@pytest.mark.parametrize(
    "reason",
    [
        "'cluster' is none of model, replica, node, alias, log",
        "'ClusterFounded' is no event type of Nebula",
        "ClusterFounded: Object contains unknown field `name`",
        "ClusterFounded of version 2 is newer than this Nebula, which reads up to 1",
    ],
)
def test_an_older_version_s_answer_to_what_it_did_not_know_is_not_a_difference(reason: str) -> None:
    story = rejected_by_an_older_version("nebula.events.cluster.c1.ClusterFounded", reason)
    replay = replayed(story.log)
    assert (replay.differences, replay.by_older) == ([], 1)
    chronicle = Chronicle(lambda record, *_: isinstance(record.content, EventRejected))
    for record in story.log:
        chronicle.take(record)
    [line] = chronicle.lines
    assert "an older version wrote this, which did not know the event" in line.reasons


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        ("nebula.events.cluster.c1.ClusterFounded", "this log is of cluster 'c2'"),
        ("nebula.events.cluster.c1.Nonsense", "'Nonsense' is no event type of Nebula"),
    ],
)
def test_any_other_answer_to_an_event_that_counts_is_one(subject: str, reason: str) -> None:
    replay = replayed(rejected_by_an_older_version(subject, reason).log)
    assert (len(replay.differences), replay.by_older) == (1, 0)


def test_a_second_answer_to_what_is_not_known_today_either_is_a_difference() -> None:
    story = cluster(alpha=[80]).publish(
        "nebula.events.model.chat.ModelScaleRequested", b'{"replicas": 1, "more": 1}'
    )
    [first] = story.decides()
    basis = story.state.seq
    story.append(first.id, first.event, cause=first.cause, basis=basis)
    assert len(replayed(story.log).differences) == 1
