"""What needs attention is told once, with its reason, its moment and the command that mends it."""

import pytest
from msgspec.structs import replace

from nebula.events.intents import AdapterLoadRequested, AliasRequested, NodeDrainRequested
from nebula.events.state import State
from nebula.events.values import Target
from nebula.events.vocabulary import AdapterLoadFailed, EngineFailed
from nebula.history import attention
from nebula.history.attention import Concern, Healthy, Suspect
from tests.unit.story import Story, cluster, load, serving_chat


def told(state: State) -> list[Concern]:
    found = [each for each in attention.suspects(state) if isinstance(each, Suspect)]
    return list(attention.concerns(state, attention.order(found)))


def healthy(state: State) -> dict[str, int]:
    counted: dict[str, int] = {}
    for each in attention.suspects(state):
        if isinstance(each, Healthy):
            for phase, number in each.phases.items():
                counted[phase] = counted.get(phase, 0) + number
    return counted


def test_nothing_is_told_of_a_cluster_that_is_well() -> None:
    story = serving_chat()
    assert told(story.state) == []
    assert healthy(story.state) == {"ready": 1}


def test_a_model_that_is_asleep_or_wants_no_replicas_is_well() -> None:
    story = cluster(n1=[80]).given("chat", load(memory="8GiB", replicas=0))
    story.settles()
    assert told(story.state) == []
    assert healthy(story.state) == {"idle": 1}


def test_a_cluster_without_nodes_says_so() -> None:
    [first] = told(Story().state)
    assert (first.severity, first.kind, first.command) == ("bad", "cluster", "nebula node")


def test_a_model_without_a_place_tells_what_would_help_and_since_which_event() -> None:
    story = cluster(n1=[8]).given("chat", load(memory="80GiB"))
    story.settles()
    [only] = told(story.state)
    assert (only.severity, only.kind, only.id) == ("bad", "model", "chat")
    assert "unschedulable" in only.text
    assert only.todo.startswith("Add a node with a device that has 80.0 GiB free")
    assert only.command.startswith("nebula load")
    assert only.why == "nebula why chat"
    assert only.seq == story.model("chat").changed


def test_an_engine_that_was_given_up_is_bad_and_one_that_is_tried_again_only_a_warning() -> None:
    story = serving_chat(replicas=2)
    story.given("chat-1", EngineFailed("out of memory", 1, attempt=1, retry_in=1.0))
    [only] = told(story.state)
    assert only.severity == "warning"
    assert only.since == story.state.replicas["chat-1"].since
    story.given("chat-0", EngineFailed("out of memory", 1, attempt=1, retry_in=1.0))
    assert [each.severity for each in told(story.state)] == ["bad"]


def test_what_mends_itself_comes_last() -> None:
    story = cluster(n1=[80]).given("chat", load(memory="8GiB")).given("big", load(memory="90GiB"))
    story.settles()
    assert [(each.severity, each.id) for each in told(story.state)] == [
        ("bad", "big"),
        ("working", "chat"),
    ]


@pytest.mark.parametrize("how", ["lost", "stopped"])
def test_a_node_that_is_gone_with_replicas_is_told_with_both_ways_out(how: str) -> None:
    state = serving_chat().state
    gone = replace(state.nodes["n1"], lost=how == "lost", stopped=how == "stopped")
    state = replace(state, nodes=state.nodes.insert("n1", gone))
    [node] = [each for each in told(state) if each.kind == "node"]
    assert node.command == "nebula node --name n1"
    assert node.why == "nebula why node n1"
    assert "nebula remove-node n1" in node.todo


def test_a_node_that_is_being_emptied_mends_itself() -> None:
    story = serving_chat().given("n1", NodeDrainRequested())
    assert {each.severity for each in told(story.state) if each.kind == "node"} == {"working"}


def test_an_alias_that_leads_nowhere_is_bad() -> None:
    story = serving_chat().given("gpt", AliasRequested((Target("chat", 1), Target("none", 1))))
    [only] = told(story.state)
    assert (only.severity, only.kind, only.id) == ("bad", "alias", "gpt")
    assert "none: no model has this name" in only.text


def test_an_adapter_that_a_replica_could_not_load_is_told_once() -> None:
    story = cluster(n1=[80]).given("chat", load(replicas=2, memory="8GiB", lora=True))
    story.settles()
    story.runs("chat-0").runs("chat-1").given("chat", AdapterLoadRequested("poet", "/adapter"))
    asked = story.state.seq
    for replica in ("chat-0", "chat-1"):
        story.given(replica, AdapterLoadFailed("poet", "/adapter", "no such folder", asked=asked))
    [only] = told(story.state)
    assert (only.severity, only.kind, only.id) == ("warning", "adapter", "poet")
    assert "no such folder" in only.text
    assert only.command == "nebula adapters load chat poet /adapter"


def test_advice_is_worked_out_for_the_first_concerns_only() -> None:
    story = cluster(n1=[8])
    for number in range(attention.MOST_ADVISED + 2):
        story.given(f"m{number:02}", load(memory="80GiB"))
    story.settles()
    found = told(story.state)
    assert len(found) == attention.MOST_ADVISED + 2
    assert [bool(each.todo) for each in found] == [True] * attention.MOST_ADVISED + [False] * 2
    assert found[-1].text.endswith("is unschedulable")


def test_the_pass_over_many_models_pauses() -> None:
    story = serving_chat()
    model = story.model("chat")
    models = story.state.models
    for number in range(2 * attention.PIECE):
        models = models.insert(f"m{number}", model)
    pieces = [
        each
        for each in attention.suspects(replace(story.state, models=models))
        if isinstance(each, Healthy)
    ]
    assert len(pieces) == 3
    assert sum(each.phases.get("ready", 0) for each in pieces) == 2 * attention.PIECE + 1
