"""Which replica a router sends a request to."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.routing import Candidate, able, choose
from nebula.events.vocabulary import (
    AdapterLoaded,
    AdapterLoadFailed,
    AdapterLoadRequested,
    ModelScaleRequested,
)
from tests.unit.story import Story, cluster, load

candidate = st.builds(Candidate, st.text(min_size=1), st.integers(0, 3), st.booleans())
candidates = st.lists(candidate, max_size=8, unique_by=lambda each: each.replica)
turns = st.integers(0, 10**9)


def test_with_nobody_to_ask_nobody_is_chosen() -> None:
    assert choose([], 7) is None


def test_the_least_busy_replica_is_chosen_whoever_has_the_turn() -> None:
    busy = [Candidate("a", 3), Candidate("b", 1), Candidate("c", 2)]
    assert {choose(busy, turn) for turn in range(5)} == {"b"}


def test_a_silent_replica_is_chosen_only_where_no_other_is_left() -> None:
    idle_but_silent = Candidate("a", 0, silent=True)
    assert choose([idle_but_silent, Candidate("b", 9)], 0) == "b"
    assert choose([idle_but_silent], 0) == "a"


@given(candidates, turns)
def test_the_choice_is_one_of_the_candidates(known: list[Candidate], turn: int) -> None:
    assert choose(known, turn) in [each.replica for each in known] or not known


@given(candidates, turns)
def test_no_silent_replica_is_chosen_while_another_is_heard(
    known: list[Candidate], turn: int
) -> None:
    silent = {each.replica for each in known if each.silent}
    assert choose(known, turn) not in silent or len(silent) == len(known)


@given(candidates, turns)
def test_no_replica_that_is_heard_has_less_to_do_than_the_chosen_one(
    known: list[Candidate], turn: int
) -> None:
    load = {each.replica: each.in_flight for each in known}
    heard = [each.in_flight for each in known if not each.silent] or list(load.values())
    chosen = choose(known, turn)
    assert chosen is None or load[chosen] == min(heard)


@given(candidates.filter(bool), turns, st.integers(1, 5))
def test_equal_replicas_are_chosen_equally_often(
    known: list[Candidate], start: int, rounds: int
) -> None:
    equal = [Candidate(each.replica, 1) for each in known]
    chosen = Counter(choose(equal, start + turn) for turn in range(rounds * len(equal)))
    assert chosen == {each.replica: rounds for each in equal}


def serving(replicas: int = 3) -> Story:
    story = cluster(alpha=[80]).given("chat", load(replicas, "8GiB", lora=True))
    story.settles()
    for number in range(replicas):
        story.runs(f"chat-{number}")
    return story


def names(story: Story, adapter: str = "") -> list[str]:
    return [replica.id for replica in able(story.state, story.model(), adapter)]


def test_only_replicas_whose_engine_is_ready_are_able() -> None:
    story = serving().runs("chat-0", ready=False).stops("chat-1")
    assert names(story) == ["chat-2"]


def test_neither_a_retired_replica_nor_one_of_an_older_plan_is_able() -> None:
    story = serving()
    story.given("chat", ModelScaleRequested(2)).settles()
    assert names(story) == ["chat-0", "chat-1"]
    story.given("chat", load(2, "9GiB", lora=True)).settles()
    assert names(story) == []


def test_for_an_adapter_only_replicas_that_have_it_are_able() -> None:
    story = serving().given("chat", AdapterLoadRequested("sql", "/a"))
    story.given("chat-0", AdapterLoaded("sql", "/a"))
    story.given("chat-1", AdapterLoadFailed("sql", "/a", "too large"))
    assert names(story, "sql") == ["chat-0"]
    assert names(story) == ["chat-0", "chat-1", "chat-2"]
    assert names(story, "unknown") == []
