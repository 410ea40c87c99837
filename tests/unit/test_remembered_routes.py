"""Routes of requests are remembered, and are always those that would be found anew."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nebula.actors.gateway.names import resolve
from nebula.events.endpoints import ENDPOINTS
from nebula.events.intents import AliasRequested, ModelUnloadRequested
from nebula.events.key import Key
from nebula.events.values import Target
from nebula.events.vocabulary import ModelUnloaded
from nebula.http.errors import ApiError
from nebula.http.principals import Principal
from nebula.http.routed import Routes
from nebula.openai.chunks import CHAT
from tests.unit.story import Story, cluster, load

ANYONE = Principal("", frozenset({"infer"}))


class World:
    """A cluster with the models `org/a` and `org/b`, and the routes of a gateway in it."""

    def __init__(self) -> None:
        self.story: Story = cluster(n1=[200])
        for each in ("a", "b"):
            self.story.given(each, load(1, "8GiB", name=f"org/{each}")).settles()
            self.story.runs(f"{each}-0")
        self.projection = SimpleNamespace(state=self.story.state)
        gateway: Any = SimpleNamespace(projection=self.projection, able=True)
        self.routes = Routes(gateway)

    def of(self, name: str, key: str = "k", principal: Principal = ANYONE) -> str:
        """Return the model to which a name leads, as the gateway finds it."""
        self.projection.state = self.story.state
        found = self.routes.of(ENDPOINTS[CHAT], name, key, principal)
        assert found == resolve(self.story.state, name, key)
        return found.binding.model


def test_a_route_is_remembered_until_the_cluster_changes() -> None:
    world = World()
    assert [world.of("org/a"), world.of("org/a"), world.of("org/b")] == ["a", "a", "b"]
    world.story.given("a", ModelUnloadRequested(), ModelUnloaded())
    with pytest.raises(ApiError, match="org/a"):
        world.of("org/a")


def test_an_alias_leads_each_key_to_its_own_target() -> None:
    world = World()
    world.story.given("both", AliasRequested((Target("org/a", 1), Target("org/b", 1)), "both"))
    assert {world.of("both", str(key)) for key in range(50)} == {"a", "b"}


def test_what_one_caller_may_use_is_not_there_for_another() -> None:
    world = World()
    key = Key(id="x", hash="", scopes=("infer",), models=("org/b",))
    limited = Principal("key:x", frozenset({"infer"}), key)
    assert world.of("org/a") == "a"
    with pytest.raises(ApiError):
        world.of("org/a", principal=limited)
    assert world.of("org/b", principal=limited) == "b"


def test_a_path_that_a_model_does_not_serve_is_refused_each_time() -> None:
    world = World()
    world.of("org/a")
    for _ in range(2):
        with pytest.raises(ApiError, match="does not serve"):
            world.routes.of(ENDPOINTS["/v1/embeddings"], "org/a", "k", ANYONE)
