"""What a load request may say of its place, and why candidates are not chosen."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nebula.actors.placement.candidates import best, weigh, why_not
from nebula.actors.placement.capacity import Capacity
from nebula.actors.placement.planning import plan
from nebula.actors.placement.requirements import Requirements
from nebula.actors.placement.sizing import need, usable
from nebula.events.intents import (
    ModelLoadRequested,
    ModelScaleRequested,
    NodeDrainRequested,
    WeightsRemoveRequested,
)
from nebula.events.memory import GIB
from nebula.events.values import Device, OptionValue, Policy, Weights
from nebula.events.vocabulary import (
    ModelAssigned,
    ModelMeasured,
    ModelUnschedulable,
    NodeRegistered,
)
from tests.unit.story import Story, cluster, gpus, load, promised


def cpu(gib: int, **fields: object) -> NodeRegistered:
    return NodeRegistered((Device(0, "cpu", "x86_64", gib * GIB),), **fields)  # type: ignore[arg-type]


def refused(story: Story) -> ModelUnschedulable:
    """Return what a model is told that is placed nowhere."""
    (told,) = story.settles()
    assert isinstance(told, ModelUnschedulable)
    return told


def losers(story: Story) -> list[str]:
    """Return why each candidate of the last choice can't be taken."""
    choices = plan(story.state, story.model(), tell=True).choices
    return [each.unfit for each in choices[-1].candidates]


# Binpack


def test_binpack_fills_the_device_with_the_least_room_that_suffices() -> None:
    story = cluster(alpha=[80, 24], beta=[16, 8]).given("chat", load(3, "8GiB", policy="binpack"))
    story.settles()
    assert story.places() == {"chat-0": "beta/0", "chat-1": "alpha/1", "chat-2": "alpha/1"}


# Labels


def test_only_a_node_that_carries_all_labels_is_taken() -> None:
    story = Story().given("alpha", gpus(80)).given("beta", gpus(24, gpu="h100", zone="a"))
    story.given("chat", load(2, "8GiB", labels={"gpu": "h100", "zone": "a"})).settles()
    assert set(story.places().values()) == {"beta/0"}


def test_a_label_without_a_node_is_told_and_waited_for() -> None:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB", labels={"gpu": "h200"}))
    assert refused(story).reason == ("no node carries gpu=h200: alpha does not carry gpu=h200")
    story.given("beta", gpus(24, gpu="h200")).settles()
    assert story.places() == {"chat-0": "beta/0"}


def test_a_node_with_the_label_that_takes_nothing_now_is_named() -> None:
    story = cluster(alpha=[80]).given("beta", gpus(24, gpu="h200"), NodeDrainRequested())
    story.given("chat", load(1, "8GiB", labels={"gpu": "h200"}))
    assert refused(story).reason == "no node that suits takes replicas: beta is draining"


# Apart


def test_replicas_that_are_to_be_apart_from_each_other_share_no_node() -> None:
    story = cluster(alpha=[80, 80], beta=[80]).given("chat", load(3, "8GiB", apart=("chat",)))
    plan_, told = story.settles()
    assert isinstance(plan_, ModelAssigned)
    assert story.places() == {"chat-0": "alpha/0", "chat-1": "beta/0"}
    assert isinstance(told, ModelUnschedulable)
    assert told.missing == 1
    assert "alpha has a replica of it, which it is to be kept apart from" in told.reason


def test_the_second_to_come_keeps_apart_whichever_of_both_asked_for_it() -> None:
    story = cluster(alpha=[80], beta=[24])
    story.given("chat", load(1, "8GiB", apart=("other",))).settles()
    story.given("other", load(1, "8GiB")).settles()
    assert (story.places(), story.places("other")) == ({"chat-0": "alpha/0"}, {"other-0": "beta/0"})
    story = cluster(alpha=[80], beta=[24]).given("other", load(1, "8GiB"))
    story.settles()
    story.given("chat", load(1, "8GiB", apart=("other",))).settles()
    assert (story.places(), story.places("other")) == ({"chat-0": "beta/0"}, {"other-0": "alpha/0"})


def test_a_replica_may_take_the_node_of_its_model_s_own_engine_that_still_ends() -> None:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB", apart=("chat",)))
    story.settles()
    story.runs("chat-0").given("chat", ModelScaleRequested(0)).settles()
    assert story.replica("chat-0").retired
    story.given("chat", ModelScaleRequested(1)).settles()
    assert story.places() == {"chat-1": "alpha/0"}


def test_a_device_without_memory_takes_nothing() -> None:
    story = Story().given("alpha", NodeRegistered((Device(0, "gpu", "x", 0),), measures=False))
    told = refused(story.given("chat", load(1)))
    assert told.reason.startswith("no device has room: alpha/gpu0 has 0 B left")


def test_one_that_was_kept_apart_is_placed_once_the_other_is_gone() -> None:
    story = cluster(alpha=[80]).given("other", load(1, "8GiB"))
    story.settles()
    story.runs("other-0").given("chat", load(1, "8GiB", apart=("other",)))
    assert "alpha has other, which it is to be kept apart from" in refused(story).reason
    story.given("other", load(0, "8GiB")).settles()
    assert story.places() == {}
    story.stops("other-0").settles()
    assert story.places() == {"chat-0": "alpha/0"}


# Pinned by hand


def test_a_pinned_replica_goes_to_its_node_and_device_alone() -> None:
    story = cluster(alpha=[80, 80], beta=[80, 24])
    story.given("chat", load(2, "8GiB", node="beta", devices=(1,))).settles()
    assert story.places() == {"chat-0": "beta/1", "chat-1": "beta/1"}


def test_a_pinned_node_that_is_unknown_is_waited_for() -> None:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB", node="beta"))
    assert refused(story).reason.startswith("there is no node beta: ")
    story.given("beta", gpus(24)).settles()
    assert story.places() == {"chat-0": "beta/0"}


def test_a_pinned_device_that_a_node_no_longer_has_is_told() -> None:
    story = cluster(beta=[80, 80]).given("chat", load(1, "8GiB", node="beta", devices=(1,)))
    story.settles()
    story.given("beta", gpus(80))
    (gone, told) = story.settles()
    assert gone == ModelAssigned(2, ())
    assert isinstance(told, ModelUnschedulable)
    assert told.reason == "a device that was asked for is not there: beta has no device 1"


# Several GPUs


def several(
    tensor: int = 2, replicas: int = 1, memory: str | None = "30GiB", **more: object
) -> ModelLoadRequested:
    return load(replicas, memory, options={"tensor-parallel-size": tensor}, **more)


def test_one_engine_takes_several_gpus_of_one_node_each_with_its_share() -> None:
    story = cluster(alpha=[80], beta=[40, 40, 24]).given("chat", several())
    story.settles()
    (place,) = story.model().assignments
    assert (place.node, place.devices, place.memory) == ("beta", (0, 1), 30 * GIB)
    assert story.state.occupancy["beta"].used == {0: 30 * GIB, 1: 30 * GIB}


def test_pipeline_stages_take_gpus_too() -> None:
    story = cluster(alpha=[40, 40, 40, 40])
    options = {"tensor_parallel_size": 2, "pipeline-parallel-size": 2}
    story.given("chat", load(1, "8GiB", options=options)).settles()
    assert story.places() == {"chat-0": "alpha/0+alpha/1+alpha/2+alpha/3"}


def test_the_roomiest_gpus_are_taken_or_by_binpack_the_fullest_that_suffice() -> None:
    story = cluster(alpha=[80, 16, 40, 40]).given("chat", several(memory="8GiB"))
    story.settles()
    assert story.places() == {"chat-0": "alpha/0+alpha/2"}
    story = cluster(alpha=[80, 16, 40, 40]).given("chat", several(memory="8GiB", policy="binpack"))
    story.settles()
    assert story.places() == {"chat-0": "alpha/1+alpha/2"}


def test_more_gpus_than_any_node_has_are_told_and_waited_for() -> None:
    story = cluster(alpha=[80, 80], beta=[80]).given("chat", several(4))
    assert refused(story).reason == (
        "no node has 4 GPUs for one replica: alpha has 2 GPUs; beta has 1 GPU"
    )
    story.given("gamma", gpus(40, 40, 40, 40)).settles()
    assert story.places() == {"chat-0": "gamma/0+gamma/1+gamma/2+gamma/3"}


def test_gpus_that_are_there_and_full_are_told_as_that() -> None:
    story = cluster(alpha=[80, 16]).given("chat", several())
    assert refused(story).reason == (
        "no device has room: alpha/gpu0+1 has 14.7 GiB left, needs 30.0 GiB"
    )


def test_small_gpus_are_taken_together_where_a_large_one_would_ask_too_much_of_them() -> None:
    story = cluster(alpha=[48, 16, 16]).given("chat", several(memory=None))
    story.settles()
    (place,) = story.model().assignments
    assert (place.devices, place.memory) == ((1, 2), int(16 * GIB * 0.45))


def test_no_cpu_takes_an_engine_of_several_workers_and_one_is_told_so() -> None:
    story = Story().given("alpha", cpu(64)).given("beta", gpus(80))
    story.given("chat", several(memory="8GiB"))
    told = refused(story)
    kind, _, where = told.reason.partition(": ")
    assert kind == "no node has 2 GPUs for one replica"
    assert set(where.split("; ")) == {"alpha has a CPU only", "beta has 1 GPU"}
    story.given("gamma", gpus(16, 16)).settles()
    assert story.places() == {"chat-0": "gamma/0+gamma/1"}


def test_two_cpus_and_a_gpu_of_one_node_are_not_two_gpus() -> None:
    mixed = (Device(0, "cpu", "c", 64 * GIB), Device(1, "cpu", "c", 64 * GIB))
    story = Story().given("alpha", NodeRegistered(mixed))
    story.given("beta", NodeRegistered((*mixed, Device(2, "gpu", "g", 64 * GIB))))
    story.given("chat", several(memory="8GiB"))
    assert refused(story).reason.startswith("no node has 2 GPUs for one replica: ")


# Weights


def test_of_nodes_that_are_as_good_one_that_holds_the_weights_is_taken_whatever_its_room() -> None:
    story = cluster(alpha=[80])
    story.given("beta", NodeRegistered(gpus(24).devices, weights=(Weights("/m", GIB),)))
    story.given("chat", load(3, "4GiB")).settles()
    assert story.places() == {"chat-0": "beta/0", "chat-1": "alpha/0", "chat-2": "beta/0"}


# Why not


def test_every_loser_says_why() -> None:
    story = cluster(alpha=[80], full=[4]).given("drained", gpus(80), NodeDrainRequested())
    story.given("bare", NodeRegistered(()))
    story.given("other", load(1, "8GiB", node="alpha")).settles()
    story.given("chat", load(1, "8GiB", apart=("other",)))
    assert losers(story) == [
        "alpha has other, which it is to be kept apart from",
        "full/gpu0 has 3.7 GiB left, needs 8.0 GiB",
        "drained is draining",
        "bare has none",
    ]


def test_with_binpack_other_replicas_on_a_node_do_not_count() -> None:
    story = cluster(alpha=[16], beta=[80]).given("chat", load(3, "7GiB", policy="binpack"))
    choice = plan(story.state, story.model(), tell=True).choices[1]
    assert [each.node for each in choice.candidates] == ["alpha", "beta"]
    reason = why_not(choice.candidates[1], choice.candidates[0], "binpack")
    assert reason == "it has more room: 73.6 GiB, not 7.7 GiB"


def test_of_many_full_nodes_those_with_the_most_room_are_named() -> None:
    sizes = {f"n{number:02}": [number + 1.0] for number in range(12)}
    told = refused(cluster(**sizes).given("chat", load(1, "80GiB"))).reason
    assert [each for each in sizes if f"{each}/" in told] == list(sizes)[4:]


# The quick choice

_UNIT = 25
"""Bytes of the smallest device: plans may assign 23 of them, so that needs fit exactly."""

_nodes = st.lists(
    st.tuples(
        st.lists(st.integers(1, 4), min_size=1, max_size=3),
        st.sampled_from(["", "", "", "drained", "holds", "removes"]),
    ),
    min_size=1,
    max_size=4,
)


def _load(units: int, count: int, policy: Policy) -> ModelLoadRequested:
    options: dict[str, OptionValue] = {"tensor-parallel-size": count}
    return ModelLoadRequested("org/m", memory=str(23 * units), policy=policy, options=options)


_policies: st.SearchStrategy[Policy] = st.sampled_from(["spread", "binpack"])
_loads = st.lists(
    st.builds(
        _load,
        st.integers(1, 3),
        st.integers(1, 2),
        _policies,
    ),
    min_size=1,
    max_size=5,
)


def small(nodes: list[tuple[list[int], str]]) -> Story:
    """Register nodes with devices of so many units."""
    story = Story()
    for number, (sizes, kind) in enumerate(nodes):
        devices = tuple(
            Device(index, "gpu", "H100", size * _UNIT) for index, size in enumerate(sizes)
        )
        held = (Weights("org/m", GIB),) if kind in ("holds", "removes") else ()
        story.given(f"n{number}", NodeRegistered(devices, weights=held))
        if kind == "drained":
            story.given(f"n{number}", NodeDrainRequested())
        if kind == "removes":
            story.given(f"n{number}", WeightsRemoveRequested("org/m"))
    return story


@settings(deadline=None)
@given(_nodes, _loads)
@example([([4, 4], "")], [_load(2, 1, "spread"), _load(3, 1, "binpack")])
@example([([2, 2], ""), ([3], "holds")], [_load(1, 2, "binpack"), _load(1, 1, "binpack")])
def test_the_quick_choice_is_the_explained_one_also_where_a_need_fits_exactly(
    nodes: list[tuple[list[int], str]], loads: list[ModelLoadRequested]
) -> None:
    story, fleet = small(nodes), Capacity()
    for number, each in enumerate(loads):
        story.given(f"m{number}", each)
        model, rooms = story.model(f"m{number}"), fleet.of(story.state)
        wish = Requirements(story.state, model)
        first = weigh(rooms, wish, {"n0": 1}, {})[0]
        found = best(rooms, wish, {"n0": 1}, {})
        assert found == (None if first.unfit else first)
        if found is not None:
            room = rooms[found.node]
            free = dict(zip((device.index for device in room.devices), room.free, strict=True))
            assert len(found.devices) == wish.count
            assert found.room == min(free[index] for index in found.devices) >= found.need
            assert found.holds == (nodes[int(found.node[1:])][1] == "holds")
        story.settles()
    for node, known in story.state.nodes.items():
        for device in known.devices:
            assert promised(story.state).get((node, device.index), 0) <= usable(device)


# How much memory


def need_of(registered: NodeRegistered, request: ModelLoadRequested, told: ModelMeasured) -> int:
    story = Story().given("alpha", registered).given("chat", request, told)
    story.settles()
    (place,) = story.model().assignments
    return place.memory


SEVEN = ModelMeasured("/m", 14 * GIB, 131_072, 32_768)
"""7 billion parameters of two bytes; 128 KiB of cache for a token, so 4 GiB for 32,768."""


def test_without_a_wish_weights_overhead_and_a_cache_for_the_longest_request_are_planned() -> None:
    need = need_of(gpus(80), load(), SEVEN)
    assert need == 14 * GIB + 14 * GIB // 12 + int(2.5 * GIB) + 4 * GIB


def test_the_cache_is_planned_for_the_context_that_was_asked_for() -> None:
    whole = need_of(gpus(80), load(), SEVEN)
    for length, cache in ((4096, 2 * GIB), ("4K", 2 * GIB), ("8k", (4 * 8000 * 131_072))):
        need = need_of(gpus(80), load(options={"max-model-len": length}), SEVEN)
        assert need == whole - 4 * GIB + cache, length


def test_several_gpus_share_weights_and_cache() -> None:
    one, two = need_of(gpus(80), load(), SEVEN), need_of(gpus(80, 80), several(memory=None), SEVEN)
    assert two - int(2.5 * GIB) == -(-(one - int(2.5 * GIB)) // 2)


def test_what_an_option_says_of_the_memory_counts() -> None:
    assert need_of(gpus(80), load(options={"gpu-memory-utilization": 0.5}), SEVEN) == 40 * GIB
    cache = load(options={"kv-cache-memory-bytes": 8 * GIB})
    assert need_of(gpus(80), cache, SEVEN) == need_of(gpus(80), load(), SEVEN) + 4 * GIB


@pytest.mark.parametrize(
    ("asked", "share"), [(1, 1.0), (0.25, 0.25), (0, None), (1.5, None), ("much", None)]
)
def test_a_share_of_a_gpu_is_taken_up_to_all_of_it_and_any_other_is_measured(
    asked: float | str, share: float | None
) -> None:
    story = Story().given("alpha", gpus(80))
    story.given("chat", load(options={"gpu-memory-utilization": asked}), SEVEN)
    plain = Story().given("alpha", gpus(80)).given("chat", load(), SEVEN)
    (device,) = story.state.nodes["alpha"].devices
    found = need(story.model(), device)
    assert found == (need(plain.model(), device) if share is None else int(80 * GIB * share))


def test_a_share_of_a_gpu_says_nothing_about_a_cpu() -> None:
    asked = load(options={"gpu-memory-utilization": 0.5})
    assert need_of(cpu(80), asked, SEVEN) == need_of(cpu(80), load(), SEVEN)


def test_on_a_cpu_the_share_is_such_that_a_quarter_of_it_is_the_cache() -> None:
    assert need_of(cpu(64), load(), ModelMeasured("/m", GIB, 131_072, 32_768)) == 16 * GIB
    few = ModelMeasured("/m", 12 * GIB, 1024, 2048)
    rest = 12 * GIB + GIB + 7 * GIB // 4
    assert need_of(cpu(64), load(), few) == -(-rest * 4 // 3)


def test_on_a_cpu_a_cache_of_a_size_that_was_asked_for_is_planned_as_it_is() -> None:
    told = ModelMeasured("/m", 12 * GIB, 131_072, 32_768)
    asked = load(options={"kv-cache-memory-bytes": GIB})
    assert need_of(cpu(64), asked, told) == 12 * GIB + GIB + 7 * GIB // 4 + GIB


def test_an_engine_that_only_embeds_takes_less_of_a_cpu_and_without_a_cache_no_more() -> None:
    told = ModelMeasured("/m", 12 * GIB, 0, 512)
    assert need_of(cpu(64), load(task="embedding"), told) == 13 * GIB + 3 * GIB // 2


@pytest.mark.parametrize("told", [ModelMeasured("/m", reason="no such file"), None])
def test_what_can_not_be_measured_gets_a_share_of_its_device(told: ModelMeasured | None) -> None:
    story = cluster(alpha=[80]).given("chat", load(), *([told] if told else []))
    story.settles()
    assert story.model().assignments[0].memory == int(80 * GIB * 0.45)


def test_the_first_plan_waits_for_a_node_that_measures() -> None:
    story = Story().given("alpha", NodeRegistered(gpus(80).devices, measures=True))
    story.given("chat", load())
    assert story.settles() == []
    story.given("chat", SEVEN).settles()
    assert story.model().assignments[0].memory < int(80 * GIB * 0.45)


def test_no_model_waits_for_a_measure_that_is_not_to_come() -> None:
    story = cluster(alpha=[80]).given("beta", NodeRegistered((), measures=True))
    story.given("chat", load(memory="8GiB")).settles()
    assert story.places() == {"chat-0": "alpha/0"}
    story.given("late", load())
    assert story.settles() == []
    story.given("beta", NodeDrainRequested()).settles()
    assert story.places("late") == {"late-0": "alpha/0"}


def test_a_replica_more_of_what_runs_waits_for_no_measure() -> None:
    story = cluster(alpha=[80]).given("chat", load())
    story.settles()
    story.given("beta", NodeRegistered(gpus(80).devices, measures=True))
    story.given("chat", load(2)).settles()
    assert story.places() == {"chat-0": "alpha/0", "chat-1": "beta/0"}


def test_a_model_that_gave_its_memory_is_measured_before_it_is_placed_without() -> None:
    story = Story().given("alpha", NodeRegistered(gpus(20).devices, measures=True))
    story.given("chat", load(1, "12GiB"))
    story.settles()
    story.runs("chat-0")
    story.given("chat", load(1, options={"seed": 1}))
    assert story.settles() == [], "a share of the device would be a guess, and told as a shortage"
    story.given("chat", ModelMeasured("/m", GIB, 1024, 2048))
    assert [type(event) for event in story.settles()] == [ModelAssigned]
    assert story.model().unschedulable == ""
