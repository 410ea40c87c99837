"""Where a secret of a load request can be seen, and where not; what files others may read."""

import asyncio
import json
import os
from pathlib import Path

import psutil
import pytest

from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

SECRET = "abcSECRET123"


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        env, options = {"HF_TOKEN": SECRET}, {"hf-token": SECRET}
        await cluster.load("chat", name="org/chat", env=env, options=options)
        source = f"https://user:{SECRET}@models.invalid/m"
        await cluster.load("remote", source=source, replicas=0, stands="")

    asyncio.run(load())


@pytest.mark.parametrize(
    "line",
    ["events --json", "events", "state --json", "state", "status --json", "status", "models --json",
     "replicas --json", "nodes --json", "why chat", "why chat --json", "diff 1 4 --json", "diff 1",
     "export -", "logs chat-0"],
)  # fmt: skip
async def test_no_command_shows_it(cluster: Cluster, line: str) -> None:
    told = await cluster.nebula(*line.split())
    assert told.code == 0, told.err
    assert told.out
    assert SECRET not in told.out + told.err


@pytest.mark.parametrize(
    "path",
    ["/admin/models", "/admin/models/chat", "/admin/replicas", "/admin/nodes", "/admin/state",
     "/admin/state?at=4", "/admin/events", "/v1/models", "/v1/models/remote"],
)  # fmt: skip
async def test_no_answer_holds_it(cluster: Cluster, path: str) -> None:
    async with cluster.http() as http:
        answer = await http.get(path)
    assert answer.status_code == 200
    assert SECRET not in answer.text
    assert ("***" in answer.text) == (path != "/admin/nodes"), "only where one belongs"


async def test_the_engine_gets_it_and_its_command_line_does_not(cluster: Cluster) -> None:
    (engine,) = {each.pid: each for each in cluster.engine_processes()}.values()
    assert psutil.Process(engine.pid).environ()["HF_TOKEN"] == SECRET
    assert not any(SECRET in word for word in engine.cmdline())


async def test_no_log_file_holds_it(cluster: Cluster) -> None:
    logs = [path for path in (cluster.folder / "home").rglob("*.log*") if path.is_file()]
    assert logs
    assert not any(SECRET.encode() in path.read_bytes() for path in logs)


async def test_it_is_told_that_the_log_holds_it(cluster: Cluster) -> None:
    assert (
        "chat: HF_TOKEN, hf-token are in the log in clear\n" in (await cluster.nebula("status")).out
    )
    checked = await cluster.nebula("snapshots", "check")
    assert "events hold secrets in clear" in checked.err
    load = await cluster.nebula(
        "load", "simulated", "--id", "later", "--env", "API_KEY=x", "--replicas", "0", "--no-wait"
    )
    assert "API_KEY is in the log in clear" in load.err
    assert load.code == 0


async def test_what_was_refused_is_not_told_as_recorded(cluster: Cluster) -> None:
    line = ("--id", "sec", "--env", "HF_TOKEN=hf_x", "--option", "api-key=K")
    told = await cluster.nebula("load", "simulated", *line)
    assert told.code == 1
    assert "'api-key' is set by Nebula itself" in told.err
    assert "in the log" not in told.err


async def test_another_source_under_a_known_id_is_told(cluster: Cluster) -> None:
    line = ("--replicas", "0", "--no-wait")
    assert "is now from" not in (await cluster.nebula("load", "org/foo", *line)).err
    told = await cluster.nebula("load", "other/foo", *line)
    assert (
        "foo was loaded from org/foo, and is now from other/foo "
        "(--id OTHER would load it beside that)"
    ) in told.err


async def test_of_an_adapter_it_is_told_that_it_is_to_be_unloaded(cluster: Cluster) -> None:
    line = ("load", "simulated", "--id", "m3", "--replicas", "0", "--no-wait", "--lora")
    assert (await cluster.nebula(*line, "--adapter", "p=simulated")).code == 0
    told = await cluster.nebula("adapters", "unload", "m3", "p", "--no-wait")
    assert told.out.startswith("m3: asked to unload adapter p, event "), told.err


async def test_what_stands_for_it_is_not_taken_for_it(cluster: Cluster) -> None:
    async with cluster.http() as http:
        spec = (await http.get("/admin/models/chat")).json()["spec"]
        answer = await http.post("/admin/models", json={"id": "chat", **spec})
    assert answer.status_code == 400
    assert "stands for a secret" in answer.json()["error"]["message"]


async def test_an_export_is_masked_and_an_import_wants_it_whole(
    cluster: Cluster, own_cluster: Cluster, tmp_path: Path
) -> None:
    own_cluster.start("nats")
    masked, whole = tmp_path / "masked.jsonl", tmp_path / "whole.jsonl"
    told = await cluster.nebula("export", str(masked))
    assert "are masked in it" in told.err
    assert SECRET not in masked.read_text()
    assert (await cluster.nebula("replay", "--log", str(masked))).code == 0
    refused = await own_cluster.nebula("import", str(masked))
    assert refused.code == 1
    assert "export it again with --secrets" in refused.err
    told = await cluster.nebula("export", "--secrets", str(whole))
    assert "protect it accordingly" in told.err
    assert SECRET in whole.read_text()
    assert masked.stat().st_mode & 0o077 == 0
    imported = await own_cluster.nebula("import", str(whole), "--json")
    assert imported.code == 0, imported.err
    assert json.loads(imported.out)["written"] > 0


async def test_other_users_may_not_read_what_lies_there(cluster: Cluster) -> None:
    home = cluster.folder / "home"
    found = [home, *home.rglob("*")]
    assert len(found) > 10
    open_to_others = [path for path in found if os.lstat(path).st_mode & 0o077]
    assert open_to_others == []
