"""Which model a name in a request leads to."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.gateway.names import Route, resolve, shadow
from nebula.events.intents import (
    AdapterLoadRequested,
    AliasRemoveRequested,
    AliasRequested,
    ModelUnloadRequested,
)
from nebula.events.values import Target
from nebula.events.vocabulary import AdapterLoaded, ModelSlept, ModelUnloaded
from tests.unit.story import Story, cluster, load

KEYS = [f"request-{number}" for number in range(2000)]


def serving(*models: str) -> Story:
    """A cluster where these models are ready, each by a name of its own: `org/a`."""
    story = cluster(n1=[200])
    for each in models:
        story.given(each, load(1, "8GiB", name=f"org/{each}", lora=True)).settles()
        story.runs(f"{each}-0")
    return story


def standing_for(story: Story, *targets: tuple[str, int], mirror: str = "") -> Story:
    wanted = tuple(Target(name, weight) for name, weight in targets)
    return story.given("prod", AliasRequested(wanted, "prod/chat", mirror))


def route_of(story: Story, name: str = "prod/chat", key: str = "k") -> Route:
    found = resolve(story.state, name, key)
    assert found is not None
    return found


def shares(story: Story) -> dict[str, int]:
    return dict(Counter(route_of(story, key=key).name for key in KEYS))


# Plain names


def test_a_model_s_own_name_leads_to_it_alone() -> None:
    story = serving("a", "b")
    found = route_of(story, "org/a")
    assert (found.name, found.model.id, found.mirror, found.wake) == ("org/a", "a", "", "")
    assert resolve(story.state, "a", "k") is None, "an id is no name"


# Aliases


def test_an_alias_leads_to_its_target_by_the_target_s_own_name() -> None:
    found = route_of(standing_for(serving("a"), ("org/a", 1)))
    assert (found.name, found.binding.model) == ("org/a", "a")


def test_an_alias_may_stand_for_an_adapter() -> None:
    story = serving("a").given("a", AdapterLoadRequested("sql", "/s"))
    story.given("a-0", AdapterLoaded("sql", "/s"))
    found = route_of(standing_for(story, ("sql", 1)))
    assert (found.name, found.binding.model, found.binding.adapter) == ("sql", "a", "sql")


def test_an_alias_moves_with_one_event() -> None:
    story = standing_for(serving("a", "b"), ("org/a", 1))
    assert route_of(story).name == "org/a"
    assert route_of(standing_for(story, ("org/b", 1))).name == "org/b"
    story.given("prod", AliasRemoveRequested())
    assert resolve(story.state, "prod/chat", "k") is None


def test_requests_are_shared_out_by_weight() -> None:
    found = shares(standing_for(serving("a", "b"), ("org/a", 95), ("org/b", 5)))
    assert 60 <= found["org/b"] <= 140, found
    assert found["org/a"] + found["org/b"] == len(KEYS)


def test_a_user_that_was_with_a_canary_stays_with_it_as_it_grows() -> None:
    story = standing_for(serving("a", "b"), ("org/a", 95), ("org/b", 5))
    few = {key for key in KEYS if route_of(story, key=key).name == "org/b"}
    standing_for(story, ("org/a", 80), ("org/b", 20))
    more = {key for key in KEYS if route_of(story, key=key).name == "org/b"}
    assert few < more


def test_another_alias_draws_others_for_its_canary() -> None:
    story = standing_for(serving("a", "b"), ("org/a", 1), ("org/b", 1))
    story.given("other", AliasRequested((Target("org/a"), Target("org/b"))))
    assert any(
        route_of(story, key=key).name != route_of(story, "other", key).name for key in KEYS[:50]
    )


def test_what_has_no_weight_or_is_not_there_gets_nothing() -> None:
    story = serving("a", "b")
    standing_for(story, ("org/a", 1), ("org/b", 0), ("org/absent", 9))
    assert set(shares(story)) == {"org/a"}
    story.given("a", ModelUnloadRequested())
    assert resolve(story.state, "prod/chat", "k") is None


@given(
    st.lists(
        st.tuples(st.sampled_from(["org/a", "org/b", "org/c", "gone"]), st.integers(0, 5)),
        min_size=1,
        unique_by=lambda target: target[0],
    ).filter(lambda targets: any(weight for _, weight in targets)),
    st.text(max_size=20),
)
def test_every_key_meets_one_target_with_weight_and_always_the_same(
    targets: list[tuple[str, int]], key: str
) -> None:
    story = standing_for(ALL, *targets)
    there = {name for name, weight in targets if weight and name != "gone"}
    found = resolve(story.state, "prod/chat", key)
    assert found == resolve(story.state, "prod/chat", key)
    assert (found.name in there) if found is not None else not there


ALL = serving("a", "b", "c")


# Mirrors


def test_a_mirror_gets_copies_while_it_has_a_ready_replica() -> None:
    story = standing_for(serving("a", "b"), ("org/a", 1), mirror="org/b")
    route = route_of(story)
    assert route.mirror == "org/b"
    found = shadow(story.state, route.mirror, route)
    assert found is not None
    assert found.model.id == "b"
    story.stops("b-0")
    assert shadow(story.state, route.mirror, route) is None


def test_no_model_mirrors_its_own_answers_another_task_or_what_is_not_there() -> None:
    story = serving("a")
    story.given("e", load(1, "8GiB", task="embedding")).settles()
    story.runs("e-0")
    route = route_of(story, "org/a")
    for name in ("org/a", "e", "absent"):
        assert shadow(story.state, name, route) is None


# Fallbacks


def falling(*fallback: str, **fields: object) -> Story:
    """`new` is not ready yet and falls back; a and b serve."""
    story = serving("a", "b")
    story.given("new", load(1, "8GiB", fallback=fallback, **fields))
    story.settles()
    return story


def test_while_a_model_loads_its_first_ready_fallback_answers() -> None:
    story = falling("absent", "org/a", "org/b")
    assert route_of(story, "new").name == "org/a"
    story.stops("a-0")
    assert route_of(story, "new").name == "org/b"
    assert route_of(story, "new").wake == "", "it is on its way"
    story.runs("new-0")
    assert route_of(story, "new").name == "new"


def test_where_no_fallback_is_ready_requests_are_the_model_s_own() -> None:
    story = falling("org/a").stops("a-0")
    assert route_of(story, "new").name == "new"


def test_a_fallback_s_fallback_does_not_count() -> None:
    story = falling("org/a")
    story.given("newer", load(1, "8GiB", fallback=("new",))).settles()
    assert route_of(story, "newer").name == "newer"


def test_a_model_for_another_task_is_not_a_fallback() -> None:
    assert route_of(falling("org/a", task="embedding"), "new").name == "new"


def test_a_model_that_sleeps_is_woken_while_its_fallback_answers() -> None:
    story = falling("org/a", on_request=True)
    found = route_of(story, "new")
    assert (found.name, found.wake) == ("org/a", "new")
    story.runs("a-0").given("a", ModelSlept())
    assert route_of(story, "org/a").wake == "", "it has no fallback: it is asked itself"


def test_a_model_that_is_scaled_to_nothing_by_hand_is_not_woken() -> None:
    story = serving("a").given("off", load(0, "8GiB", fallback=("org/a",)))
    story.settles()
    found = route_of(story, "off")
    assert (found.name, found.wake) == ("org/a", "")


def test_an_alias_s_target_falls_back_too() -> None:
    story = standing_for(falling("org/a"), ("new", 1), mirror="org/b")
    found = route_of(story)
    assert (found.name, found.mirror) == ("org/a", "org/b")


def test_while_a_model_is_unloaded_its_fallback_answers_until_it_is_gone() -> None:
    story = falling("org/a").runs("new-0").given("new", ModelUnloadRequested())
    story.stops("new-0")
    assert route_of(story, "new").name == "org/a"
    story.given("new", ModelUnloaded())
    assert resolve(story.state, "new", "k") is None
