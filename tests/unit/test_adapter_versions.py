"""What an adapter's name stands for: one version, moved when all have the next, or not at all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.node.reconciliation import LoadAdapter, Running, UnloadAdapter, reconcile
from nebula.actors.router.routing import able, hopeless, moved_on
from nebula.events.adapter_status import adapter_status
from nebula.events.inference import Request
from nebula.events.intents import AdapterLoadRequested, AdapterUnloadRequested, ModelLoadRequested
from nebula.events.state import NameBinding, Offer, Replica
from nebula.events.values import Adapter
from nebula.events.vocabulary import (
    AdapterLoaded,
    AdapterLoadFailed,
    AdapterUnloaded,
    EngineFailed,
    EngineReady,
    EngineStarted,
    NodeDeregistered,
)
from tests.unit.story import Story, cluster, load

OLD, NEW, OTHER = "a" * 64, "b" * 64, "c" * 64


def serving(replicas: int = 2) -> Story:
    story = cluster(n1=[80], n2=[80]).given("chat", load(replicas, "8GiB", lora=True))
    story.settles()
    for number in range(replicas):
        story.runs(f"chat-{number}")
    return story


def ask(story: Story, source: str = "/sql") -> int:
    story.given("chat", AdapterLoadRequested("sql", source))
    return story.state.seq


def loaded(story: Story, replica: str, digest: str, asked: int, source: str = "/sql") -> None:
    story.given(replica, AdapterLoaded("sql", source, digest=digest, asked=asked))


def failed(story: Story, replica: str, reason: str, asked: int, source: str = "/sql") -> None:
    story.given(replica, AdapterLoadFailed("sql", source, reason, asked=asked))


def offer(story: Story) -> Offer:
    return story.state.models["chat"].offers["sql"]


def answering(story: Story) -> list[str]:
    return [each.id for each in able(story.state, story.state.models["chat"], "sql")]


def due(story: Story, replica: str) -> list[LoadAdapter | UnloadAdapter]:
    known: Replica = story.state.replicas[replica]
    engine = Running(replica, known.version, known.devices, ready=True, told=True)
    actions = reconcile(story.state, [known], {replica: engine}, {}, 0.0)
    assert all(isinstance(each, LoadAdapter | UnloadAdapter) for each in actions)
    return [each for each in actions if isinstance(each, LoadAdapter | UnloadAdapter)]


def settled(replicas: int = 2) -> tuple[Story, int]:
    """An adapter whose version OLD all replicas serve, and the request that brought it."""
    story = serving(replicas)
    asked = ask(story)
    for number in range(replicas):
        loaded(story, f"chat-{number}", OLD, asked)
    assert offer(story) == Offer(asked, asked, "/sql", OLD)
    return story, asked


def test_the_first_replica_that_has_an_adapter_serves_it_at_once() -> None:
    story = serving()
    asked = ask(story)
    assert answering(story) == []
    loaded(story, "chat-1", OLD, asked)
    assert answering(story) == ["chat-1"]
    assert due(story, "chat-0") == [LoadAdapter("chat-0", "sql", "/sql", OLD, asked)]


def test_the_same_request_again_reads_the_files_again() -> None:
    story, _ = settled()
    again = ask(story)
    assert due(story, "chat-0") == [LoadAdapter("chat-0", "sql", "/sql", "", again)]
    loaded(story, "chat-0", OLD, again)
    assert offer(story).pending
    loaded(story, "chat-1", OLD, again)
    assert offer(story) == Offer(again, again, "/sql", OLD)
    assert due(story, "chat-0") == due(story, "chat-1") == []


def test_a_name_moves_when_the_last_that_serves_it_has_the_new_version() -> None:
    story, _ = settled()
    asked = ask(story, "/better")
    loaded(story, "chat-0", NEW, asked, "/better")
    assert offer(story).digest == OLD
    assert answering(story) == ["chat-0", "chat-1"]
    assert due(story, "chat-0") == [], "the old one serves still"
    assert due(story, "chat-1") == [LoadAdapter("chat-1", "sql", "/better", NEW, asked)]
    loaded(story, "chat-1", NEW, asked, "/better")
    assert offer(story) == Offer(asked, asked, "/better", NEW)
    assert answering(story) == ["chat-0", "chat-1"]
    assert due(story, "chat-0") == [UnloadAdapter("chat-0", "sql", OLD)]
    story.given("chat-0", AdapterUnloaded("sql", digest=OLD))
    assert due(story, "chat-0") == []
    assert answering(story) == ["chat-0", "chat-1"]


def test_what_one_replica_can_t_load_changes_nothing_and_is_told() -> None:
    story, before = settled()
    asked = ask(story, "/broken")
    loaded(story, "chat-0", NEW, asked, "/broken")
    failed(story, "chat-1", "rank 64", asked, "/broken")
    kept = offer(story)
    assert (kept.asked, kept.served, kept.source, kept.digest) == (before, before, "/sql", OLD)
    assert (kept.tried, kept.refused) == (asked, "/broken")
    assert story.state.models["chat"].adapters == {"sql": "/sql"}
    assert answering(story) == ["chat-0", "chat-1"]
    assert due(story, "chat-0") == [UnloadAdapter("chat-0", "sql", NEW)]
    assert due(story, "chat-1") == []
    stands = adapter_status(story.state, story.state.models["chat"], "sql")
    assert (stands.loaded, stands.version, stands.waiting) == (2, OLD, ())
    assert stands.reason == ("aaaaaaaaaaaa stays, /broken was not taken: chat-1 on n2: rank 64")
    again = ask(story, "/mended")
    for replica in ("chat-0", "chat-1"):
        loaded(story, replica, NEW, again, "/mended")
    assert offer(story) == Offer(again, again, "/mended", NEW)


def test_an_engine_that_comes_back_may_fail_at_either_version_and_says_which() -> None:
    """It loads what the name stands for, then what was asked for since: both answers count."""
    story, served = settled()
    asked = ask(story, "/better")
    failed(story, "chat-0", "too large", asked - 1)
    assert not story.replica().adapters["sql"].reason  # that was not requested
    story.given("chat-0", EngineFailed("killed", -9, retry_in=1.0)).runs("chat-0")
    failed(story, "chat-0", "no such file", served)
    assert story.replica().adapters["sql"].reason == "no such file"
    assert story.replica().adapters["sql"].asked == served
    failed(story, "chat-0", "too large", asked, "/better")
    assert story.replica().adapters["sql"].reason == "too large"


def test_what_was_loaded_for_a_request_that_another_has_overtaken_goes() -> None:
    story, _ = settled()
    loaded(story, "chat-0", NEW, ask(story, "/better"), "/better")
    asked = ask(story, "/best")
    assert due(story, "chat-0") == [
        LoadAdapter("chat-0", "sql", "/best", "", asked),
        UnloadAdapter("chat-0", "sql", NEW),
    ]
    assert due(story, "chat-1") == [LoadAdapter("chat-1", "sql", "/best", "", asked)]


def test_a_version_is_taken_from_a_replica_that_has_found_it_and_not_from_one_that_failed() -> None:
    story = serving(3)
    asked = ask(story)
    failed(story, "chat-0", "no such file", asked)
    for replica in ("chat-1", "chat-2"):
        loaded(story, replica, OLD, asked)
    asked = ask(story)
    failed(story, "chat-0", "no such file", asked)
    loaded(story, "chat-1", NEW, asked)
    assert offer(story).pending  # one that never had it has no say
    assert due(story, "chat-2") == [LoadAdapter("chat-2", "sql", "/sql", NEW, asked)]


def test_requesting_one_adapter_again_forgives_no_other() -> None:
    story = serving(1)
    for name in ("sql", "poet"):
        story.given("chat", AdapterLoadRequested(name, f"/{name}"))
        story.given("chat-0", AdapterLoadFailed(name, f"/{name}", "no", asked=story.state.seq))
    story.given("chat", AdapterLoadRequested("sql", "/sql"))
    assert set(story.replica().adapters) == {"poet"}
    assert story.replica().adapters["poet"].reason == "no"


def test_files_that_differ_between_nodes_are_taken_nowhere() -> None:
    story, _ = settled()
    asked = ask(story)
    loaded(story, "chat-0", NEW, asked)
    loaded(story, "chat-1", OTHER, asked)
    assert offer(story).digest == OLD
    assert offer(story).kept == (
        f"its files are not the same everywhere: chat-0 on n1 found {NEW[:12]}, "
        f"chat-1 on n2 found {OTHER[:12]}: "
        "make them the same on all nodes, then ask for the adapter again"
    )
    assert answering(story) == ["chat-0", "chat-1"]


def test_of_two_that_bring_an_adapter_first_at_once_the_first_is_what_it_is() -> None:
    story = serving()
    asked = ask(story)
    loaded(story, "chat-1", OLD, asked)
    loaded(story, "chat-0", NEW, asked)
    assert answering(story) == ["chat-1"]
    stands = adapter_status(story.state, story.state.models["chat"], "sql")
    assert stands.loaded == 1
    assert stands.reason == (
        "chat-0 on n1: its files on n1 are version bbbbbbbbbbbb, and aaaaaaaaaaaa is wanted: "
        "make them the same on all nodes, then ask for the adapter again"
    )
    assert due(story, "chat-0") == [UnloadAdapter("chat-0", "sql", NEW)]
    story.given("chat-0", AdapterUnloaded("sql", digest=NEW))
    assert due(story, "chat-0") == [], "until it is asked for again"


def test_one_without_a_say_that_finds_other_files_again_is_told_the_same() -> None:
    story = serving()
    asked = ask(story)
    loaded(story, "chat-1", OLD, asked)
    loaded(story, "chat-0", NEW, asked)
    story.given("chat-0", AdapterUnloaded("sql", digest=NEW))
    told = adapter_status(story.state, story.state.models["chat"], "sql").reason
    again = ask(story)
    loaded(story, "chat-0", NEW, again)
    loaded(story, "chat-1", OLD, again)
    assert offer(story) == Offer(again, again, "/sql", OLD)
    stands = adapter_status(story.state, story.state.models["chat"], "sql")
    assert (stands.loaded, stands.reason) == (1, told)
    story.given("chat-0", AdapterUnloaded("sql", digest=NEW))

    mended = ask(story)
    loaded(story, "chat-0", NEW, mended)
    loaded(story, "chat-1", NEW, mended)
    stands = adapter_status(story.state, story.state.models["chat"], "sql")
    assert (stands.loaded, stands.reason) == (2, "")


def restarted(story: Story, replica: str) -> None:
    story.given(replica, EngineFailed("killed", 9, (), 1, 1.0))
    version = story.state.replicas[replica].version
    story.given(replica, EngineStarted(9, 1.0, 8001, "/log", version, 2))
    story.given(replica, EngineReady("0.32.0", 1.0))


def test_an_engine_that_comes_back_must_have_the_version_that_serves() -> None:
    story, asked = settled()
    restarted(story, "chat-1")
    assert answering(story) == ["chat-0"]
    assert due(story, "chat-1") == [LoadAdapter("chat-1", "sql", "/sql", OLD, asked)]
    failed(story, "chat-1", "its files are another version", asked)
    assert due(story, "chat-1") == []
    assert answering(story) == ["chat-0"]
    stands = adapter_status(story.state, story.state.models["chat"], "sql")
    assert (stands.loaded, stands.serving) == (1, 2)
    assert stands.reason == "chat-1 on n2: its files are another version"


def test_an_engine_that_fails_amid_a_change_delays_no_other() -> None:
    story, before = settled()
    asked = ask(story)
    loaded(story, "chat-0", NEW, asked)
    story.given("chat-1", EngineFailed("killed", 9, (), 1, 1.0))
    assert offer(story) == Offer(asked, asked, "/sql", NEW)
    assert answering(story) == ["chat-0"]
    assert before < asked


def test_a_node_that_leaves_amid_a_change_delays_no_other() -> None:
    story, _ = settled()
    asked = ask(story)
    loaded(story, "chat-0", NEW, asked)
    story.given("n2", NodeDeregistered())
    assert offer(story) == Offer(asked, asked, "/sql", NEW)


def test_one_that_never_had_the_adapter_has_no_say_in_its_next_version() -> None:
    story = serving()
    first = ask(story)
    loaded(story, "chat-0", OLD, first)
    failed(story, "chat-1", "no such folder", first)
    asked = ask(story)
    failed(story, "chat-1", "no such folder", asked)
    assert offer(story).digest == OLD
    loaded(story, "chat-0", NEW, asked)
    assert offer(story) == Offer(asked, asked, "/sql", NEW)
    assert answering(story) == ["chat-0"]


def test_while_the_only_one_that_has_it_restarts_requests_wait() -> None:
    story = serving()
    asked = ask(story)
    loaded(story, "chat-0", OLD, asked)
    failed(story, "chat-1", "no such folder", asked)
    named = NameBinding("chat", "sql")
    assert hopeless(story.state, named) is None
    story.given("chat-0", EngineFailed("killed", 9, (), 1, 1.0))
    assert hopeless(story.state, named) is None, "it comes back"
    story.given("chat-0", EngineFailed("killed", 9, (), 3, None))
    assert hopeless(story.state, named) == (
        "adapter 'sql' could not be loaded: chat-1 on n2: no such folder"
    )


def test_an_adapter_that_is_taken_off_and_asked_for_again_begins_anew() -> None:
    story, _ = settled(1)
    story.given("chat", AdapterUnloadRequested("sql"))
    assert due(story, "chat-0") == [UnloadAdapter("chat-0", "sql")]
    story.given("chat-0", AdapterUnloaded("sql"))
    asked = ask(story)
    loaded(story, "chat-0", NEW, asked)
    assert offer(story) == Offer(asked, asked, "/sql", NEW)


def test_what_an_older_node_tells_counts_as_the_version_that_serves() -> None:
    story = serving()
    asked = ask(story)
    story.given("chat-0", AdapterLoaded("sql", "/sql")).given(
        "chat-1", AdapterLoaded("sql", "/sql")
    )
    assert offer(story) == Offer(asked, asked, "/sql")
    assert answering(story) == ["chat-0", "chat-1"]
    assert due(story, "chat-0") == []
    restarted(story, "chat-1")
    loaded(story, "chat-1", OLD, asked)
    assert answering(story) == ["chat-0", "chat-1"]
    assert offer(story).digest == OLD


def test_a_request_for_the_model_asks_for_its_adapters_too() -> None:
    story, _ = settled(1)
    request: ModelLoadRequested = load(1, "8GiB", lora=True, adapters=(Adapter("sql", "/sql"),))
    story.given("chat", request)
    assert due(story, "chat-0") == [LoadAdapter("chat-0", "sql", "/sql", "", story.state.seq)]


def test_what_is_left_of_an_answer_comes_from_the_version_that_began_it_or_not_at_all() -> None:
    story, _ = settled(1)
    rest = Request("r", "g", "chat", "/v1/completions", b"", adapter="sql", version=OLD)
    assert moved_on(story.state, rest) is None
    asked = ask(story)
    loaded(story, "chat-0", NEW, asked)
    assert "another version by now, bbbbbbbbbbbb" in (moved_on(story.state, rest) or "")
    assert moved_on(story.state, Request("r", "g", "chat", "/", b"", adapter="sql")) is None


REPLICAS = ("chat-0", "chat-1")
steps = st.lists(
    st.one_of(
        st.just(("ask", "", "")),
        st.tuples(st.just("loaded"), st.sampled_from(REPLICAS), st.sampled_from([OLD, NEW])),
        st.tuples(st.just("failed"), st.sampled_from(REPLICAS), st.just("")),
        st.tuples(st.just("restart"), st.sampled_from(REPLICAS), st.just("")),
    ),
    max_size=14,
)


@given(steps)
def test_a_name_stands_for_one_version_and_is_never_lost_while_one_serves_it(
    told: list[tuple[str, str, str]],
) -> None:
    story = serving()
    asked = ask(story)
    for what, replica, digest in told:
        before = answering(story)
        match what:
            case "ask":
                asked = ask(story)
            case "loaded":
                loaded(story, replica, digest, asked)
            case "failed":
                failed(story, replica, "broken", asked)
            case _:
                restarted(story, replica)
        now = offer(story)
        able_now = answering(story)
        for each in able_now:
            assert now.digest in story.state.replicas[each].adapters["sql"].held
        if what != "restart" and before:
            assert able_now, "what served goes on serving, in this or another version"
