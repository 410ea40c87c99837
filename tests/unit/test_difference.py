"""What changed between two moments, in words."""

from __future__ import annotations

from hypothesis import given

from nebula.events.intents import (
    AdapterLoadRequested,
    AliasRemoveRequested,
    AliasRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
)
from nebula.events.values import Target
from nebula.events.vocabulary import AdapterLoaded, EngineFailed, NodeLost
from nebula.history.difference import Change, asked_otherwise, differences
from tests.unit.story import Story, cluster, gpus, load, messages


def base() -> Story:
    story = cluster(n1=[80]).given("chat", load(1, "8GiB", lora=True))
    story.settles()
    return story.runs("chat-0")


def test_what_came_is_told_as_a_whole() -> None:
    before = base().state
    story = base().given("n2", gpus(24))
    [change] = differences(before, story.state)
    assert change == Change(sign="+", aggregate="node", id="n2", after="devices gpu0 24.0 GiB")


def test_what_went_is_told_as_a_whole() -> None:
    story = base()
    before = story.state
    story.given("chat", ModelUnloadRequested()).stops("chat-0").settles()
    signs = [(each.sign, each.aggregate, each.id) for each in differences(before, story.state)]
    assert signs == [("-", "model", "chat"), ("-", "replica", "chat-0")]


def test_an_alias_that_has_moved_is_told() -> None:
    story = base().given("prod", AliasRequested((Target("chat"),), "prod/chat"))
    before = story.state
    story.given("prod", AliasRequested((Target("chat", 9), Target("new")), "prod/chat", "old"))
    assert differences(before, story.state) == [
        Change(
            sign="~",
            aggregate="alias",
            id="prod",
            field="targets",
            before="chat=1",
            after="chat=9, new=1",
        ),
        Change(
            sign="~", aggregate="alias", id="prod", field="mirror", before="nothing", after="old"
        ),
    ]
    story.given("prod", AliasRemoveRequested())
    [gone] = differences(before, story.state)
    assert gone == Change(
        sign="-", aggregate="alias", id="prod", before="name prod/chat, targets chat=1"
    )


def test_what_became_otherwise_is_told_field_by_field() -> None:
    story = base()
    before = story.state
    story.given("chat-0", EngineFailed("ValueError: no", 1, attempt=1, retry_in=2.0))
    found = {each.field: (each.before, each.after) for each in differences(before, story.state)}
    assert found["status"][0] == "ready"
    assert found["phase"] == ("ready", "failed")
    assert found["reason"] == ("nothing", "ValueError: no")
    assert {each.sign for each in differences(before, story.state)} == {"~"}


def test_all_that_is_asked_for_is_told() -> None:
    story = base()
    before = story.state
    story.given("chat", load(1, "9GiB", options={"x": 1}, max_in_flight=8, max_waiting=9))
    assert asked_otherwise("chat", before, story.state) == [
        Change(sign="~", aggregate="model", id="chat", field="memory", before="8GiB", after="9GiB"),
        Change(sign="~", aggregate="model", id="chat", field="lora", before="yes", after="no"),
        Change(
            sign="~", aggregate="model", id="chat", field="max in flight", before="256", after="8"
        ),
        Change(
            sign="~", aggregate="model", id="chat", field="max waiting", before="1024", after="9"
        ),
        Change(
            sign="~", aggregate="model", id="chat", field="options", before="nothing", after="x=1"
        ),
    ]
    assert asked_otherwise("nobody", before, story.state) == []


def test_all_devices_of_a_replica_are_told() -> None:
    two = {"tensor-parallel-size": 2}
    story = cluster(n1=[80, 80]).given("chat", load(1, "8GiB", options=two))
    before = story.state
    story.settles()
    changes = {
        (each.aggregate, each.field): each.after for each in differences(before, story.state)
    }
    assert changes["model", "placement"] == "chat-0 on n1/0+1"
    assert "device 0+1, " in changes["replica", ""]


def test_a_version_of_an_adapter_is_told_once_some_replica_answers_with_it() -> None:
    story = base().given("chat", AdapterLoadRequested("sql", "/sql"))
    asked, before = story.state.seq, story.state
    fields = {each.field for each in differences(base().state, story.state)}
    assert fields == {"adapters"}
    story.given("chat-0", AdapterLoaded("sql", "/sql", digest="ab" * 32, asked=asked))
    changes = {each.field: each.after for each in differences(before, story.state)}
    assert changes["versions"] == "sql=abababababab"


def test_counts_places_adapters_and_lost_nodes_are_told() -> None:
    story = base()
    before = story.state
    story.given("chat", ModelScaleRequested(2), AdapterLoadRequested("sql", "/a"))
    story.given("chat-0", AdapterLoaded("sql", "/a")).settles()
    story.given("n1", NodeLost())
    found = {
        (each.aggregate, each.id, each.field): (each.before, each.after)
        for each in differences(before, story.state)
    }
    assert found["model", "chat", "replicas"] == ("1", "2")
    assert found["model", "chat", "adapters"] == ("nothing", "sql=/a")
    assert found["model", "chat", "placement"] == (
        "chat-0 on n1/0",
        "chat-0 on n1/0, chat-1 on n1/0",
    )
    assert found["replica", "chat-0", "adapters"] == ("nothing", "sql")
    assert found["node", "n1", "lost"] == ("no", "yes")


@given(messages, messages)
def test_the_way_back_is_the_way_there_turned_round(
    one: list[tuple[str, bytes]], other: list[tuple[str, bytes]]
) -> None:
    a, b = Story(), Story()
    for subject, payload in one:
        a.publish(subject, payload)
    for subject, payload in other:
        b.publish(subject, payload)
    turned = {"+": "-", "-": "+", "~": "~"}
    assert [
        Change(
            sign=turned[each.sign],
            aggregate=each.aggregate,
            id=each.id,
            field=each.field,
            before=each.after,
            after=each.before,
        )
        for each in differences(a.state, b.state)
        if each.sign != "~"
    ] == [each for each in differences(b.state, a.state) if each.sign != "~"]
    assert {(e.id, e.field, e.before, e.after) for e in differences(a.state, b.state)} == {
        (e.id, e.field, e.after, e.before) for e in differences(b.state, a.state)
    }
    assert differences(a.state, a.state) == []


def test_a_replica_whose_engine_still_ends_is_told_to_be_retired() -> None:
    story = base()
    before = story.state
    story.given("chat", ModelScaleRequested(0)).settles()
    phases = [each for each in differences(before, story.state) if each.field == "phase"]
    assert phases == [
        Change(
            sign="~",
            aggregate="replica",
            id="chat-0",
            field="phase",
            before="ready",
            after="retired",
        )
    ]
