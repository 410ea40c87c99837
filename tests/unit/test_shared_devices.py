"""Two nodes on one machine: what both offer is promised once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.greeting import shared
from nebula.actors.placement.capacity import Capacity, twins
from nebula.actors.placement.decision import decide
from nebula.actors.placement.sizing import usable
from nebula.events.intents import ModelScaleRequested
from nebula.events.memory import GIB
from nebula.events.values import Device
from nebula.events.vocabulary import ModelUnschedulable, NodeRegistered
from tests.unit.story import Story, load

GPU = Device(0, "gpu", "x", 80 * GIB, "GPU-1")
OTHER = Device(0, "gpu", "x", 80 * GIB, "GPU-2")


def cluster(**nodes: Device) -> Story:
    story = Story()
    for name, device in nodes.items():
        story.given(name, NodeRegistered((device,)))
    return story


def where(story: Story, model: str) -> list[str]:
    return [place.node for place in story.state.models[model].assignments]


def test_what_one_node_holds_is_taken_for_the_other() -> None:
    story = cluster(n1=GPU, n2=GPU).given("a", load(memory="50GiB"))
    story.settles()
    told = story.given("b", load(memory="50GiB")).settles()
    assert isinstance(told[-1], ModelUnschedulable)
    assert "n2/gpu0 has 23.6 GiB left, needs 50.0 GiB (50.0 GiB of it are another node's" in (
        told[-1].reason
    )
    story.given("n3", NodeRegistered((OTHER,))).settles()
    assert where(story, "b") == ["n3"]


def test_what_one_plan_puts_on_a_shared_device_is_taken_for_the_other_node() -> None:
    story = cluster(n1=GPU, n2=GPU).given("a", load(2, memory="50GiB"))
    story.settles()
    assert where(story, "a") == ["n1"]
    assert story.state.models["a"].missing == 1


def test_a_room_that_is_remembered_shrinks_with_what_the_other_node_takes() -> None:
    story, fleet = cluster(n1=GPU, n2=GPU).given("a", load(memory="50GiB")), Capacity()
    before = fleet.of(story.state)["n2"]
    story.settles()
    assert where(story, "a") == ["n1"]
    after = fleet.of(story.state)["n2"]
    assert after == Capacity().of(story.state)["n2"]
    assert after.most == before.most - 50 * GIB


def test_two_nodes_may_share_a_device_and_what_goes_makes_room_for_the_other() -> None:
    story = cluster(n1=GPU, n2=GPU).given("a", load(2, memory="30GiB"))
    story.settles()
    assert where(story, "a") == ["n1", "n2"]
    story.given("b", load(memory="40GiB")).settles()
    assert where(story, "b") == []
    story.given("a", ModelScaleRequested(1)).settles()
    assert where(story, "b") == ["n1"]  # either would do


def test_what_was_promised_before_they_were_known_as_one_stays() -> None:
    bare = Device(0, "gpu", "x", 80 * GIB)
    story = cluster(n1=bare, n2=bare).given("a", load(2, memory="60GiB"))
    story.settles()
    assert where(story, "a") == ["n1", "n2"]
    story.runs("a-0").runs("a-1")
    story.given("n1", NodeRegistered((GPU,))).given("n2", NodeRegistered((GPU,)))
    assert decide(story.state) == ()


def test_a_larger_need_is_not_met_in_place_where_the_other_node_has_the_room() -> None:
    story = cluster(n1=GPU, n2=GPU).given("b", load(memory="30GiB"))
    story.settles()
    story.given("a", load(memory="30GiB")).settles()
    story.given("a", load(memory="60GiB")).settles()
    held = sum(replica.memory for replica in story.state.replicas.values())
    assert held <= usable(GPU)


def test_a_serving_replica_does_not_grow_in_place_into_what_the_other_node_has() -> None:
    story = cluster(n1=GPU, n2=GPU).given("a", load(memory="30GiB"))
    story.settles()
    story.given("b", load(memory="30GiB", node="n2")).settles()
    story.runs("a-0").runs("b-0")
    assert (where(story, "a"), where(story, "b")) == (["n1"], ["n2"])
    story.given("a", load(memory="50GiB")).settles()
    assert story.state.replicas["a-0"].memory == 30 * GIB
    assert story.state.models["a"].missing == 1


def test_it_is_known_which_nodes_share_a_device() -> None:
    state = cluster(n1=GPU, n2=GPU, n3=OTHER).state
    assert twins(state) == {("n1", 0): (("n2", 0),), ("n2", 0): (("n1", 0),)}
    assert shared("n1", twins(state)) == (
        "what it offers is on the same machine as node n2: plans count each device once"
    )
    assert shared("n3", twins(state)) == ""


@given(
    st.lists(
        st.sampled_from([GPU, OTHER, Device(0, "gpu", "x", 80 * GIB)]), min_size=1, max_size=4
    ),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 80)), max_size=5),
)
def test_no_device_is_promised_more_than_it_has(
    offers: list[Device], wishes: list[tuple[int, int]]
) -> None:
    story = cluster(**{f"n{number}": device for number, device in enumerate(offers)})
    for number, (replicas, gib) in enumerate(wishes):
        story.given(f"m{number}", load(replicas, memory=f"{gib}GiB"))
        story.settles()
    held: dict[str, int] = {}
    for replica in story.state.replicas.values():
        device = story.state.nodes[replica.node].devices[0]
        key = device.identity or replica.node
        held[key] = held.get(key, 0) + replica.memory
    assert all(size <= usable(GPU) for size in held.values())
