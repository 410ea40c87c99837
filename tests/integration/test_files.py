"""Files of models: measured, fetched from a hub, broken off, listed, pinned and removed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nebula.events.intents import ModelLoadRequested
from nebula.events.vocabulary import (
    DownloadFailed,
    DownloadFinished,
    DownloadProgressed,
    DownloadStarted,
    DownloadWaits,
    EngineStarted,
    ModelMeasured,
    NodeRegistered,
    WeightsRemoved,
)
from tests.hub import COMMIT, SmallHub, config, tensors
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

TINY = "lab/tiny"
SIZE = 300_000


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    hub = SmallHub()
    hub.model(TINY, SIZE)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    yield hub
    hub.close()


def start(cluster: Cluster, *nodes: str, shared: bool = False) -> None:
    cluster.start("nats")
    cluster.start("router")
    for name in nodes or ("here",):
        weights = str(cache(cluster, "all" if shared else name))
        cluster.start(f"node-{name}", "--name", name, "--weights-folder", weights)
    cluster.start("gateway")


def cache(cluster: Cluster, node: str = "here") -> Path:
    return cluster.folder / "weights" / node


def total(hub: SmallHub, source: str = TINY) -> int:
    return sum(len(content) for content in hub.sources[source].values())


async def test_a_hub_model_is_fetched_once_and_checked_before_its_engines_start(
    own_cluster: Cluster, hub: SmallHub
) -> None:
    start(own_cluster)
    await own_cluster.ready()
    await own_cluster.load("chat", source=TINY, replicas=2)
    records = await own_cluster.records(DownloadStarted, DownloadFinished, EngineStarted)
    assert [type(record.content) for record in records] == [
        DownloadStarted,
        DownloadFinished,
        EngineStarted,
        EngineStarted,
    ]
    started, finished = (record.content for record in records[:2])
    assert started == DownloadStarted(TINY, COMMIT, 4, 0, total(hub))
    assert isinstance(finished, DownloadFinished)
    assert (finished.bytes, finished.revision) == (total(hub), COMMIT)
    assert hub.fetched("model.safetensors") == [""]
    process = own_cluster.engine_processes()[0]
    assert process.environ()["HF_HUB_CACHE"] == str(cache(own_cluster))


async def test_a_download_that_is_killed_goes_on_with_the_next_node_process(
    own_cluster: Cluster, hub: SmallHub
) -> None:
    hub.model(TINY, 6 * 1024 * 1024)
    hub.rates["model.safetensors"] = 2 * 1024 * 1024
    start(own_cluster)
    await own_cluster.ready()
    await own_cluster.load("chat", source=TINY, stands="")
    progressed = await own_cluster.logged(DownloadProgressed, "here")
    assert (progressed.source, progressed.total) == (TINY, total(hub))
    own_cluster.kill("node-here")
    hub.rates.clear()
    hub.asked.clear()
    own_cluster.again("node-here")
    await own_cluster.stands("chat")
    again = [
        record.content
        for record in await own_cluster.records(DownloadStarted)
        if isinstance(record.content, DownloadStarted)
    ]
    assert again[1].done >= progressed.done
    (asked,) = hub.fetched("model.safetensors")
    others = total(hub) - len(hub.sources[TINY]["model.safetensors"])
    assert int(asked.removeprefix("bytes=").rstrip("-")) == again[1].done - others


async def test_a_hub_that_is_down_is_asked_again_until_it_is_up(
    own_cluster: Cluster, hub: SmallHub
) -> None:
    hub.down = True
    start(own_cluster)
    await own_cluster.ready()
    await own_cluster.load("chat", source=TINY, stands="")
    failed = await own_cluster.logged(DownloadFailed, "here")
    assert "does not answer" in failed.reason
    assert failed.retry_in is not None
    hub.down = False
    await own_cluster.stands("chat")


async def test_what_the_hub_does_not_have_fails_the_model_and_says_why(
    own_cluster: Cluster, hub: SmallHub
) -> None:
    start(own_cluster)
    await own_cluster.ready()
    told = await own_cluster.nebula("load", "lab/nothing", "--memory", "1GiB")
    assert told.code == 1
    assert "has no lab/nothing, or it is private" in told.err
    hub.model("lab/nothing", SIZE)
    told = await own_cluster.nebula("load", "lab/nothing", "--memory", "1GiB")
    assert told.code == 0, told.err


async def test_a_file_that_stays_wrong_is_given_up(own_cluster: Cluster, hub: SmallHub) -> None:
    hub.swapped.add("model.safetensors")
    start(own_cluster)
    await own_cluster.ready()
    await own_cluster.load("chat", source=TINY, stands="failed")
    failures = await own_cluster.records(DownloadFailed)
    assert len(failures) == 3
    assert (await own_cluster.records(EngineStarted)) == []


async def test_without_the_hub_what_is_cached_is_used(own_cluster: Cluster, hub: SmallHub) -> None:
    start(own_cluster)
    await own_cluster.ready()
    await own_cluster.load("chat", source=TINY)
    hub.down = True
    own_cluster.kill_everything()
    for name in ("nats", "router", "node-here", "gateway"):
        own_cluster.again(name)
    await own_cluster.ready()

    async def registered_again() -> bool:
        return len(await own_cluster.records(NodeRegistered)) == 2

    await own_cluster.poll(registered_again, "the node has registered again")
    registered = (await own_cluster.records(NodeRegistered))[-1].content
    assert isinstance(registered, NodeRegistered)
    assert [(held.source, held.bytes) for held in registered.weights] == [(TINY, total(hub))]
    await own_cluster.stands("chat")
    assert await own_cluster.records(DownloadFailed) == []


async def test_a_hub_that_lists_no_hashes_leaves_fetching_to_the_engine(
    own_cluster: Cluster, hub: SmallHub
) -> None:
    hub.bare = True
    start(own_cluster)
    await own_cluster.ready()
    await own_cluster.load("chat", source=TINY)
    assert await own_cluster.records(DownloadStarted, DownloadFailed, DownloadFinished) == []


@pytest.mark.parametrize(
    ("lists", "reason"),
    [
        ({"siblings": [{"rfilename": "../../x", "size": 2, "blobId": "b" * 40}]}, "'../../x'"),
        ({"siblings": [{"rfilename": "config.json", "size": -5, "blobId": "b" * 40}]}, "-5 bytes"),
        ({"sha": "../../../x"}, "'../../../x' a commit"),
        ({}, "gives an endless list of the files"),
    ],
)
async def test_a_list_that_can_not_be_taken_is_told_and_no_engine_starts(
    own_cluster: Cluster, hub: SmallHub, lists: dict[str, Any], reason: str
) -> None:
    hub.lists[TINY] = lists
    if not lists:
        hub.odd[TINY] = "endless"
    start(own_cluster)
    await own_cluster.ready()
    told = await own_cluster.nebula("load", TINY, "--memory", "1GiB", "--id", "chat")
    assert (told.code, reason in told.err) == (1, True), told.err
    failures = [record.content for record in await own_cluster.records(DownloadFailed)]
    assert [reason in f.reason for f in failures if isinstance(f, DownloadFailed)] == [True] * 3
    assert await own_cluster.records(EngineStarted) == []
    assert reason in (await own_cluster.nebula("why", "chat")).out
    hub.lists.clear()
    hub.odd.clear()
    assert (await own_cluster.nebula("scale", "chat", "1")).code == 0


async def test_lists_that_drip_are_told_and_other_models_are_fetched(
    own_cluster: Cluster, hub: SmallHub
) -> None:
    start(own_cluster)
    await own_cluster.ready()
    for model in ("one", "two", "three"):
        hub.odd[f"lab/{model}"] = "drips"
        await own_cluster.load(model, source=f"lab/{model}", stands="")
    waits = await own_cluster.logged(DownloadWaits, "here")
    assert waits.reason == "asks the hub for its files"
    assert "asks the hub for its files since" in (await own_cluster.nebula("why", "one")).out
    await own_cluster.load("chat", source=TINY)
    assert await own_cluster.records(DownloadFailed) == []


async def test_files_are_listed_pinned_removed_and_pruned(
    own_cluster: Cluster, hub: SmallHub
) -> None:
    hub.model("lab/other", SIZE)
    start(own_cluster)
    await own_cluster.ready()
    await own_cluster.load("chat", source=TINY)
    await own_cluster.load("other", source="lab/other")
    told = await own_cluster.nebula("weights", "remove", "here", TINY)
    assert (told.code, "is in use by chat-0" in told.err) == (1, True)
    await own_cluster.nebula("unload", "chat")
    await own_cluster.nebula("unload", "other")
    assert (await own_cluster.nebula("weights", "pin", "here", TINY)).code == 0
    listed = json.loads((await own_cluster.nebula("weights", "--json")).out)
    assert [(each["node"], each["source"], each["pinned"]) for each in listed] == [
        ("here", "lab/other", False),
        ("here", TINY, True),
    ]
    told = await own_cluster.nebula("weights", "prune", "here")
    assert (told.code, told.out) == (0, "lab/other: removed from here\n"), told
    assert [path.name for path in cache(own_cluster).glob("models--*")] == ["models--lab--tiny"]
    await own_cluster.nebula("weights", "unpin", "here", TINY)
    assert (await own_cluster.nebula("weights", "remove", "here", TINY)).code == 0
    assert list(cache(own_cluster).glob("models--*")) == []
    assert len(await own_cluster.records(WeightsRemoved)) == 2
    told = await own_cluster.nebula("weights")
    assert told.out.split() == ["NODE", "SOURCE", "SIZE", "STATE"]


async def test_a_rehearsal_knows_the_files_of_the_log_and_touches_none(
    own_cluster: Cluster, hub: SmallHub
) -> None:
    start(own_cluster)
    await own_cluster.ready()
    await own_cluster.load("chat", source=TINY)
    await own_cluster.nebula("unload", "chat")
    own_cluster.stop("node-here")
    hub.sources.clear()
    before = await own_cluster.last_seq()
    own_cluster.start(
        "node-imagined",
        *("--name", "here", "--devices", "gpu:80GiB"),
        *("--weights-folder", str(cache(own_cluster))),
    )
    registered = await own_cluster.logged(NodeRegistered, "here", before)
    assert [held.source for held in registered.weights] == [TINY]
    assert (await own_cluster.nebula("weights", "remove", "here", TINY)).code == 0
    assert [path.name for path in cache(own_cluster).glob("models--*")] == ["models--lab--tiny"]
    await own_cluster.load("other", source="lab/not-fetched")


async def test_files_are_pinned_and_removed_over_http(own_cluster: Cluster, hub: SmallHub) -> None:
    start(own_cluster)
    await own_cluster.ready()
    await own_cluster.load("chat", source=TINY)
    address = f"/admin/nodes/here/weights/{TINY}"
    async with own_cluster.http() as http:
        refused = await http.delete(address)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "source")
        assert (await http.delete("/admin/nodes/here/weights/lab/none")).status_code == 404
        assert (await http.delete(f"/admin/nodes/there/weights/{TINY}")).status_code == 404
        await own_cluster.nebula("unload", "chat")
        pinned = {"source": TINY, "pinned": True}
        answer = await http.patch("/admin/nodes/here/weights", json=pinned)
        assert answer.status_code == 202, answer.text
        assert answer.json()["weights"]["whole"]
        later = {"source": "lab/later"}
        answer = await http.patch("/admin/nodes/here/weights", json=later)
        assert (answer.json()["weights"]["pinned"], answer.json()["weights"]["total"]) == (True, 0)
        await http.patch("/admin/nodes/here/weights", json=later | {"pinned": False})
        answer = await http.patch("/admin/nodes/here/weights", json=later | {"pinned": False})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "source")
        (node,) = (await http.get("/admin/nodes")).json()
        assert node["weights"][TINY]["pinned"]
        assert "is pinned" in (await http.delete(address)).text
        assert (await http.patch("/admin/nodes/here/weights", json={"pin": 1})).status_code == 400
        await http.patch("/admin/nodes/here/weights", json=pinned | {"pinned": False})
        key = {"Idempotency-Key": "away with them"}
        answer = await http.delete(address, headers=key)
        assert answer.status_code == 202
        await own_cluster.logged(WeightsRemoved, "here")
        again = await http.delete(address, headers=key)
        assert (again.status_code, again.json()["seq"]) == (202, answer.json()["seq"])
        assert (await http.delete(address)).status_code == 404
    assert list(cache(own_cluster).glob("models--*")) == []


async def test_of_two_nodes_the_node_with_the_folder_measures_it(
    own_cluster: Cluster, hub: SmallHub, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes(config())
    (folder / "model.safetensors").write_bytes(tensors(5000))
    start(own_cluster, "one", "two")
    await own_cluster.ready()
    await own_cluster.until(lambda state: len(state.nodes) == 2, "both nodes are there")
    await own_cluster.load("here", source=str(folder), memory=None, stands="")
    await own_cluster.load("hub", source=TINY, memory=None, stands="")
    await own_cluster.load("ghost", source="/not/there", memory=None, stands="")
    await own_cluster.until(
        lambda state: all(model.measured is not None for model in state.models.values()),
        "all are measured",
    )
    measured = await own_cluster.records(ModelMeasured)
    assert {record.id: record.content for record in measured} == {
        "here": ModelMeasured(str(folder), 5000, 2048, 2048),
        "hub": ModelMeasured(TINY, len(hub.sources[TINY]["model.safetensors"]), 2048, 2048),
        "ghost": next(r.content for r in measured if r.id == "ghost"),
    }
    assert len(measured) == 3, "nobody repeats what another has told"
    ghost = next(record.content for record in measured if record.id == "ghost")
    assert isinstance(ghost, ModelMeasured)
    assert (ghost.weights, "has no folder /not/there" in ghost.reason) == (0, True)
    loads = await own_cluster.records(ModelLoadRequested)
    assert [record.cause for record in measured if record.id == "here"] == [loads[0].seq]


async def test_two_nodes_that_share_a_cache_fetch_once(own_cluster: Cluster, hub: SmallHub) -> None:
    hub.rates["model.safetensors"] = 200_000
    start(own_cluster, "one", "two", shared=True)
    await own_cluster.ready()
    await own_cluster.until(lambda state: len(state.nodes) == 2, "both nodes are there")
    await own_cluster.load("chat", source=TINY, replicas=2, policy="spread")
    assert hub.fetched("model.safetensors") == [""]
    started = await own_cluster.records(DownloadStarted)
    finished = await own_cluster.records(DownloadFinished)
    assert len(started) == 1
    assert {record.id for record in finished} == {"one", "two"}


async def test_unloading_a_model_ends_its_download_and_keeps_what_has_come(
    own_cluster: Cluster, hub: SmallHub
) -> None:
    hub.model(TINY, 6 * 1024 * 1024)
    hub.rates["model.safetensors"] = 1024 * 1024
    start(own_cluster)
    await own_cluster.ready()
    await own_cluster.load("chat", source=TINY, stands="")
    await own_cluster.logged(DownloadStarted, "here")
    assert (await own_cluster.nebula("unload", "chat")).code == 0
    failed = await own_cluster.logged(DownloadFailed, "here")
    assert (failed.reason, failed.retry_in) == ("it is no longer wanted here", None)
    hub.rates.clear()
    await own_cluster.load("again", source=TINY)
    assert await own_cluster.records(DownloadFinished) != []


async def test_progress_of_a_download_is_shown_while_a_model_loads(
    own_cluster: Cluster, hub: SmallHub
) -> None:
    hub.rates["model.safetensors"] = 100_000
    start(own_cluster)
    await own_cluster.ready()
    await own_cluster.load("chat", source=TINY, stands="")
    await own_cluster.logged(DownloadStarted, "here")
    async with own_cluster.http() as http:
        (model,) = (await http.get("/admin/models")).json()
    assert "is fetching lab/tiny: " in model["status"]["detail"], model
