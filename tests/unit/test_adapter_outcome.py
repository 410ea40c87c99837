"""What a command that asked for an adapter is told: in place, not changed, or asked for since."""

from __future__ import annotations

from nebula.events.intents import AdapterLoadRequested, AdapterUnloadRequested
from nebula.events.state import State
from nebula.events.vocabulary import AdapterLoaded, AdapterLoadFailed
from nebula.history.outcome import Asked, Progress, asked, outcome
from tests.unit.story import Story, cluster, load

OLD, NEW = "a" * 64, "b" * 64


def served() -> Story:
    story = cluster(n1=[80], n2=[80]).given("chat", load(2, "8GiB", lora=True))
    story.settles()
    story.runs("chat-0").runs("chat-1")
    ask(story, "/sql")
    for replica in ("chat-0", "chat-1"):
        answer(story, replica, OLD)
    return story


def ask(story: Story, source: str) -> Asked:
    before: State = story.state
    story.given("chat", AdapterLoadRequested("sql", source))
    return asked(story.state, "chat", story.state.seq, "sql", before)


def answer(story: Story, replica: str, digest: str) -> None:
    offer = story.state.models["chat"].offers["sql"]
    source = story.state.models["chat"].adapters["sql"]
    story.given(replica, AdapterLoaded("sql", source, digest=digest, asked=offer.asked))


def test_it_is_waited_for_until_every_replica_has_said_what_came_of_it() -> None:
    story = served()
    wish = ask(story, "/sql")
    assert outcome(story.state, wish).progress == Progress.PENDING
    answer(story, "chat-0", NEW)
    found = outcome(story.state, wish)
    assert (found.progress, found.text) == (Progress.PENDING, "chat-1 loads sql")
    answer(story, "chat-1", NEW)
    found = outcome(story.state, wish)
    assert found.progress == Progress.FULFILLED
    assert found.text.endswith("with sql, version bbbbbbbbbbbb")


def test_the_same_files_are_told_as_such() -> None:
    story = served()
    wish = ask(story, "/sql")
    for replica in ("chat-0", "chat-1"):
        answer(story, replica, OLD)
    assert outcome(story.state, wish).text.endswith(
        "with sql, version aaaaaaaaaaaa, the same files as before"
    )


def test_what_was_taken_back_is_told_with_what_answers() -> None:
    story = served()
    wish = ask(story, "/broken")
    answer(story, "chat-0", NEW)
    failed = AdapterLoadFailed("sql", "/broken", "rank 64", asked=wish.seq)
    story.given("chat-1", failed)
    found = outcome(story.state, wish)
    assert found.progress == Progress.IMPOSSIBLE
    assert found.text == (
        "sql was not changed, version aaaaaaaaaaaa answers as before: chat-1 on n2: rank 64"
    )


def test_a_later_request_is_what_counts() -> None:
    story = served()
    first = ask(story, "/one")
    second = ask(story, "/two")
    for replica in ("chat-0", "chat-1"):
        answer(story, replica, NEW)
    told = outcome(story.state, first)
    assert (told.progress, told.text) == (
        Progress.IMPOSSIBLE,
        f"sql was requested again by event {second.seq}, which replaces this request",
    )
    assert outcome(story.state, second).progress == Progress.FULFILLED


def test_one_that_was_taken_off_meanwhile_is_not_waited_for() -> None:
    story = served()
    wish = ask(story, "/sql")
    story.given("chat", AdapterUnloadRequested("sql"))
    told = outcome(story.state, wish)
    assert (told.progress, told.text) == (
        Progress.IMPOSSIBLE,
        "sql was unloaded from chat by a later request",
    )
