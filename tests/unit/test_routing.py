"""Which replica a router sends a request to."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.router.routing import CACHE_FULL, SLACK, able, choose, hopeless, progress, served
from nebula.events.inference import Doubt, ReplicaCandidate
from nebula.events.intents import AdapterLoadRequested, ModelScaleRequested, ModelUnloadRequested
from nebula.events.state import NameBinding
from nebula.events.values import Adapter, Assignment
from nebula.events.vocabulary import AdapterLoaded, AdapterLoadFailed, EngineStarted, ModelAssigned
from tests.unit.story import SECOND, Story, cluster, load

LIMIT = 256
SQL = Adapter("sql", "/a")
KEYS = [f"key {number}" for number in range(100)]
candidate = st.builds(
    ReplicaCandidate,
    st.text(min_size=1, max_size=3),
    st.integers(0, 12),
    st.booleans(),
    st.integers(0, 5),
    st.sampled_from([0.0, 0.5, CACHE_FULL, 1.0]),
    st.sampled_from([0, 0, 256, 512, 4096]),
    st.sampled_from(["", Doubt.FAILED, Doubt.TRIED, Doubt.SILENT, Doubt.STALLED]),
)
MUTE = (Doubt.SILENT, Doubt.STALLED)
candidates = st.lists(candidate, max_size=8, unique_by=lambda each: each.replica)
limits = st.integers(1, 14)
keys = st.text(max_size=5)


# The choice


def test_without_replicas_none_is_chosen() -> None:
    assert choose([], "key", LIMIT) is None


def test_the_least_busy_replica_is_chosen_whatever_the_key() -> None:
    busy = [ReplicaCandidate("a", 3), ReplicaCandidate("b", 1), ReplicaCandidate("c", 2)]
    assert {choose(busy, key, LIMIT) for key in KEYS} == {"b"}


def test_requests_that_the_engine_itself_holds_back_weigh_twice() -> None:
    assert (
        choose([ReplicaCandidate("a", 3, waiting=2), ReplicaCandidate("b", 4)], "key", LIMIT) == "b"
    )
    assert (
        choose([ReplicaCandidate("a", 3, waiting=2), ReplicaCandidate("b", 6)], "key", LIMIT) == "a"
    )


def test_an_avoided_replica_is_chosen_only_where_no_other_is_left() -> None:
    idle_but_avoided = ReplicaCandidate("a", 0, avoided=True)
    assert choose([idle_but_avoided, ReplicaCandidate("b", 9)], "key", LIMIT) == "b"
    assert choose([idle_but_avoided], "key", LIMIT) == "a"


def test_no_replica_that_has_failed_requests_stands_idle_beside_a_line() -> None:
    failed, tried = avoided("a", Doubt.FAILED), avoided("b", Doubt.TRIED)
    full = ReplicaCandidate("c", LIMIT)
    assert choose([tried, failed, full], "key", LIMIT) == "a"
    assert choose([tried, full], "key", LIMIT) == "b"


def test_a_request_waits_for_another_rather_than_go_where_nothing_is_heard() -> None:
    for doubt in MUTE:
        assert choose([avoided("a", doubt), ReplicaCandidate("c", LIMIT)], "key", LIMIT) is None
        assert choose([avoided("a", doubt), avoided("b", Doubt.FAILED)], "key", LIMIT) == "b"
    assert choose([avoided("a", Doubt.SILENT)], "key", LIMIT) == "a"
    assert choose([avoided("a", Doubt.STALLED)], "key", LIMIT) is None, (
        "it has to show progress first"
    )


def test_a_replica_that_has_its_fill_gets_nothing_more() -> None:
    assert choose([ReplicaCandidate("a", 2), ReplicaCandidate("b", 3)], "key", 2) is None
    assert choose([ReplicaCandidate("a", 2), ReplicaCandidate("b", 1)], "key", 2) == "b"


def test_what_the_engine_holds_back_does_not_count_towards_the_limit() -> None:
    assert choose([ReplicaCandidate("a", 1, waiting=9)], "key", 2) == "a"


def test_the_replica_that_has_seen_most_of_the_prompt_is_chosen_though_it_is_busier() -> None:
    known = [
        ReplicaCandidate("a", 0),
        ReplicaCandidate("b", 1, prefix=256),
        ReplicaCandidate("c", 2, prefix=1024),
    ]
    assert choose(known, "key", LIMIT) == "c"


def test_of_those_that_have_seen_as_much_the_least_busy_is_chosen() -> None:
    known = [
        ReplicaCandidate("a", 3, prefix=256),
        ReplicaCandidate("b", 2, prefix=256),
        ReplicaCandidate("c", 0),
    ]
    assert choose(known, "key", LIMIT) == "b"


def test_a_replica_that_is_clearly_busier_is_not_chosen_for_what_it_has_seen() -> None:
    def with_load(load: int, least: int) -> str | None:
        return choose(
            [ReplicaCandidate("a", load, prefix=4096), ReplicaCandidate("b", least)], "key", LIMIT
        )

    assert with_load(SLACK, least=0) == "a"
    assert with_load(SLACK + 1, least=0) == "b"
    assert with_load(2 * 10 + SLACK, least=10) == "a"
    assert with_load(2 * 10 + SLACK + 1, least=10) == "b"


def test_a_full_cache_yields_to_one_with_room_that_has_seen_less() -> None:
    full = ReplicaCandidate("a", 0, cache=CACHE_FULL, prefix=4096)
    assert (
        choose([full, ReplicaCandidate("b", 1, prefix=256), ReplicaCandidate("c", 0)], "key", LIMIT)
        == "b"
    )


def test_a_full_cache_that_holds_the_prompt_is_better_than_one_that_has_not_seen_it() -> None:
    full = ReplicaCandidate("a", 1, cache=1.0, prefix=4096)
    assert choose([full, ReplicaCandidate("b", 0)], "key", LIMIT) == "a"


def test_what_an_avoided_or_a_full_replica_has_seen_is_of_no_use() -> None:
    avoided = ReplicaCandidate("a", 0, avoided=True, prefix=4096)
    full = ReplicaCandidate("b", 4, prefix=4096)
    assert choose([avoided, full, ReplicaCandidate("c", 3)], "key", 4) == "c"


def test_of_equals_each_key_draws_its_own() -> None:
    equal = [ReplicaCandidate(name, 1) for name in "abcd"]
    drawn = Counter(choose(equal, key, LIMIT) for key in KEYS)
    assert set(drawn) == set("abcd")
    assert max(drawn.values()) < 50


def test_where_one_of_equals_goes_only_its_own_keys_go_elsewhere() -> None:
    equal = [ReplicaCandidate(name, 1) for name in "abcd"]
    for key in KEYS:
        before = choose(equal, key, LIMIT)
        assert before == "d" or choose(equal[:3], key, LIMIT) == before


@given(candidates, keys, limits, st.randoms(use_true_random=False))
def test_all_routers_choose_alike_in_whatever_order_they_know_the_replicas(
    known: list[ReplicaCandidate], key: str, limit: int, random: Random
) -> None:
    shuffled = random.sample(known, len(known))
    assert choose(shuffled, key, limit) == choose(known, key, limit)


@given(candidates, keys, limits)
def test_the_choice_is_a_candidate_with_room(
    known: list[ReplicaCandidate], key: str, limit: int
) -> None:
    chosen = choose(known, key, limit)
    assert chosen is None or chosen in {each.replica for each in known if each.in_flight < limit}


def avoided(replica: str, doubt: str, **fields: int) -> ReplicaCandidate:
    return ReplicaCandidate(replica, avoided=True, doubt=doubt, **{"in_flight": 0, **fields})


def heard(known: list[ReplicaCandidate]) -> list[ReplicaCandidate]:
    """Those that are heard from, or all where there are none such; none that stands still."""
    known = [each for each in known if not (each.avoided and each.doubt == Doubt.STALLED)]
    return [each for each in known if not (each.avoided and each.doubt in MUTE)] or known


@given(candidates, keys, limits)
def test_no_replica_is_chosen_only_if_all_that_are_heard_from_have_their_fill(
    known: list[ReplicaCandidate], key: str, limit: int
) -> None:
    room = any(each.in_flight < limit for each in heard(known))
    assert (choose(known, key, limit) is not None) == room


@given(candidates, keys, limits)
def test_an_avoided_replica_is_chosen_only_where_those_that_are_not_have_their_fill(
    known: list[ReplicaCandidate], key: str, limit: int
) -> None:
    chosen = choose(known, key, limit)
    well = [each for each in known if not each.avoided and each.in_flight < limit]
    assert not well or chosen in {each.replica for each in well}


@given(candidates, keys, limits)
def test_no_replica_is_chosen_that_is_much_busier_than_the_least_busy(
    known: list[ReplicaCandidate], key: str, limit: int
) -> None:
    chosen = choose(known, key, limit)
    loads = {each.replica: each.load for each in known if each.in_flight < limit}
    well = {each.replica for each in known if not each.avoided} & loads.keys()
    assert chosen not in well or loads[chosen] <= 2 * min(loads[each] for each in well) + SLACK


@given(candidates, keys, limits)
def test_where_no_replica_has_seen_the_prompt_the_least_busy_is_chosen(
    known: list[ReplicaCandidate], key: str, limit: int
) -> None:
    unseen = [
        ReplicaCandidate(each.replica, each.in_flight, waiting=each.waiting) for each in known
    ]
    chosen = choose(unseen, key, limit)
    loads = {each.replica: each.load for each in unseen if each.in_flight < limit}
    assert chosen is None or loads[chosen] == min(loads.values())


# Which replicas can be asked


def serving(replicas: int = 3) -> Story:
    story = cluster(alpha=[80]).given("chat", load(replicas, "8GiB", lora=True))
    story.settles()
    for number in range(replicas):
        story.runs(f"chat-{number}")
    return story


def names(story: Story, adapter: str = "") -> list[str]:
    found = [replica.id for replica in able(story.state, story.model(), adapter)]
    assert served(story.state, story.model(), adapter) == bool(found)
    return found


def test_only_replicas_whose_engine_is_ready_are_able() -> None:
    story = serving().runs("chat-0", ready=False).stops("chat-1")
    assert names(story) == ["chat-2"]


def test_neither_a_retired_replica_nor_one_of_an_older_plan_is_able() -> None:
    story = serving()
    story.given("chat", ModelScaleRequested(2)).settles()
    assert names(story) == ["chat-0", "chat-1"]
    story.given("chat", ModelAssigned(9, (Assignment("chat-0", "alpha", (0,), 2**30, 9),)))
    assert names(story) == ["chat-0", "chat-1"], "no plan skips a version"
    version = story.model().version + 1
    place = Assignment("chat-0", "alpha", (0,), 2**30, version)
    story.given("chat", ModelAssigned(version, (place,)))
    assert names(story) == []


def test_replicas_that_are_being_replaced_serve_until_others_do() -> None:
    story = serving(1)
    story.given("chat", load(1, "9GiB", lora=True)).settles()
    assert names(story) == ["chat-0"]
    story.runs("chat-1").settles()
    assert names(story) == ["chat-1"]


def test_of_a_renamed_model_only_engines_that_know_its_new_name_are_able() -> None:
    story = serving(1).given("chat", AdapterLoadRequested("sql", "/a"))
    story.given("chat-0", AdapterLoaded("sql", "/a"))
    story.given("chat", load(1, "8GiB", lora=True, name="org/new", adapters=(SQL,))).settles()
    assert (names(story), names(story, "sql")) == ([], ["chat-0"])
    assert hopeless(story.state, NameBinding("chat")) is None, (
        "it is worth waiting for the next one"
    )
    story.runs("chat-1")
    assert names(story) == ["chat-1"]


def test_for_an_adapter_only_replicas_that_have_it_are_able() -> None:
    story = serving().given("chat", AdapterLoadRequested("sql", "/a"))
    story.given("chat-0", AdapterLoaded("sql", "/a"))
    story.given("chat-1", AdapterLoadFailed("sql", "/a", "too large"))
    assert names(story, "sql") == ["chat-0"]
    assert names(story) == ["chat-0", "chat-1", "chat-2"]
    assert names(story, "unknown") == []


# What is worth waiting for


def test_a_model_that_serves_or_is_on_its_way_is_worth_waiting_for() -> None:
    starting = cluster(alpha=[80]).given("chat", load(1, "8GiB"))
    assert hopeless(starting.state, NameBinding("chat")) is None
    starting.settles()
    assert hopeless(starting.state, NameBinding("chat")) is None
    assert hopeless(starting.runs("chat-0").state, NameBinding("chat")) is None
    assert hopeless(starting.stops("chat-0").state, NameBinding("chat")) is None


def test_a_model_that_is_gone_or_goes_is_not() -> None:
    story = serving(1).given("chat", ModelUnloadRequested())
    assert hopeless(story.state, NameBinding("chat")) == "model 'chat' has been unloaded"
    assert (
        hopeless(story.state, NameBinding("never-there")) == "model 'never-there' has been unloaded"
    )


def test_a_model_whose_engines_were_all_given_up_is_not_and_says_why() -> None:
    story = serving(1).gives_up("chat-0")
    said = hopeless(story.state, NameBinding("chat"))
    assert said is not None
    assert said.startswith("model 'chat' is not served: chat-0 on alpha gave up after 3 attempts")


def test_a_model_that_is_scaled_to_nothing_is_not() -> None:
    story = serving(1).given("chat", ModelScaleRequested(0))
    story.settles()
    story.stops("chat-0").settles()
    assert hopeless(story.state, NameBinding("chat")) == (
        "model 'chat' is not served: it is scaled to 0 replicas"
    )


def test_an_adapter_that_every_replica_refused_is_not_while_one_that_loads_is() -> None:
    story = serving(2).given("chat", AdapterLoadRequested("sql", "/a"))
    story.given("chat-0", AdapterLoadFailed("sql", "/a", "rank too large"))
    assert hopeless(story.state, NameBinding("chat", "sql")) is None
    story.given("chat-1", AdapterLoadFailed("sql", "/a", "rank too large"))
    assert hopeless(story.state, NameBinding("chat", "sql")) == (
        "adapter 'sql' could not be loaded: chat-0 on alpha: rank too large "
        "(likewise chat-1 on alpha)"
    )
    assert hopeless(story.state, NameBinding("chat")) is None


def test_one_that_waits_hears_how_far_the_model_is_and_for_how_long() -> None:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB"))
    story.settles()
    assert progress(story.state, NameBinding("chat"), 0) == (
        "model 'chat' is loading: chat-0 on alpha waits to be started"
    )
    story.given("chat-0", EngineStarted(7, 1.0, 8001, "/log", 1))
    now = story.state.time + 90 * SECOND
    assert progress(story.state, NameBinding("chat"), now) == (
        "model 'chat' is loading for 90 s: chat-0 on alpha is starting (attempt 1)"
    )
    assert progress(story.state, NameBinding("gone"), now) == "model 'gone' has been unloaded"


def test_one_that_waits_for_an_adapter_hears_that_it_is_the_adapter() -> None:
    story = serving(1).given("chat", AdapterLoadRequested("sql", "/a"))
    assert progress(story.state, NameBinding("chat", "sql"), 0) == "adapter 'sql' is loading"
