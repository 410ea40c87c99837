"""When a node looks for the folders of models, and what becomes of one whose folder is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from nebula.actors.node.policy.gate import Gate
from nebula.actors.node.policy.rules import NodePolicy
from nebula.actors.node.weights import folder
from nebula.actors.node.weights.folders import EVERY, Folders, asked_for, due, folder_of, forgotten
from nebula.actors.placement.decision import decide
from nebula.actors.router.routing import hopeless
from nebula.events.intents import WeightsRemoveRequested
from nebula.events.memory import GIB
from nebula.events.state import CachedSource, NameBinding
from nebula.events.validation import rejection_reason
from nebula.events.values import Device
from nebula.events.vocabulary import (
    DownloadFailed,
    DownloadFinished,
    Event,
    ModelAssigned,
    ModelUnschedulable,
    NodeRegistered,
)
from tests.unit.story import Story, load

GONE = "there is no /m on this node"
LACKS = DownloadFailed("/m", GONE)


def cluster(*nodes: str) -> Story:
    story = Story()
    for name in nodes:
        story.given(name, NodeRegistered((Device(0, "gpu", "x", 80 * GIB),)))
    return story


def placed(*nodes: str, replicas: int = 1) -> Story:
    story = cluster(*nodes).given("a", load(memory="8GiB", replicas=replicas))
    story.settles()
    return story


def where(story: Story) -> list[str]:
    return [place.node for place in story.state.models["a"].assignments]


def test_what_a_node_lacks_goes_to_one_that_has_it() -> None:
    story = placed("n1", "n2")
    assert where(story) == ["n1"]
    story.given("n1", LACKS).settles()
    assert where(story) == ["n2"]
    assert story.state.occupancy.get("n1") is None


def test_where_all_lack_it_the_model_is_unschedulable_with_what_they_said() -> None:
    story = placed("n1", "n2").given("n1", LACKS)
    story.settles()
    told = story.given("n2", LACKS).settles()
    assert where(story) == []
    assert isinstance(told[-1], ModelUnschedulable)
    assert told[-1].reason == f"no node can serve /m: n1: {GONE}; n2: {GONE}"
    assert not story.state.occupancy


def test_a_model_that_asks_for_it_then_does_not_wait() -> None:
    story = placed("n1", "n2").given("n1", LACKS)
    story.settles()
    assert hopeless(story.state, NameBinding("a")) is None
    story.given("n2", LACKS).settles()
    assert f"no node can serve /m: n1: {GONE}" in str(hopeless(story.state, NameBinding("a")))
    story.given("n3", NodeRegistered((Device(0, "gpu", "x", 80 * GIB),)))
    assert hopeless(story.state, NameBinding("a")) is None


def test_a_folder_that_has_come_is_used_at_once() -> None:
    story = placed("n1").given("n1", LACKS)
    story.settles()
    story.given("n1", DownloadFinished("/m", 5)).settles()
    assert where(story) == ["n1"]


def test_what_serves_stays_though_its_folder_is_gone() -> None:
    story = placed("n1", "n2").runs("a-0").given("n1", LACKS)
    assert decide(story.state) == ()
    story.given("a", load(memory="8GiB", replicas=2)).settles()
    assert where(story) == ["n1", "n2"]


def test_one_that_lacks_a_folder_takes_other_models() -> None:
    story = placed("n1").given("n1", LACKS)
    story.settles()
    story.given("b", replace(load(memory="8GiB"), source="/other"))
    decision = decide(story.state)[0]
    assert isinstance(decision.event, ModelAssigned)
    assert decision.id == "b"


def test_a_node_that_registers_anew_is_asked_anew() -> None:
    story = placed("n1").given("n1", LACKS)
    story.settles()
    story.given("n1", NodeRegistered((Device(0, "gpu", "x", 80 * GIB),))).settles()
    assert where(story) == ["n1"]


def test_a_hub_model_that_could_not_be_fetched_keeps_its_place() -> None:
    story = cluster("n1").given("a", replace(load(memory="8GiB"), source="org/m"))
    story.settles()
    story.given("n1", DownloadFailed("org/m", "the line is down", 2.0))
    assert decide(story.state) == ()


def test_it_is_looked_for_before_a_start_after_each_request_and_again_after_a_while() -> None:
    state = placed("n1").state
    replicas = list(state.replicas.values())
    assert [folder_of(replica) for replica in replicas] == ["/m"]
    asked = asked_for(state)
    assert asked == {"/m": state.models["a"].requested_seq}
    key = ("/m", asked["/m"])
    assert due(state, replicas, {}, {}, {}, 0.0) == ("/m",)
    assert due(state, replicas, {}, {key: True}, {}, 0.0) == ()
    held = {"/m": CachedSource(reason=GONE)}
    assert due(state, [], held, {key: False}, {"/m": 30.0}, 29.0) == ()
    assert due(state, [], held, {key: False}, {"/m": 30.0}, 30.0) == ("/m",)
    assert due(state, [], held, {("/m", 1): False}, {"/m": 30.0}, 0.0) == ("/m",)
    assert due(state, [], {"/other": CachedSource(reason=GONE)}, {}, {}, 0.0) == ()


def test_a_folder_is_looked_for_again_with_the_newest_request_of_all_its_models() -> None:
    story = placed("n1").given("b", load(memory="8GiB"))
    story.settles()
    assert asked_for(story.state) == {"/m": story.state.models["b"].requested_seq}
    story.given("a", load(memory="8GiB"))
    assert asked_for(story.state) == {"/m": story.state.models["a"].requested_seq}


@pytest.mark.anyio
async def test_a_missing_folder_is_looked_for_once_in_a_while_not_with_each_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state, told, tasks = placed("n1").state, [], []

    async def tell(event: Event) -> None:
        told.append(event)

    def spawn(work: Coroutine[object, object, None], _: str) -> asyncio.Task[None]:
        task = asyncio.ensure_future(cast("Coroutine[Any, Any, None]", work))
        tasks.append(task)
        return task

    monkeypatch.setattr(folder, "unusable", lambda *_, **__: GONE)
    folders = Folders(lambda: {}, tell, spawn, lambda: None, gate=Gate(NodePolicy()), enabled=True)
    now = asyncio.get_running_loop().time()
    for seconds, looks in ((0, 1), (EVERY - 5, 1), (EVERY + 60, 2)):
        folders.work(state, list(state.replicas.values()), now + seconds)
        await asyncio.gather(*tasks)
        assert len(tasks) == looks
    assert told == [LACKS, LACKS]
    assert all(now < again <= now + EVERY + 30 for again in folders.retries)


def test_what_no_model_needs_is_forgotten() -> None:
    held = {
        "/m": CachedSource(reason=GONE),
        "/p": CachedSource(reason=GONE, pinned=True),
        "org/m": CachedSource(whole=True),
    }
    assert forgotten(held, {"/m": 1}) == ()
    assert forgotten(held, {}) == ("/m",)


def test_a_folder_is_not_removed_for_anybody() -> None:
    story = placed("n1").given("n1", DownloadFinished("/m", 5))
    refused = rejection_reason(story.state, "n1", WeightsRemoveRequested("/m"))
    assert refused == "source: '/m' is a folder of the node's own: remove it there"


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ((), "does not hold a model: it has no config.json"),
        (("config.json",), ""),
        (("config.json", "adapter_config.json"), ""),
        (("adapter_config.json",), "is a LoRA adapter, not a model"),
    ],
)
def test_a_folder_without_a_model_is_not_taken_for_one(
    tmp_path: Path, files: tuple[str, ...], reason: str
) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    assert reason in folder.unusable(tmp_path)
    assert bool(folder.unusable(tmp_path)) == bool(reason)
    missing = tmp_path / "x"
    assert folder.unusable(missing) == f"there is no {missing} on this node"
