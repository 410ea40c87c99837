"""What must hold of every state holds, and is told where it does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from msgspec.structs import replace
from rpds import HashTrieMap, HashTrieSet

from nebula.actors.placement import decision as placement
from nebula.events.folding import fold
from nebula.events.intents import AliasRequested
from nebula.events.state import EMPTY, State
from nebula.events.values import Target
from nebula.events.vocabulary import EventRejected, ModelAssigned, ModelUnschedulable
from nebula.history.invariants import broken, following
from tests.unit import corpus
from tests.unit.story import Story, cluster, load, messages


def served() -> Story:
    story = cluster(n1=[80]).given("chat", load(1, "8GiB"))
    story.settles()
    return story.runs("chat-0").given("best", AliasRequested((Target("chat"),)))


@given(messages)
def test_they_hold_whatever_is_published(said: list[tuple[str, bytes]]) -> None:
    story = Story()
    for subject, payload in said:
        story.publish(subject, payload).decides()
        assert broken(story.state) == []


@pytest.mark.parametrize("name", corpus.NAMES)
def test_they_hold_of_recorded_logs(name: str) -> None:
    assert broken(fold(EMPTY, corpus.records(name))) == []


BROKEN: dict[str, tuple[Callable[[State], State], str]] = {
    "an index": (
        lambda state: replace(state, occupancy=HashTrieMap()),
        "a snapshot of it is read as another state",
    ),
    "what is unsettled": (
        lambda state: replace(state, unsettled=HashTrieSet(["chat"])),
        "its index unsettled is not what follows from the rest",
    ),
    "a name": (
        lambda state: replace(state, models=HashTrieMap(), unsettled=HashTrieSet()),
        "the name 'chat' stands for the model 'chat', which is not there",
    ),
    "an alias": (
        lambda state: replace(state, aliases=HashTrieMap()),
        "the name 'best' stands for the alias 'best', which is not there",
    ),
    "a model's name": (
        lambda state: replace(state, names=HashTrieMap()),
        "the name 'chat' of model 'chat' stands for nothing",
    ),
    "a replica": (
        lambda state: replace(state, replicas=HashTrieMap()),
        "model 'chat' has the replica 'chat-0', which is not there",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_state_that_breaks_one_is_told(what: str) -> None:
    spoil, words = BROKEN[what]
    assert words in broken(spoil(served().state))


def test_what_would_be_decided_next_is_listed_to_its_end() -> None:
    story = cluster(n1=[80]).given("a", load(1, "60GiB")).given("b", load(1, "60GiB"))
    story.publish("nebula.events.model.x.Unknown", b"{}")
    found, ends = following(story.state)
    assert [(each.id, type(each.event)) for each in found] == [
        ("a", ModelAssigned),
        ("b", ModelUnschedulable),
    ]
    assert ends
    assert not any(isinstance(each.event, EventRejected) for each in found)


def test_decisions_without_an_end_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    story = cluster(n1=[80]).given("a", load(1, "8GiB"))

    def never(state: State, model: object, *_: object) -> placement.Decision:
        return placement.Decision("a", ModelUnschedulable("again"), 1)

    monkeypatch.setattr(placement, "_of_model", never)
    found, ends = following(story.state, most=5)
    assert (len(found), ends) == (5, False)
