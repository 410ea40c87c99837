"""A plan that was shown holds while what would follow is the same, whatever else happens."""

from __future__ import annotations

from nebula.events.intents import AliasRequested, ModelScaleRequested
from nebula.events.values import Target
from nebula.history.change_plan import plan_change
from nebula.history.plan_holds import differs
from tests.unit.story import Story, cluster, load

WISH = ("chat", ModelScaleRequested(2))


def serving() -> Story:
    story = cluster(n1=[80], n2=[80]).given("chat", load(1, "60GiB"))
    story.settles()
    story.runs("chat-0")
    return story


def otherwise(story: Story, *events: tuple[str, object]) -> tuple[str, ...]:
    shown = plan_change(story.state, [WISH])
    for identity, event in events:
        story = story.given(identity, event)  # type: ignore[arg-type]
    return differs(shown, plan_change(story.state, [WISH]))


def test_it_holds_although_an_alias_is_made_in_between() -> None:
    alias = AliasRequested((Target("chat"),))
    assert otherwise(serving(), ("best", alias)) == ()


def test_it_holds_no_more_once_the_model_is_scaled() -> None:
    (first, *_) = otherwise(serving(), ("chat", ModelScaleRequested(3)))
    assert first == "~ model chat: replicas: 3 -> 2"


def test_it_holds_no_more_once_there_is_no_room() -> None:
    lines = otherwise(serving(), ("big", load(1, "70GiB")))
    assert any("chat lacks 1" in each or "without the change" in each for each in lines)


def test_it_holds_no_more_once_it_is_done_already() -> None:
    lines = otherwise(serving(), WISH)
    assert "not any more: ~ model chat: replicas: 1 -> 2" in lines
