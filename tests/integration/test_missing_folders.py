"""A folder that a node is known not to have: no engine is started for it, and it is told why."""

import json
from pathlib import Path

import pytest

from nebula.events.vocabulary import DownloadFailed, EngineFailed, EngineStarted
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("memory", ["128MiB", None])
async def test_a_model_whose_folder_is_nowhere_is_unschedulable_and_costs_nothing(
    cluster: Cluster, tmp_path: Path, memory: str | None
) -> None:
    name, folder = f"nowhere-{memory}", tmp_path / "nowhere"
    await cluster.ready()
    await cluster.load(name, source=str(folder), memory=memory, stands="")
    stood = await cluster.stands(name, "unschedulable")
    assert f"no node can serve {folder}: here: there is no {folder} on this node" in stood.detail
    state = await cluster.state()
    assert not state.models[name].assignments
    assert not any(replica.model == name for replica in state.replicas.values())
    records = await cluster.records(EngineStarted, EngineFailed)
    assert not [record for record in records if record.id.startswith(name)]
    why = await cluster.nebula("why", name)
    assert "looks again every half minute" in why.out


async def test_an_adapter_is_not_taken_for_a_model(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    await cluster.ready()
    await cluster.load("poet", source=str(tmp_path), stands="")
    stood = await cluster.stands("poet", "unschedulable")
    assert f"{tmp_path} is a LoRA adapter, not a model: load its base model" in stood.detail


async def test_a_folder_that_comes_later_is_found_without_anybody_asking(
    own_cluster: Cluster, tmp_path: Path
) -> None:
    cluster, folder = own_cluster, tmp_path / "model"
    cluster.start_all()
    await cluster.ready()
    await cluster.load("late", source=str(folder), stands="unschedulable")
    told = await cluster.records(DownloadFailed)
    assert [record.id for record in told] == ["here"]
    await cluster.nebula("load", str(folder), "--id", "late", "--memory", "128MiB", "--no-wait")
    await cluster.stands("late", "unschedulable")
    assert len(await cluster.records(DownloadFailed)) == 1, "what is known is not told again"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({}))
    await cluster.stands("late", patience=45)  # without a request: it is looked for by itself
    state = await cluster.state()
    assert state.nodes["here"].weights[str(folder)].whole
    await cluster.nebula("unload", "late")
    await cluster.until(
        lambda state: str(folder) not in state.nodes["here"].weights, "it is forgotten"
    )
