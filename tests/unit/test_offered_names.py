"""Which names the gateway offers: none of an adapter that could not be loaded anywhere."""

from __future__ import annotations

from nebula.events.intents import AdapterLoadRequested, AliasRequested
from nebula.events.values import Target
from nebula.events.vocabulary import AdapterLoaded, AdapterLoadFailed
from nebula.http.names import no_model, offered
from tests.unit.story import Story, cluster, load


def serving(replicas: int = 1) -> Story:
    story = cluster(n1=[80]).given("chat", load(replicas, "8GiB", lora=True))
    story.settles()
    for number in range(replicas):
        story.runs(f"chat-{number}")
    story.given("prod", AliasRequested((Target("chat"),), "prod"))
    return story.given("chat", AdapterLoadRequested("poet", "/poet"))


def fails(story: Story, replica: str) -> Story:
    return story.given(replica, AdapterLoadFailed("poet", "/poet", "its rank is too large"))


def test_an_adapter_that_may_still_come_is_offered() -> None:
    assert offered(serving().state) == ["chat", "poet", "prod"]
    assert offered(fails(serving(2), "chat-0").state) == ["chat", "poet", "prod"]


def test_an_adapter_that_failed_everywhere_is_not_offered() -> None:
    story = fails(fails(serving(2), "chat-0"), "chat-1")
    assert offered(story.state) == ["chat", "prod"]
    error = no_model(story.state, "nobody")
    assert "There are: 'chat', 'prod'" in str(error)
    assert "'poet'" not in str(error)


def test_an_adapter_that_one_replica_has_is_offered() -> None:
    story = fails(serving(2), "chat-0").given("chat-1", AdapterLoaded("poet", "/poet"))
    assert "poet" in offered(story.state)


def test_asked_about_a_failed_adapter_the_reason_is_told() -> None:
    error = no_model(fails(serving(), "chat-0").state, "poet")
    assert str(error).startswith(
        "Adapter 'poet' could not be loaded: chat-0 on n1: its rank is too large. There are:"
    )
