"""Which files a node fetches, measures and removes next."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from nebula.actors.node.weights import provision
from nebula.actors.node.weights.provision import Abandon, Fetch, Files, Local, Measure, Remove, Task
from nebula.actors.placement.decision import replicas_on
from nebula.events.intents import (
    ModelLoadRequested,
    ModelUnloadRequested,
    WeightsPinRequested,
    WeightsRemoveRequested,
)
from nebula.events.memory import GIB
from nebula.events.state import CachedSource, Launch, Measured
from nebula.events.validation import rejection_reason
from nebula.events.values import Device, SecretReference, Weights
from nebula.events.vocabulary import (
    DownloadFailed,
    DownloadFinished,
    DownloadProgressed,
    DownloadStarted,
    EngineFailed,
    ModelMeasured,
    NodeLost,
    NodeRegistered,
    WeightsRemoved,
)
from tests.unit.story import Story

NOTHING = Local()
QWEN = "Qwen/Qwen2.5-0.5B-Instruct"
HALF = DownloadProgressed(QWEN, 50, 100)
STARTED = DownloadStarted(QWEN, "main", 3, 10, 100)
FINISHED = DownloadFinished(QWEN, 100, "c0ffee", 3.0)
FAILED = DownloadFailed(QWEN, "the line is down", 5.0)


def node(name: str = "n1", *weights: Weights, measures: bool = True) -> tuple[str, NodeRegistered]:
    gpu = Device(0, "gpu", "H100", 80 * GIB)
    return name, NodeRegistered((gpu,), weights=weights, measures=measures)


def wants(source: str = QWEN, **fields: Any) -> ModelLoadRequested:
    return ModelLoadRequested(source, **{"memory": "8GiB", **fields})


def story(*models: tuple[str, ModelLoadRequested], nodes: int = 1) -> Story:
    told = Story()
    for number in range(nodes):
        told.given(*node(f"n{number + 1}"))
    for identity, event in models:
        told.given(identity, event)
    told.settles()
    return told


def due(told: Story, local: Local = NOTHING) -> tuple[Task, ...]:
    return provision.provide(told.state, "n1", replicas_on(told.state, "n1"), local)


def held(told: Story, source: str = QWEN) -> CachedSource:
    return told.state.nodes["n1"].weights[source]


# Fetching


def test_a_hub_models_files_are_fetched_once_however_many_replicas() -> None:
    told = story(("chat", wants(replicas=4)), ("other", wants(name="again")))
    assert due(told) == (Fetch(Files(QWEN)),)
    assert due(told, Local(busy={QWEN})) == ()
    assert due(told, Local(ready={Files(QWEN)})) == ()


def test_replicas_wait_until_their_files_are_here() -> None:
    told = story(("chat", wants(replicas=2)), ("local", wants("/srv/model")))
    mine = replicas_on(told.state, "n1")
    assert provision.waiting(mine, set()) == {"chat-0", "chat-1"}
    assert provision.waiting(mine, {Files(QWEN)}) == frozenset()


def test_another_revision_is_fetched_too() -> None:
    told = story(("chat", wants(options={"revision": "v2"})))
    assert due(told, Local(ready={Files(QWEN)})) == (Fetch(Files(QWEN, "v2")),)


def test_all_sources_are_begun_and_those_under_way_are_not_begun_again() -> None:
    models = [(f"m{n}", wants(f"lab/m{n}")) for n in range(4)]
    told = story(*models)
    assert due(told) == tuple(Fetch(Files(f"lab/m{n}")) for n in range(4))
    busy = Local(busy={"lab/m0", "lab/m3"})
    assert due(told, busy) == (Fetch(Files("lab/m1")), Fetch(Files("lab/m2")))


def test_a_failed_download_waits_for_its_time() -> None:
    told = story(("chat", wants()))
    assert due(told, Local(retry_at={QWEN: 9.0}, now=8.0)) == ()
    assert due(told, Local(retry_at={QWEN: 9.0}, now=9.0)) == (Fetch(Files(QWEN)),)


def test_a_model_that_is_no_longer_wanted_here_is_not_fetched() -> None:
    told = story(("chat", wants()))
    told.given("chat", ModelUnloadRequested())
    assert due(told) == ()


def test_a_download_ends_when_it_is_no_longer_wanted_here() -> None:
    told = story(("chat", wants()))
    local = Local(busy={QWEN}, fetching={Files(QWEN)})
    assert due(told, local) == ()
    told.given("chat", ModelUnloadRequested())
    assert due(told, local) == (Abandon(Files(QWEN)),)


@pytest.mark.parametrize(
    ("source", "fields"),
    [
        ("/srv/models/qwen", {}),
        ("gpt2", {}),
        ("lab/model:Q4_K_M", {}),
        ("a/b/c", {}),
        ("../model", {}),
        ("lab/mo..del", {}),
        (QWEN, {"options": {"download_dir": "/big"}}),
        (QWEN, {"options": {"load-format": "dummy"}}),
        (QWEN, {"options": {"revision": "../../../etc"}}),
        (QWEN, {"options": {"revision": "/etc"}}),
        (QWEN, {"env": {"HF_ENDPOINT": "http://mirror"}}),
        (QWEN, {"env": {"VLLM_USE_MODELSCOPE": "1"}}),
    ],
)
def test_what_is_not_a_plain_hub_model_is_left_to_the_engine(
    source: str, fields: dict[str, Any]
) -> None:
    told = story(("chat", wants(source, **fields)))
    assert due(told) == ()
    assert provision.waiting(replicas_on(told.state, "n1"), set()) == frozenset()


def test_a_token_that_is_given_by_name_is_used_for_the_download() -> None:
    def launch(**env: str | SecretReference) -> Launch:
        return Launch(QWEN, "m", "chat", False, None, {"revision": "v2"}, dict(env))

    hub = SecretReference("hf")
    assert provision.files_of(launch(HF_TOKEN=hub)) == Files(QWEN, "v2", "hf")
    assert provision.files_of(launch(OTHER=hub)) == Files(QWEN, "v2")
    assert provision.files_of(launch(HF_TOKEN=hub, HF_ENDPOINT="http://mirror")) is None
    assert provision.files_of(launch(HF_TOKEN="in-an-old-log")) is None


def test_a_node_that_leaves_fetching_to_its_engines_fetches_nothing() -> None:
    assert due(story(("chat", wants())), Local(fetches=False)) == ()


def test_a_download_that_is_given_up_names_the_replicas_that_can_not_start() -> None:
    told = story(("chat", wants(replicas=2)), ("other", wants("lab/other")))
    found = provision.waiting_for(replicas_on(told.state, "n1"), QWEN)
    assert [replica.id for replica in found] == ["chat-0", "chat-1"]
    told.runs("chat-0")
    assert [r.id for r in provision.waiting_for(replicas_on(told.state, "n1"), QWEN)] == ["chat-1"]
    told.given("chat-1", EngineFailed("its files can't be fetched", attempt=3))
    assert told.replica("chat-1").given_up
    assert provision.waiting_for(replicas_on(told.state, "n1"), QWEN) == (), "it waits no more"


def test_progress_is_told_in_steps_of_five_percent_and_slowly() -> None:
    worth = provision.worth_telling
    assert not worth(0, 0.0, 500, 1000, now=1.0)
    assert worth(0, 0.0, 50, 1000, now=2.0)
    assert not worth(0, 0.0, 49, 1000, now=29.0)
    assert worth(0, 0.0, 49, 1000, now=30.0)
    assert not worth(49, 0.0, 49, 1000, now=90.0)
    assert not worth(500, 0.0, 549, 1000, now=29.0)
    assert worth(500, 0.0, 550, 1000, now=2.0)


# What the log knows


def test_a_download_folds_to_how_far_it_is() -> None:
    told = story(("chat", wants())).given("n1", STARTED)
    assert held(told) == CachedSource(10, 100, fetched=True)
    assert held(told.given("n1", HALF)) == CachedSource(50, 100, fetched=True)
    told.given("n1", FAILED)
    assert (held(told).done, held(told).reason, held(told).retry_in) == (50, FAILED.reason, 5.0)
    assert held(told.given("n1", FINISHED)) == CachedSource(100, 100, whole=True, fetched=True)
    told.given("n1", WeightsRemoved(QWEN))
    assert QWEN not in told.state.nodes["n1"].weights


def test_a_node_that_is_back_tells_what_is_whole_and_the_log_remembers_the_rest() -> None:
    told = story()
    told.given("n1", STARTED, FINISHED, WeightsPinRequested("lab/pinned"))
    told.given("n1", replace(STARTED, source="lab/half"), replace(FINISHED, source="lab/lost"))
    told.given(*node("n1", Weights(QWEN, 120), Weights("lab/own", 7)))
    assert told.state.nodes["n1"].weights == {
        QWEN: CachedSource(120, 120, whole=True, fetched=True),
        "lab/own": CachedSource(7, 7, whole=True),
        "lab/half": CachedSource(10, 100, fetched=True),
        "lab/pinned": CachedSource(pinned=True),
    }


# Removing


def test_what_is_asked_to_be_removed_is_once_nothing_uses_it() -> None:
    told = story().given("n1", FINISHED, WeightsRemoveRequested(QWEN))
    assert due(told) == (Remove(QWEN),)
    assert due(told, Local(running={QWEN})) == ()
    assert due(told, Local(busy={QWEN})) == ()
    told.given("chat", wants())
    told.settles()
    assert due(told, Local(ready={Files(QWEN)})) == ()


def test_files_that_are_in_use_on_another_node_can_be_removed_here() -> None:
    told = story(("chat", wants(node="n1")), nodes=2).given("n1", FINISHED).given("n2", FINISHED)
    remove = WeightsRemoveRequested(QWEN)
    assert "is in use by chat-0" in str(rejection_reason(told.state, "n1", remove))
    assert rejection_reason(told.state, "n2", remove) is None


def test_what_is_pinned_or_in_use_or_not_there_is_not_removed() -> None:
    told = story(("chat", wants()))
    remove = WeightsRemoveRequested(QWEN)
    assert (
        rejection_reason(told.state, "n1", remove) == f"source: node 'n1' has no files of {QWEN!r}"
    )
    told.given("n1", FINISHED)
    assert "is in use by chat-0 on node 'n1'" in str(rejection_reason(told.state, "n1", remove))
    told.given("chat", ModelUnloadRequested()).given("n1", WeightsPinRequested(QWEN))
    assert "is pinned on node 'n1': unpin it first" in str(
        rejection_reason(told.state, "n1", remove)
    )
    told.given("n1", WeightsPinRequested(QWEN, pinned=False))
    assert rejection_reason(told.state, "n1", remove) is None
    assert rejection_reason(told.state, "n9", remove) == "there is no node 'n9'"


def test_a_pin_of_what_never_came_leaves_nothing_behind_and_only_what_is_there_is_unpinned() -> (
    None
):
    told = story()
    unpin = WeightsPinRequested("lab/later", pinned=False)
    reason = "source: node 'n1' has no files of 'lab/later'"
    assert rejection_reason(told.state, "n1", unpin) == reason
    told.given("n1", WeightsPinRequested("lab/later"))
    assert rejection_reason(told.state, "n1", unpin) is None
    told.given("n1", unpin)
    assert told.state.nodes["n1"].weights == {}


def test_pruning_leaves_what_is_pinned_needed_or_was_not_fetched_by_nebula() -> None:
    told = story(("chat", wants()))
    for source in (QWEN, "lab/old", "lab/pinned", "lab/asleep"):
        told.given("n1", replace(STARTED, source=source), replace(FINISHED, source=source))
    told.given("n1", replace(FINISHED, source="lab/own"), WeightsPinRequested("lab/pinned"))
    told.given("dreamer", wants("lab/asleep", on_request=True))
    assert provision.prunable(told.state, "n1") == ("lab/old",)
    told.given("n1", WeightsRemoveRequested("lab/old"))
    assert provision.prunable(told.state, "n1") == ()


# Measuring


def measures(told: Story, name: str = "n1", **tried: int) -> tuple[Measure, ...]:
    return provision.unmeasured(told.state, name, tried)


def test_a_model_that_names_no_memory_is_measured_once_for_each_time_it_is_asked_for() -> None:
    told = story(("chat", wants("/srv/m", memory=None)), ("sized", wants("/srv/s")))
    model = told.model()
    (task,) = measures(told)
    assert task == Measure("chat", Files("/srv/m"), model.requested_seq)
    assert measures(told, chat=model.requested_seq) == ()
    told.given("chat", wants("/srv/m", memory=None))
    assert len(measures(told, chat=model.requested_seq)) == 1


def test_the_first_answer_with_figures_counts() -> None:
    told = story(("chat", wants("/srv/m", memory=None)))
    told.given("chat", ModelMeasured("/srv/m", reason="it is not here"))
    assert told.model().measured == Measured("/srv/m", 0, 0, 0, "it is not here")
    assert len(measures(told)) == 1, "another node may know it"
    told.given("chat", ModelMeasured("/srv/m", 5, 2, 9))
    told.given("chat", ModelMeasured("/srv/m", 7, 7, 7), ModelMeasured("/srv/m", reason="gone"))
    assert told.model().measured == Measured("/srv/m", 5, 2, 9)
    assert measures(told) == ()


def test_an_answer_about_another_source_is_late_and_does_not_count() -> None:
    told = story(("chat", wants("/srv/m", memory=None)))
    told.given("chat", ModelMeasured("/srv/old", 5, 2, 9))
    assert told.model().measured is None
    told.given("chat", ModelMeasured("/srv/m", 5, 2, 9), wants("/srv/new", memory=None))
    assert told.model().measured is None


def test_a_node_that_does_not_measure_is_silent() -> None:
    told = Story().given(*node(measures=False)).given("chat", wants("/srv/m", memory=None))
    assert measures(told) == ()


def test_nodes_ask_the_hub_in_turns_but_look_at_their_own_disk_at_once() -> None:
    told = story(("chat", wants(memory=None)), ("local", wants("/srv/m", memory=None)), nodes=3)

    def turns(name: str) -> dict[str, float]:
        return {task.model: task.turn for task in measures(told, name)}

    assert turns("n1") == {"chat": 0.0, "local": 0.0}
    assert turns("n3") == {"chat": 2 * provision.TURN, "local": 0.0}
    told.given("n1", NodeLost())
    assert turns("n3")["chat"] == provision.TURN
    told.given("n3", FINISHED)
    assert turns("n3")["chat"] == 0.0
    assert provision.others_may_tell(told.state, "n3", QWEN)
    assert provision.others_may_tell(told.state, "n3", "/srv/m")
    assert not provision.others_may_tell(told.state, "n3", "simulated")
    assert not provision.others_may_tell(told.given("n2", NodeLost()).state, "n3", QWEN)
