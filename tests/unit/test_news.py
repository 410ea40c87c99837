"""What an operator is told at once, and how much of it at most."""

import pytest

from nebula.events.state import State
from nebula.events.vocabulary import (
    EngineFailed,
    EngineReady,
    EngineStarted,
    Event,
    ModelUnschedulable,
    NodeLost,
)
from nebula.history.description import describe
from nebula.history.news import EVERY, LONGEST, MOST, Ration, news
from tests.unit.story import Story, cluster, gpus, load


def serving() -> Story:
    """Return a story in which a model serves."""
    story = cluster(n1=[80]).given("chat", load(memory="8GiB"))
    story.settles()
    return story.runs("chat-0")


def told(story: Story, identity: str, *events: Event) -> list[str]:
    """Return what is told of events that happen now."""
    lines = []
    for event in events:
        before: State = story.state
        story.given(identity, event)
        lines.append(news(story.log[-1], before))
    return lines


def test_an_engine_that_dies_and_comes_back_is_told_with_its_reason() -> None:
    assert told(
        serving(),
        "chat-0",
        EngineFailed("killed by signal 9", -9, attempt=1, retry_in=1.0),
        EngineStarted(7, 1.0, 8001, "/log", 1, attempt=2),
        EngineReady(),
    ) == [
        "replica chat-0: its engine ended: killed by signal 9; started again in 1 s",
        "",
        "replica chat-0: serves again",
    ]


def test_what_is_given_up_is_told_with_the_command_that_explains_it() -> None:
    (line,) = told(serving(), "chat-0", EngineFailed("no " * 900, 1, attempt=3))
    assert line.startswith("replica chat-0: is given up, not tried again: no no no")
    assert line.endswith("`nebula why chat-0`")
    assert len(line) <= LONGEST


def test_a_node_that_is_lost_and_comes_back_is_told() -> None:
    story = serving()
    assert told(story, "n1", NodeLost("no heartbeat for 30 s")) == [
        "node n1: lost: no heartbeat for 30 s"
    ]
    assert told(story, "n1", gpus(80)) == ["node n1: is back"]
    assert told(story, "n1", gpus(80)) == [""]


def test_what_can_not_be_placed_is_told_once_for_each_reason() -> None:
    story = serving()
    events = [ModelUnschedulable("no room", 2), ModelUnschedulable("no room", 3)]
    first, second = told(story, "chat", *events)
    assert "no room" in first
    assert second == ""


@pytest.mark.parametrize("event", [EngineReady(), EngineStarted(7, 1.0, 8001, "/log", 1)])
def test_what_goes_as_it_should_is_not_news(event: Event) -> None:
    assert told(serving(), "chat-0", event) == [""]


def test_of_many_lines_at_once_the_rest_is_counted() -> None:
    ration = Ration()
    shown = [line for number in range(MOST + 5) for line in ration.pass_on(str(number), 0.0)]
    assert shown == [str(number) for number in range(MOST)]
    assert ration.rest(EVERY - 1) == []
    assert ration.rest(EVERY) == ["5 more events like these: `nebula events` lists them"]
    assert ration.pass_on("next", EVERY) == ["next"]
    assert ration.rest(EVERY) == []


def test_an_engine_that_waits_for_another_start_is_not_promised_sooner() -> None:
    story = serving().given("next", load(memory="8GiB"))
    story.settles()
    story.runs("next-0", ready=False)
    failed = EngineFailed("killed by signal 9", -9, attempt=1, retry_in=1.0)
    again = "started again once next-0 has started, in 1 s at the earliest"
    before = story.state
    assert told(story, "chat-0", failed) == [
        f"replica chat-0: its engine ended: killed by signal 9; {again}"
    ]
    assert f"; {again}): killed" in describe(story.log[-1], before)
