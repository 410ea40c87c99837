"""Why: the story behind a model, told from its events and from what the router saw."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events.folding import fold
from nebula.events.intents import (
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
    NodeUndrainRequested,
)
from nebula.events.memory import GIB
from nebula.events.state import EMPTY
from nebula.events.values import Assignment
from nebula.events.version import VERSION
from nebula.events.vocabulary import (
    ClusterFounded,
    EngineFailed,
    EngineStopped,
    Event,
    ModelAssigned,
    ModelMeasured,
    NodeLost,
    NodeStopped,
)
from nebula.history.advice import advice
from nebula.history.description import describe
from nebula.history.explanation import Causes, Chronicle, without_gaps
from tests.unit import corpus
from tests.unit.story import Story, cluster, facts, gpus, intents, load


def chronicle(story: Story) -> Chronicle:
    found = Chronicle(lambda *_: True)
    for record in story.log:
        found.take(record)
    return found


def reasons(story: Story) -> tuple[str, ...]:
    return chronicle(story).lines[-1].reasons


# What the router saw


def test_how_much_memory_it_takes_is_told_if_the_request_did_not_say_it() -> None:
    story = cluster(big=[80]).given("chat", load(), ModelMeasured("/m", 14 * GIB, 131_072, 8192))
    story.decides()
    assert reasons(story)[0] == (
        "measured: its files hold 14.0 GiB of weights; its KV cache takes 128.0 KiB for a token, "
        "and is to hold 32768 tokens"
    )
    assert reasons(story)[1] == (
        "chat-0: big/gpu0 was chosen, 73.6 GiB of it were free; needed: 21.7 GiB: 14.0 GiB for "
        "weights, 4.0 GiB for a KV cache of at least 32768 tokens, 3.7 GiB for the engine itself"
    )
    story = cluster(big=[80]).given("chat", load(), ModelMeasured("/m", reason="no such file"))
    story.decides()
    assert reasons(story)[0] == (
        "its memory need could not be measured (no such file): it gets a share of a device"
    )


def test_why_a_replica_serves_on_and_why_it_goes_is_told() -> None:
    story = cluster(big=[80], twin=[80]).given("chat", load(1, "8GiB"))
    story.settles()
    story.runs("chat-0").given("big", NodeDrainRequested())
    story.decides()
    assert reasons(story)[:2] == (
        "kept where they are: chat-0",
        "chat-0 serves until another one can: big is draining",
    )
    story.runs("chat-1").decides()
    assert "chat-0 goes: big is draining" in reasons(story)


@pytest.mark.parametrize(
    ("wish", "advised"),
    [
        (
            {"labels": {"gpu": "h200"}},
            "Start a node with that label (`nebula node --label gpu=h200",
        ),
        (
            {"node": "later"},
            "Start `nebula node --name later`, or load it for any node: "
            "`nebula load /m --id chat --memory 8GiB`.",
        ),
        (
            {"options": {"tensor-parallel-size": 4}},
            "Add a node with 4 GPUs, or load it for one GPU: `nebula load /m --id chat",
        ),
    ],
)
def test_what_would_give_it_a_place_is_advised(wish: dict[str, object], advised: str) -> None:
    story = cluster(big=[80]).given("chat", load(1, "8GiB", **wish))
    story.settles()
    assert advice(story.state, story.model()).startswith(advised)


def test_the_chosen_device_and_every_loser_are_told() -> None:
    story = cluster(big=[80], full=[4], small=[40], gone=[80], twin=[80])
    story.given("gone", NodeLost()).given("chat", load(1, "8GiB"))
    story.decides()
    assert reasons(story) == (
        "chat-0: big/gpu0 was chosen, 73.6 GiB of it were free; needed: 8.0 GiB, as the load "
        "request asks",
        "chat-0: not twin/gpu0: it is as good, but big/gpu0 comes first by name",
        "chat-0: not small/gpu0: it has less room: 36.8 GiB, not 73.6 GiB",
        "chat-0: not full/gpu0: 3.7 GiB are left of the 3.7 GiB that replicas may have of it; "
        "needed: 8.0 GiB, as the load request asks",
        "chat-0: not gone/gpu0: gone is lost",
    )


def test_replicas_of_a_model_keep_apart_and_say_so() -> None:
    story = cluster(n1=[80], n2=[40]).given("chat", load(2, "8GiB"))
    story.decides()
    assert "chat-1: not n1/gpu0: n1 has 1 of its replicas already, n2 0" in reasons(story)


def test_for_a_device_with_too_little_room_the_replicas_that_have_it_are_named() -> None:
    story = cluster(n1=[80]).given("chat", load(2, "20GiB")).given("embed", load(1, "30GiB"))
    story.settles()
    story.given("more", load(2, "1GiB"))
    story.decides()
    story.given("late", load(1, "9GiB"))
    story.decides()
    assert reasons(story)[-1] == (
        "late-0: not n1/gpu0: 1.6 GiB are left of the 73.6 GiB that replicas may have of it: "
        "embed-0 has 30.0 GiB, chat-0 has 20.0 GiB, chat-1 has 20.0 GiB, more-0 has 1.0 GiB, "
        "more-1 has 1.0 GiB; needed: 9.0 GiB, as the load request asks"
    )


def test_a_plan_s_own_replicas_have_the_room_that_they_took_before() -> None:
    story = cluster(n1=[80]).given("chat", load(4, "24GiB"))
    story.decides()
    assert reasons(story)[-1] == (
        "chat-3: not n1/gpu0: 1.6 GiB are left of the 73.6 GiB that replicas may have of it: "
        "chat-0 has 24.0 GiB, chat-1 has 24.0 GiB, chat-2 has 24.0 GiB; needed: 24.0 GiB, as the "
        "load request asks"
    )


def test_what_was_kept_and_what_had_to_go_is_told() -> None:
    story = cluster(n1=[80], n2=[80]).given("chat", load(2, "8GiB"))
    story.settles()
    story.given("n2", NodeLost())
    story.decides()
    assert reasons(story)[:2] == (
        "kept where they are: chat-0",
        "chat-1 had to go: n2 is lost",
    )


def test_of_many_replicas_the_first_are_told_and_also_a_replica_without_a_place() -> None:
    story = cluster(n1=[80]).given("chat", load(20, "6GiB"))
    story.decides()
    lines = reasons(story)
    assert [line.partition(":")[0] for line in lines if " was chosen, " in line] == [
        f"chat-{number}" for number in range(8)
    ]
    assert lines[-3:-1] == ("and 4 further replicas likewise", "chat-12: no candidate can take it")


def test_of_many_candidates_the_first_are_told() -> None:
    nodes = {f"n{number:02}": [80] for number in range(20)}
    story = cluster(**nodes).given("chat", load(1, "8GiB"))
    story.decides()
    assert len(reasons(story)) == 10
    assert reasons(story)[-1] == "chat-0: nor 11 others"


@pytest.mark.parametrize(
    ("actor", "reason"),
    [
        ("", "written by hand: no router decided this"),
        ("revert to 2", "written to bring an earlier state back"),
    ],
)
def test_a_plan_that_no_router_made_says_so(actor: str, reason: str) -> None:
    story = cluster(n1=[80]).given("chat", load(1, "8GiB"))
    plan = ModelAssigned(1, (Assignment("chat-0", "n1", (0,), 1, 1),))
    story.append("chat", plan)
    if actor:
        last = story.log[-1]
        story.log[-1] = type(last)(
            last.seq, last.time, last.subject, last.aggregate, last.id, last.content, actor=actor
        )
    assert reasons(story) == (reason,)


@pytest.mark.parametrize("basis", [3, 999])
def test_a_plan_that_says_to_come_from_its_own_future_is_told_so(basis: int) -> None:
    story = cluster(n1=[80]).given("chat", load(1, "8GiB"))
    story.append("chat", ModelAssigned(1, (Assignment("chat-0", "n1", (0,), 1, 1),)), basis=basis)
    assert reasons(story) == (f"its basis is event {basis}, which came later",)


def test_an_entry_that_was_not_acted_upon_says_why() -> None:
    story = Story().given("chat", ModelScaleRequested(2))
    [line] = chronicle(story).lines
    assert line.reasons[0].startswith("rejected: ")


# Chains


def test_a_line_stands_under_what_caused_it() -> None:
    story = cluster(n1=[80]).given("chat", load(1, "8GiB"))
    story.decides()
    story.append("chat-0", EngineFailed("no", 1, attempt=1, retry_in=1.0), cause=3)
    assert [line.depth for line in chronicle(story).lines] == [0, 0, 1, 2]


def test_causes_lead_both_ways() -> None:
    causes = Causes()
    for record in corpus.records("lost-node"):
        causes.take(record)
    assert causes.chain([19]) == {14, 15, 18, 19}
    assert causes.effects(14) >= {14, 15, 16, 17}
    assert causes.chain([999]) == {999}


def moved() -> Story:
    """chat-0 is drained off n1 once n2 has come, then another chat is asked for."""
    story = cluster(n1=[80]).given("chat", load(1, "8GiB"))  # 1, 2
    story.settles()  # 3
    story.runs("chat-0").given("n1", NodeDrainRequested())  # 4, 5, 6
    story.settles()  # 7: it can't be replaced
    story.given("n2", gpus(80))  # 8
    story.settles()  # 9: chat-1 on n2
    story.runs("chat-1")  # 10, 11
    story.settles()  # 12: chat-0 goes
    story.append("chat-0", EngineStopped(), cause=4)  # 13
    story.given("chat", load(2, "8GiB"))  # 14
    story.settles()  # 15
    return story


def causes_in(story: Story) -> Causes:
    causes = Causes()
    for record in story.log:
        causes.take(record)
    return causes


def test_a_plan_that_moves_replicas_was_caused_by_the_drain_too_however_long_before() -> None:
    causes = causes_in(moved())
    assert causes.chain([9]) == {8, 9, 6}
    assert causes.chain([15]) == {14, 15}, "nothing of it is on the drained node any more"


@pytest.mark.parametrize(
    ("closes", "opens"),
    [
        (NodeDrainRequested(), NodeUndrainRequested()),
        (NodeLost("silent"), gpus(80)),
        (NodeStopped(), gpus(80)),
    ],
    ids=["drained", "lost", "stopped"],
)
def test_a_node_that_is_back_is_blamed_for_no_later_plan(closes: Event, opens: Event) -> None:
    story = Story().given("lab", ClusterFounded("lab", VERSION)).given("n1", gpus(80))
    story.given("chat", load(1, "8GiB")).settles()
    story.given("n1", closes)
    closed = story.state.seq
    plan = story.model().assignments
    story.given("chat", ModelAssigned(2, plan))
    assert closed in causes_in(story).chain([story.state.seq])
    story.given("n1", opens).given("chat", ModelAssigned(3, plan))
    assert closed not in causes_in(story).chain([story.state.seq])


def test_a_replica_that_takes_several_devices_is_told_what_each_of_them_must_have() -> None:
    two = {"tensor-parallel-size": 2}
    story = cluster(n1=[80, 80], n2=[24, 24]).given("other", load(1, "20GiB", node="n2"))
    story.settles()
    story.given("chat", load(1, "30GiB", options=two)).decides()
    found = reasons(story)
    assert any(
        each.endswith("needed: 30.0 GiB, as the load request asks, on each device")
        for each in found
    ), found
    story.given("more", load(1, "70GiB", options=two)).decides()
    found = reasons(story)
    held = [each for each in found if each.startswith("more-0: not n1/") and "chat-0 has" in each]
    assert held, found


def test_a_story_that_goes_back_to_a_plan_leaves_out_none_since() -> None:
    story = moved()
    found = [record for record in story.log if record.aggregate in ("model", "replica")]
    causes = causes_in(story)
    assert without_gaps(causes, found, 14) == {14, 15}
    plans = {9, 12, 15}
    assert plans <= without_gaps(causes, found, 11)
    assert without_gaps(causes, found, 13) >= {4, *plans}, "13 goes back to when it had begun"
    assert without_gaps(causes, found, 99) == set()


def test_a_replica_that_starts_anew_in_its_place_says_why() -> None:
    story = cluster(n1=[16]).given("chat", load(1, "10GiB"))
    story.settles()
    story.runs("chat-0").given("chat", load(1, "10GiB", options={"seed": 1}))
    story.decides()
    assert reasons(story)[:3] == (
        "kept where they are: chat-0",
        "chat-0 is restarted in place: its engine was started before the last change of its model",
        "chat-1: no candidate can take it",
    )


@pytest.mark.parametrize(("replicas", "wanted"), [(1, "1 replica is"), (0, "no replicas are")])
def test_a_replica_that_is_one_too_many_says_so(replicas: int, wanted: str) -> None:
    story = cluster(n1=[80]).given("chat", load(2, "8GiB"))
    story.settles()
    story.runs("chat-0").runs("chat-1").given("chat", ModelScaleRequested(replicas))
    story.decides()
    assert f"chat-1 goes: {wanted} wanted" in reasons(story)


@pytest.mark.parametrize("name", corpus.NAMES)
def test_every_recorded_event_can_be_told(name: str) -> None:
    found = Chronicle(lambda *_: True)
    for record in corpus.records(name):
        found.take(record)
    assert all(line.text for line in found.lines)
    assert not any("otherwise" in reason for line in found.lines for reason in line.reasons)


@given(st.lists(st.one_of(intents, facts), max_size=15))
def test_nothing_that_may_happen_can_not_be_told(said: list[tuple[str, Event]]) -> None:
    story = cluster(n1=[16])
    for identity, event in said:
        story.append(identity, event)
        story.decides()
    assert [line.seq for line in chronicle(story).lines] == [each.seq for each in story.log]
    assert all(describe(record) for record in story.log)
    for model in story.state.models.values():
        assert advice(story.state, model) == "" or advice(story.state, model).endswith(".")


# What to do


def asked() -> Story:
    return cluster(n1=[80]).given("chat", load(1, "8GiB"))


def settled() -> Story:
    story = asked()
    story.settles()
    return story


def unplaced(**nodes: list[float]) -> Story:
    story = cluster(**nodes).given("chat", load(1, "8GiB"))
    story.settles()
    return story


ADVICE: dict[str, tuple[Callable[[], Story], str]] = {
    "nobody has decided": (asked, "Start a router"),
    "no node": (unplaced, "Start a machine that takes it"),
    "all lost": (
        lambda: unplaced(n1=[80]).given("n1", NodeLost()),
        "Start `nebula node --name n1` on its machine again.",
    ),
    "all drained": (
        lambda: _placed_nowhere(NodeDrainRequested()),
        "Let n1 take replicas again (`nebula drain n1 --undo`), or start another `nebula node`.",
    ),
    "no room but on a lost node": (
        lambda: _moved(unplaced(n1=[80], n2=[4], n3=[8]).runs("chat-0").given("n1", NodeLost())),
        "Start the lost node n1 again (`nebula node --name n1` on its machine), add a node with a "
        "device that has 8.0 GiB free, unload something from n3/gpu0, or load it again with",
    ),
    "lost while it was drained": (
        lambda: _moved(
            unplaced(n1=[80], n2=[8]).runs("chat-0").given("n1", NodeDrainRequested(), NodeLost())
        ),
        "Start the lost node n1 again (`nebula node --name n1` on its machine, then `nebula drain "
        "n1 --undo`), add a node with",
    ),
    "no room on a lost node either": (
        lambda: _moved(unplaced(n1=[8], n2=[4]).given("n1", NodeLost())),
        "Add a node with a device that has 8.0 GiB free",
    ),
    "all lost for good": (
        lambda: _moved(unplaced(n1=[80]).given("n1", NodeLost())),
        "Start the lost node n1 again (`nebula node --name n1` on its machine), or start another",
    ),
    "too little room": (
        lambda: unplaced(n1=[8]),
        "Add a node with a device that has 8.0 GiB free, unload something from n1/gpu0, "
        "or load it again with less memory, as n1/gpu0 has left now "
        "(`nebula load /m --id chat --memory 7.35GiB`).",
    ),
    "not started yet": (settled, "Wait for n1 to start chat-0"),
    "starting": (
        lambda: settled().runs("chat-0", ready=False),
        "Wait: its engine is loading, as `nebula logs -f chat-0` shows",
    ),
    "failing": (
        lambda: settled().given("chat-0", EngineFailed("no", 1, attempt=1, retry_in=1.0)),
        "Fix what its engine complains of (`nebula logs chat-0` shows all it wrote), or wait: "
        "n1 starts",
    ),
    "given up": (lambda: settled().gives_up("chat-0"), "Fix what its engine complains of"),
    "scaled to nothing": (
        lambda: settled().given("chat", ModelScaleRequested(0)),
        "Give it replicas: `nebula scale chat 1`.",
    ),
    "unloading": (
        lambda: settled().runs("chat-0").given("chat", ModelUnloadRequested()),
        "Wait: its engines are ending.",
    ),
    "unloading on a lost node": (
        lambda: (
            settled().runs("chat-0").given("chat", ModelUnloadRequested()).given("n1", NodeLost())
        ),
        "Start `nebula node --name n1` on its machine again, so that it can end chat-0",
    ),
    "well": (lambda: settled().runs("chat-0"), ""),
}


def _moved(story: Story) -> Story:
    story.settles()
    return story


def _placed_nowhere(event: Event) -> Story:
    story = cluster(n1=[80]).given("n1", event).given("chat", load(1, "8GiB"))
    story.settles()
    return story


@pytest.mark.parametrize("case", ADVICE)
def test_one_sentence_says_what_to_do(case: str) -> None:
    make, sentence = ADVICE[case]
    story = make()
    found = advice(story.state, story.model())
    assert found.startswith(sentence)
    assert bool(found) == bool(sentence)


def test_the_recorded_incident_ends_in_what_to_do() -> None:
    state = fold(EMPTY, corpus.records("lost-node")[:18])
    assert advice(state, state.models["poet"]) == (
        "Start the lost node n2 again (`nebula node --name n2` on its machine), "
        "add a node with a device that has 14.0 GiB free, unload something from n1/gpu0, "
        "or load it again with less memory, as n1/gpu0 has left now "
        "(`nebula load /models/poet-7b --id poet --memory 4.79GiB`)."
    )
