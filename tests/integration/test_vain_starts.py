"""An engine that can never start is started once, and what to do about it is told."""

from pathlib import Path

import pytest

from nebula.events.vocabulary import DownloadFinished, EngineFailed, EngineStarted
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


async def test_a_misspelt_option_is_tried_once_and_named(cluster: Cluster) -> None:
    await cluster.ready()
    await cluster.load("typo", options={"simulate-typo": 1}, stands="failed")
    failed = [
        record.content for record in await cluster.records(EngineFailed) if record.id == "typo-0"
    ]
    assert len(failed) == 1
    assert isinstance(failed[0], EngineFailed)
    assert (failed[0].attempt, failed[0].retry_in, failed[0].exit_code) == (1, None, 2)
    assert "unrecognized arguments: --simulate-typo" in failed[0].reason
    assert "load it again without that option" in failed[0].reason
    why = await cluster.nebula("why", "typo")
    assert "gave up after 1 attempt: error: unrecognized arguments" in why.out
    await cluster.nebula("unload", "typo")


async def test_a_change_that_can_never_start_is_taken_back_at_once(cluster: Cluster) -> None:
    await cluster.ready()
    await cluster.load("sound")
    await cluster.nebula(
        "load", "simulated", "--id", "sound", "--memory", "128MiB", "--option", "simulate-none=1"
    )
    state = await cluster.until(
        lambda state: bool(state.models["sound"].rolled_back), "it went back"
    )
    assert "unrecognized arguments: --simulate-none" in state.models["sound"].rolled_back
    failed = [record for record in await cluster.records(EngineFailed) if "sound" in record.id]
    assert len(failed) == 1
    await cluster.nebula("unload", "sound")


async def test_a_folder_that_holds_no_model_is_not_started_before_it_does(
    own_cluster: Cluster, tmp_path: Path
) -> None:
    cluster, folder = own_cluster, tmp_path / "half"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"")
    cluster.start_all()
    await cluster.ready()
    await cluster.load("half", source=str(folder), stands="")
    stood = await cluster.stands("half", "unschedulable")
    assert f"{folder} does not hold a model: it has no config.json" in stood.detail
    assert not await cluster.records(EngineStarted)
    # With its description elsewhere the same folder is one.
    await cluster.load("half", source=str(folder), options={"hf-config-path": "/x"}, stands="")
    await cluster.until(
        lambda state: not state.nodes["here"].weights[str(folder)].reason, "it is found"
    )
    assert await cluster.records(DownloadFinished)
