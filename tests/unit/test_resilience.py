"""What the loss of each node would leave without a place, from the decisions of a router."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nebula.actors.placement.capacity import Capacity
from nebula.actors.placement.resilience import Displaced, NodeLoss, Resilience
from nebula.events.intents import AdapterLoadRequested, AliasRequested, NodeDrainRequested
from nebula.events.memory import GIB
from nebula.events.state import State
from nebula.events.values import Device, Target
from nebula.events.vocabulary import NodeLost, NodeRegistered
from tests.unit.story import Story, Unsettled, cluster, gpus, load, messages


def losses(story: Story) -> dict[str, NodeLoss]:
    return {each.node: each for each in Resilience(story.state).losses()}


def only(story: Story, node: str) -> Displaced:
    (found,) = losses(story)[node].models
    return found


def test_a_model_that_has_room_elsewhere_is_told_where_it_would_go() -> None:
    story = cluster(n1=[80], n2=[40]).given("chat", load(1, "30GiB"))
    story.settles()
    story.runs("chat-0")
    assert only(story, "n1") == Displaced(
        model="chat", replicas=("chat-0",), places=("n2/gpu0",), serves=0
    )
    assert losses(story)["n1"].missing == 0
    assert losses(story)["n2"] == NodeLoss("n2")


def test_a_model_without_room_elsewhere_is_told_with_what_it_lacks() -> None:
    story = cluster(n1=[80], n2=[40]).given("chat", load(1, "60GiB"))
    story.settles()
    found = losses(story)["n1"]
    (chat,) = found.models
    assert (found.missing, found.memory) == (1, 60 * GIB)
    assert (chat.missing, chat.places, chat.need) == (1, (), 60 * GIB)
    assert chat.lacks == 60 * GIB - int(40 * GIB * 0.92)
    assert chat.reason.startswith("no device has room")


def test_replicas_that_serve_elsewhere_are_counted() -> None:
    story = cluster(n1=[80], n2=[80]).given("chat", load(2, "60GiB"))
    story.settles()
    story.runs("chat-0").runs("chat-1")
    chat = only(story, "n1")
    assert (chat.serves, chat.missing) == (1, 1)


def test_a_replica_that_may_be_on_one_node_only_lacks_no_memory_elsewhere() -> None:
    story = cluster(n1=[80], n2=[80]).given("chat", load(1, "8GiB", node="n1"))
    story.settles()
    chat = only(story, "n1")
    assert (chat.missing, chat.need, chat.lacks) == (1, 8 * GIB, 0)


def test_the_first_models_by_name_take_what_is_left() -> None:
    story = cluster(n1=[80], n2=[40])
    for model in ("a", "b", "c"):
        story.given(model, load(1, "15GiB", node="")).settles()
        story.given("n2", NodeDrainRequested())
    story = cluster(n1=[80]).given("a", load(1, "15GiB")).given("b", load(1, "15GiB"))
    story.given("c", load(1, "15GiB")).settles()
    story.given("n2", gpus(40))
    found = losses(story)["n1"]
    assert {each.model: each.missing for each in found.models} == {"a": 0, "b": 0, "c": 1}
    assert found.memory == 15 * GIB


def test_adapters_and_aliases_of_a_model_are_named() -> None:
    story = cluster(n1=[80]).given("chat", load(1, "8GiB", lora=True))
    story.given("chat", AdapterLoadRequested("sql", "/sql")).settles()
    story.given("prod", AliasRequested((Target("chat"),)))
    story.given("best", AliasRequested((Target("sql"),)))
    chat = only(story, "n1")
    assert (chat.adapters, chat.aliases) == (("sql",), ("best", "prod"))


def test_a_node_that_is_gone_already_is_not_asked_about() -> None:
    story = cluster(n1=[80], n2=[80]).given("n2", NodeLost())
    assert list(losses(story)) == ["n1"]


def test_a_draining_node_is_asked_about_but_takes_nothing() -> None:
    story = cluster(n1=[80], n2=[80]).given("n2", NodeDrainRequested())
    story.given("chat", load(1, "8GiB")).settles()
    assert only(story, "n1").missing == 1


def test_what_was_without_a_place_before_is_not_counted_for_the_loss() -> None:
    story = cluster(n1=[80], n2=[80]).given("chat", load(3, "60GiB"))
    story.settles()
    assert story.model().missing == 1
    assert only(story, "n1").missing == 1


def test_a_device_of_two_nodes_is_free_for_the_other_one_once_its_replicas_are_gone() -> None:
    shared = (Device(0, "gpu", "H100", 80 * GIB, identity="GPU-1"),)
    story = Story().given("n1", NodeRegistered(shared)).given("n2", NodeRegistered(shared))
    story.given("a", load(1, "60GiB", node="n1")).settles()
    story.given("b", load(1, "60GiB")).settles()
    assert story.model("b").missing == 1
    found = losses(story)["n1"]
    assert [(each.model, each.missing) for each in found.models] == [("a", 1)]


def decided(state: State, node: str) -> Story:
    """Let a router decide about the loss of a node, with every model looked at."""
    story = Story()
    story.state = replace(state, unsettled=state.unsettled.update(state.models))
    story.given(node, NodeLost()).settles()
    return story


@given(messages, st.sampled_from(["n1", "n2", "n3"]))
def test_it_says_what_a_router_would_decide(said: list[tuple[str, bytes]], node: str) -> None:
    story = cluster(n1=[16, 16], n2=[24], n3=[12, 8])
    for subject, payload in said:
        story.publish(subject, payload)
    try:
        story.settles()
        before = story.state
        if node not in before.nodes or before.nodes[node].away:
            return
        found = Resilience(before).loss(node)
        after = decided(before, node).state
    except Unsettled:
        return
    named = {each.model: each for each in found.models}
    for identity, model in before.models.items():
        then = after.models[identity]
        lacked = max(0, model.wanted - len(model.assignments))
        lacks = max(0, then.wanted - len(then.assignments))
        had = {each.replica for each in model.assignments}
        new = sorted(each.node for each in then.assignments if each.replica not in had)
        if identity in named:
            assert named[identity].missing == max(0, lacks - lacked)
            assert sorted(each.partition("/")[0] for each in named[identity].places) == new
        else:
            assert lacks <= lacked
            assert all(place.node != node for place in model.assignments)


@given(messages)
def test_room_that_is_followed_step_by_step_is_the_room_that_is_counted_anew(
    said: list[tuple[str, bytes]],
) -> None:
    story = cluster(n1=[16, 16], n2=[24], n3=[12, 8])
    capacity = Capacity()
    capacity.of(story.state)
    for subject, payload in said:
        story.publish(subject, payload).settles()
        fresh = Capacity().of(story.state)
        capacity.of(story.state)
        branch = capacity.branch()
        for node in sorted(story.state.nodes):
            other = Story()
            other.state = story.state
            other.given(node, NodeLost())
            branch = capacity.branch()
            branch.step(other.state, (node,))
            assert dict(branch.of(other.state)) == dict(Capacity().of(other.state))
        assert dict(capacity.of(story.state)) == dict(fresh)


@given(messages)
def test_what_is_certain_without_deciding_is_what_is_decided(
    said: list[tuple[str, bytes]],
) -> None:
    story = cluster(n1=[16, 16], n2=[48], n3=[24, 24])
    for subject, payload in said:
        story.publish(subject, payload)
        try:
            story.settles()
        except Unsettled:
            return
        known = Resilience(story.state)
        for node in known.nodes:
            if known.survives(node):
                assert known.loss(node).missing == 0


def test_a_cluster_with_much_room_is_certain_to_survive_and_a_full_one_is_not() -> None:
    story = cluster(n1=[80], n2=[80], n3=[80])
    for model in ("a", "b", "c", "d"):
        story.given(model, load(1, "20GiB")).settles()
    known = Resilience(story.state)
    assert [known.survives(node) for node in known.nodes] == [True, True, True]
    story.given("e", load(2, "50GiB")).settles()
    known = Resilience(story.state)
    assert not any(known.survives(node) for node in known.nodes)


def test_models_that_may_go_to_some_nodes_only_are_certain_where_these_have_room() -> None:
    story = Story().given("n1", gpus(80, zone="a")).given("n2", gpus(80, zone="a"))
    story.given("n3", gpus(80, zone="b")).given("n4", gpus(80))
    story.given("zoned", load(1, "20GiB", labels={"zone": "a"}))
    story.given("alone", load(1, "20GiB", labels={"zone": "b"}))
    story.given("apart", load(3, "20GiB", apart=("apart",))).settles()
    known = Resilience(story.state)
    for node in known.nodes:
        assert known.survives(node) == (node != "n3") == (known.loss(node).missing == 0)
